"""The naive model of a store: whole copies, no indices, no accounts; the real one must agree with it."""

from dataclasses import dataclass, field, replace

Permissions = list[tuple[str, int]]


@dataclass
class NaiveNode:
    """A node; *version* is new whenever value, permissions or list of children is."""

    value: bytes
    permissions: Permissions
    version: int


@dataclass
class NaiveClient:
    """A connection: its watches as (path, token) in order, and its open transactions."""

    domid: int
    watches: list[tuple[str, str]] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    transactions: dict[int, "NaiveTransaction"] = field(default_factory=dict)
    last: int = 0


@dataclass
class NaiveTransaction:
    """Its own version of what it looked at, which versions those were of, and what happened."""

    nodes: dict[str, NaiveNode] = field(default_factory=dict)
    looked_at: dict[str, int | None] = field(default_factory=dict)
    happened: dict[str, bool] = field(default_factory=dict)


def above(path: str) -> str:
    """Name the parent."""
    return path.rpartition("/")[0] or "/"


def lineage(path: str) -> list[str]:
    """List a path and all above it."""
    found = [path]
    while found[-1] != "/":
        found.append(above(found[-1]))
    return found


def allows(node: NaiveNode, domid: int, letter: str) -> bool:
    """Tell whether a domain may read (r) or write (w) a node."""
    if domid in (0, node.permissions[0][1]):
        return True
    named = [access for access, who in node.permissions[1:] if who == domid]
    return letter in {"n": "", "r": "r", "w": "w", "b": "rw"}[named[0] if named else node.permissions[0][0]]


