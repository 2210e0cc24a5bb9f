"""The tree of nodes, by absolute path, with the accounts of what each domain owns.

A node is an immutable value: to change it, another one is put in its place. So a transaction finds out
whether a node changed by comparing identities, and needs no copy of the tree. The tree is changed in one way
only, by `apply`, which puts and drops what a transaction has prepared; it updates the accounts, and notes
each change in a journal for whoever saves them.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from xbd.xenstore.paths import INTRODUCED, RELEASED, ROOT, child_of, name_of, parent_of
from xbd.xenstore.permissions import PRIVATE, Permissions
from xbd.xenstore.quota import Account, Quotas, size_of


class Node(NamedTuple):
    """One node; *children* are their names, oldest first, *generation* the number of the change that made it."""

    value: bytes
    permissions: Permissions
    children: tuple[bytes, ...]
    generation: int


# The special names have permissions; they are kept like nodes, but are nobody's children.
_SPECIAL: Final = (INTRODUCED, RELEASED)
Change = tuple[bytes, Node | None]


def weight_of(path: bytes, node: Node) -> int:
    """Tell how many bytes of its owner's memory a node takes: itself, its name, and its children's names in it."""
    return len(path) + size_of(node.value, len(node.permissions)) + len(node.children)


def named_in(node: Node) -> set[int]:
    """List the domains that a node's permissions name, without dom0."""
    return {entry.domid for entry in node.permissions if entry.domid}


class Tree:
    """All nodes.

    Attributes: *generation*: number of the last change; *quotas*; *accounts*: what each domain has; *journal*: the changes since
    it was last emptied; None: they are not collected.
    """

    def __init__(self) -> None:
        self.generation = 0
        self.quotas = Quotas()
        self.accounts: dict[int, Account] = {}
        self.journal: list[Change] | None = None
        self._nodes: dict[bytes, Node] = {}
        # By domid: the nodes whose permissions name it. Dom0 is named everywhere, and never goes.
        self._named: dict[int, set[bytes]] = {}
        # `find` is the dictionary's own method: no Python call around it.
        self.find = self._nodes.get
        for path in (ROOT, *_SPECIAL):
            self._put(path, Node(b"", PRIVATE, (), 0))

    def __len__(self) -> int:
        return len(self._nodes) - len(_SPECIAL)

    def account(self, domid: int) -> Account:
        """Tell what a domain has, to read and to change."""
        account = self.accounts.get(domid)
        if account is None:
            account = self.accounts[domid] = Account(quotas=self.quotas)
        return account

    def items(self) -> Iterator[tuple[bytes, Node]]:
        """List all nodes, special names among them, parents before their children."""
        yield from ((path, self._nodes[path]) for path in _SPECIAL)
        waiting = [ROOT]
        while waiting:
            path = waiting.pop()
            node = self._nodes[path]
            yield path, node
            waiting += [child_of(path, name) for name in reversed(node.children)]

    def naming(self, domid: int) -> list[bytes]:
        """List the nodes whose permissions name a domain other than dom0, parents before their children."""
        return sorted(self._named.get(domid, ()))

    def apply(self, changes: Mapping[bytes, Node | None]) -> None:
        """Put each node in its place; None: there is none any more. Together they leave a tree."""
        for path, node in changes.items():
            if node is None:
                self._drop(path)
            else:
                self._put(path, node)
        if self.journal is not None:
            self.journal += changes.items()

    def _put(self, path: bytes, node: Node) -> None:
        before = self._nodes.get(path)
        self._nodes[path] = node
        if before is None or before.permissions != node.permissions:
            if before is not None:
                self._unname(path, before)
            for domid in named_in(node):
                self._named.setdefault(domid, set()).add(path)
        if before is not None:
            self._count(path, before, -1)
        self._count(path, node, 1)

    def _drop(self, path: bytes) -> None:
        before = self._nodes.pop(path, None)
        if before is not None:
            self._unname(path, before)
            self._count(path, before, -1)

    def _unname(self, path: bytes, node: Node) -> None:
        for domid in named_in(node):
            paths = self._named[domid]
            paths.remove(path)
            if not paths:
                del self._named[domid]

    def _count(self, path: bytes, node: Node, sign: int) -> None:
        account = self.account(node.permissions[0].domid)
        account.nodes += sign
        account.node_bytes += sign * weight_of(path, node)

    def restore(self, nodes: Iterable[tuple[bytes, bytes, Permissions]]) -> None:
        """Put nodes that were saved, parents first; who is nobody's child becomes its parent's last one."""
        for path, value, permissions in nodes:
            self.generation += 1
            before = self._nodes.get(path)
            self._put(path, Node(value, permissions, before.children if before else (), self.generation))
            if before is None and path not in _SPECIAL:
                parent = self._nodes[parent_of(path)]
                self._put(parent_of(path), parent._replace(children=(*parent.children, name_of(path))))

    def check(self) -> list[str]:
        """Recompute everything; name what does not hold."""
        reached = dict(self.items())
        violations = [f"{path!r} is nobody's child" for path in self._nodes.keys() - reached.keys()]
        violations += [
            f"{path!r} has a child twice" for path, n in reached.items() if len(set(n.children)) < len(n.children)
        ]
        named: dict[int, set[bytes]] = {}
        for path, node in self._nodes.items():
            for domid in named_in(node):
                named.setdefault(domid, set()).add(path)
        if named != self._named:
            violations.append(f"{sorted(named)} are named, expected {sorted(self._named)} with the same nodes")
        counted: dict[int, list[int]] = {}
        for path, node in self._nodes.items():
            account = counted.setdefault(node.permissions[0].domid, [0, 0])
            account[0] += 1
            account[1] += weight_of(path, node)
        for domid, account_kept in self.accounts.items():
            kept = [account_kept.nodes, account_kept.node_bytes]
            if kept != counted.get(domid, [0, 0]):
                violations.append(f"d{domid} has {counted.get(domid)}, its account says {kept}")
        return violations