class Naive:
    """The model. Every operation answers as the real one does: bytes or a list, or an error's name."""

    def __init__(self) -> None:
        self.nodes = {"/": NaiveNode(b"", [("n", 0)], 0)}
        self.clients: list[NaiveClient] = []
        self.versions = 0
        self._looked_at: dict[str, int | None] = {}

    def _next(self) -> int:
        self.versions += 1
        return self.versions

    def _view(self, client: NaiveClient, transaction: int) -> dict[str, NaiveNode]:
        if not transaction:
            self._looked_at = {}
            return self.nodes
        held = client.transactions[transaction]
        self._looked_at = held.looked_at
        own = {path: node for path, node in held.nodes.items() if path in held.looked_at}
        held.nodes = {path: replace(node) for path, node in self.nodes.items() if path not in held.looked_at} | own
        return held.nodes

    def is_doomed(self, client: NaiveClient, transaction: int, *, for_good: bool = False) -> bool:
        """Tell whether a transaction would fail now: what it sees is of no more interest.

        *for_good*: whether it will in the end, as well: what it found missing may be missing again.
        """
        looked_at = client.transactions[transaction].looked_at if transaction else {}
        changed = [
            version
            for path, version in looked_at.items()
            if (self.nodes[path].version if path in self.nodes else None) != version
        ]
        return any(version is not None for version in changed) if for_good else bool(changed)

    def _look(self, nodes: dict[str, NaiveNode], path: str) -> NaiveNode | None:
        node = nodes.get(path)
        self._looked_at.setdefault(path, node.version if node else None)
        return node

    def children(self, nodes: dict[str, NaiveNode], path: str) -> set[str]:
        """List the names of a node's children."""
        return {one.rpartition("/")[2] for one in nodes if one != "/" and above(one) == path}

    def _find(
        self, nodes: dict[str, NaiveNode], client: NaiveClient, path: str, letter: str, *, owned: bool = False
    ) -> NaiveNode | str:
        node = self._look(nodes, path)
        if node and allows(node, client.domid, letter) and (not owned or client.domid in (0, node.permissions[0][1])):
            return node
        for one in [*lineage(path)[1:], "/"]:
            if (higher := self._look(nodes, one)) is not None:
                return "ENOENT" if node is None and allows(higher, client.domid, letter) else "EACCES"
        raise AssertionError(path)

    # -- operations

    def read(self, client: NaiveClient, transaction: int, path: str) -> bytes | str:
        """READ."""
        node = self._find(self._view(client, transaction), client, path, "r")
        return node if isinstance(node, str) else node.value

    def names(self, client: NaiveClient, transaction: int, path: str) -> set[str] | str:
        """DIRECTORY, without an order."""
        nodes = self._view(client, transaction)
        node = self._find(nodes, client, path, "r")
        return node if isinstance(node, str) else self.children(nodes, path)

    def permissions(self, client: NaiveClient, transaction: int, path: str) -> str:
        """GET_PERMS."""
        node = self._find(self._view(client, transaction), client, path, "r")
        return node if isinstance(node, str) else " ".join(f"{access}{who}" for access, who in node.permissions)

    def write(self, client: NaiveClient, transaction: int, path: str, value: bytes, *, mkdir: bool = False) -> str:
        """WRITE, or MKDIR."""
        nodes = self._view(client, transaction)
        found = self._find(nodes, client, path, "w")
        if isinstance(found, NaiveNode):
            if mkdir:
                return "OK"
            nodes[path] = NaiveNode(value, found.permissions, self._next())
        elif found == "EACCES":
            return found
        else:
            missing = [one for one in lineage(path) if one not in nodes]
            highest = nodes[above(missing[-1])]
            highest.version = self._next()
            permissions = list(highest.permissions)
            if client.domid:
                permissions[0] = (permissions[0][0], client.domid)
            for one in missing:
                self._look(nodes, one)
                nodes[one] = NaiveNode(value if one == path else b"", permissions, self._next())
            self._look(nodes, above(missing[-1]))
        self._happened(client, transaction, {path: False})
        return "OK"

    def rm(self, client: NaiveClient, transaction: int, path: str) -> str:
        """RM."""
        nodes = self._view(client, transaction)
        found = self._find(nodes, client, path, "w")
        if found == "EACCES" or path == "/":
            return "EACCES" if found == "EACCES" else "EINVAL"
        if found == "ENOENT":
            return "OK" if above(path) in nodes else "ENOENT"
        self._look(nodes, above(path))
        nodes[above(path)].version = self._next()
        doomed = [one for one in nodes if path in lineage(one)]
        for one in doomed:
            self._look(nodes, one)
        gone = {one: nodes.pop(one) for one in doomed}
        self._happened(client, transaction, {one: one != path for one in doomed}, gone)
        return "OK"

    def permit(self, client: NaiveClient, transaction: int, path: str, permissions: Permissions) -> str:
        """SET_PERMS."""
        nodes = self._view(client, transaction)
        found = self._find(nodes, client, path, "w", owned=True)
        if isinstance(found, str):
            return found
        if client.domid and permissions[0][1] != found.permissions[0][1]:
            return "EPERM"
        nodes[path] = NaiveNode(found.value, permissions, self._next())
        self._happened(client, transaction, {path: False}, {path: found})
        return "OK"

    def watch(self, client: NaiveClient, path: str, token: str) -> str:
        """WATCH."""
        if (path, token) in client.watches:
            return "EEXIST"
        client.watches.append((path, token))
        client.events.append(f"{path} {token}")
        return "OK"

    def unwatch(self, client: NaiveClient, path: str, token: str) -> str:
        """UNWATCH."""
        if (path, token) not in client.watches:
            return "ENOENT"
        client.watches.remove((path, token))
        return "OK"

    # -- transactions

    def start(self, client: NaiveClient) -> int:
        """TRANSACTION_START."""
        client.last += 1
        client.transactions[client.last] = NaiveTransaction()
        return client.last

    def end(self, client: NaiveClient, number: int, *, commit: bool) -> str:
        """TRANSACTION_END."""
        doomed, transaction = self.is_doomed(client, number), client.transactions.pop(number)
        if not commit or doomed:
            return "EAGAIN" if commit else "OK"
        before = self.nodes
        merged = dict(self.nodes)
        for path in transaction.looked_at:
            merged.pop(path, None)
            if path in transaction.nodes:
                merged[path] = transaction.nodes[path]
        self.nodes = merged
        self._tell(transaction.happened, before, held=True)
        return "OK"

    # -- events

    def _happened(
        self,
        client: NaiveClient,
        transaction: int,
        happened: dict[str, bool],
        before: dict[str, NaiveNode] | None = None,
    ) -> None:
        if transaction:
            told = client.transactions[transaction].happened
            told |= {path: exact and told.get(path, True) for path, exact in happened.items()}
        else:
            self._tell(happened, self.nodes | (before or {}))

    def _tell(self, happened: dict[str, bool], before: dict[str, NaiveNode], *, held: bool = False) -> None:
        for path, exact in happened.items():
            readable = [self.nodes.get(path), self.nodes.get(above(path))]
            old = before.get(path)
            if readable[0] is None:
                if held and old is None:
                    continue  # It was made and removed in the transaction.
                readable = [old, None if held else before.get(above(path))]
            elif old is not None and old.permissions != readable[0].permissions:
                readable.append(old)
            for client in self.clients:
                if client.domid and not any(node and allows(node, client.domid, "r") for node in readable):
                    continue
                for watched, token in client.watches:
                    if watched == path or (not exact and watched in lineage(path)):
                        client.events.append(f"{path} {token}")
