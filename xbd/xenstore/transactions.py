"""Changes prepared aside and applied at once, or not at all.

A transaction sees the tree as it was when it first looked at each node, with its own changes on top. It
remembers every node that it looked at: also one that it found missing (and then the nearest one above, which
said that it may know so), listed, or wrote over. If any of these is another node when it is committed, the
whole is refused with EAGAIN. Creating or removing a child replaces its parent; giving a child another value
does not.

A single request that changes something is a transaction of its own, so that one which fails half way,
because of a quota for example, leaves nothing behind (XSA-415).

Source: Xen tools/xenstore/xenstored_transaction.c, access_node and check_transactions (4.17), and what
that daemon answers.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from xbd.xenstore import quota
from xbd.xenstore.errors import StoreError
from xbd.xenstore.paths import child_of, has_parent, name_of, parent_of
from xbd.xenstore.permissions import Permissions
from xbd.xenstore.tree import Node, Tree, weight_of


class Happening(NamedTuple):
    """What watches are told: *path* changed; *exact*: only who watches just this path hears of it.

    *before*, *parent_before*: the node and its parent until then, for whom the node that has gone was to be read.
    """

    path: bytes
    exact: bool
    before: Node | None
    parent_before: Node | None


class Transaction:
    """A view of *tree* with changes of its own.

    Args:
        tree: what it is applied to.
        limited: whether it is an unprivileged domain's: how much it may look at, and give to whom, is bounded then.
        most: how many nodes such a one may look at.

    Attributes: *began*: the tree's generation at its start; *bytes_held*: what it takes of its domain's memory;
    *changed*: the nodes that are to be put, or dropped (None).
    """

    def __init__(self, tree: Tree, *, limited: bool = False, most: int = quota.TRANSACTION_NODES) -> None:
        self.began = tree.generation
        self.bytes_held = quota.HANDLE_BYTES
        self.changed: dict[bytes, Node | None] = {}
        # Paths that something happened to, in that order, and whether only exact watches hear of it.
        self._happened: dict[bytes, bool] = {}
        self._seen: dict[bytes, Node | None] = {}
        # By owner: how many nodes and bytes more than in the tree.
        self._more: dict[int, list[int]] = {}
        # What the request at hand has changed, with what was there before; `_seen` has it where that is None.
        self._undo: list[tuple[bytes, tuple[Node | None] | None]] = []
        self._tree = tree
        self._limited = limited
        self._most = most

    def find(self, path: bytes) -> Node | None:
        """Look at a node. Raises StoreError: ENOSPC, it has looked at too many."""
        if path in self.changed:
            return self.changed[path]
        if path in self._seen:
            return self._seen[path]
        if self._limited and len(self._seen) >= self._most:
            raise StoreError("ENOSPC", f"a transaction of more than {self._most} nodes")
        node = self._seen[path] = self._tree.find(path)
        self.bytes_held += len(path)
        return node

    # -- changes; each looks at all that it needs before it changes anything

    def write(self, path: bytes, value: bytes, owner: int | None) -> None:
        """Give a node a value, and make it where there is none, with all that is missing above it.

        *owner*: whose a new node is; None: its parent's list stands.
        """
        node = self.find(path)
        if node is None:
            self._create(path, value, owner)
        else:
            self._put(path, node._replace(value=value, generation=self._next()))
        self._finish([(path, False)])

    def set_permissions(self, path: bytes, node: Node, permissions: Permissions) -> None:
        """Give a node, as it was found, other permissions."""
        self._put(path, node._replace(permissions=permissions, generation=self._next()))
        self._finish([(path, False)])

    def replace_permissions(self, path: bytes, node: Node, permissions: Permissions) -> None:
        """Give a node, as it was found, other permissions, without a word to anybody."""
        self._put(path, node._replace(permissions=permissions, generation=self._next()))
        self._finish(())

    def remove(self, path: bytes) -> None:
        """Remove a node that is there, and is not the root, with all below it."""
        parent_path = parent_of(path)
        parent = self.find(parent_path)
        name = name_of(path)
        if parent is None or name not in parent.children:
            raise self._torn(path)
        doomed = self.subtree(path)
        kept = tuple(child for child in parent.children if child != name)
        self._put(parent_path, parent._replace(children=kept, generation=self._next()))
        for one in doomed:
            self._put(one, None)
        # Who watches just what goes with it hears of that first.
        self._finish([(one, one != path) for one in doomed])

    def subtree(self, path: bytes) -> list[bytes]:
        """List a node and all below it, children first; a loop, not recursion: guests nest nodes deeply (XSA-418)."""
        found, waiting = [], [path]
        while waiting:
            path = waiting.pop()
            node = self.find(path)
            if node is None:
                raise self._torn(path)
            found.append(path)
            waiting += [child_of(path, name) for name in node.children]
        found.reverse()
        return found

    def _torn(self, path: bytes) -> StoreError:
        """Say that a node and its parent do not fit: it looked at one before, at the other after somebody changed both."""
        return StoreError("EAGAIN", f"{path!r} was changed by somebody else, and this cannot be committed")

    def _create(self, path: bytes, value: bytes, owner: int | None) -> None:
        missing = []
        above: Node | None = None
        while above is None:
            missing.append(path)
            path = parent_of(path)
            above = self.find(path)
        permissions = above.permissions
        if owner is not None:
            permissions = (permissions[0]._replace(domid=owner), *permissions[1:])
        generation = self._next()
        name = name_of(missing[-1])
        # Somebody may have made it since it was found missing, and before this looked above: it fails in the end.
        children = above.children if name in above.children else (*above.children, name)
        self._put(path, above._replace(children=children, generation=generation))
        for one, below in zip(reversed(missing), (*reversed(missing[:-1]), None), strict=True):
            if below is None:
                self._put(one, Node(value, permissions, (), generation))
            else:
                self._put(one, Node(b"", permissions, (name_of(below),), generation))

    def _next(self) -> int:
        self._tree.generation += 1
        return self._tree.generation

    def _put(self, path: bytes, node: Node | None) -> None:
        self._undo.append((path, (self.changed[path],) if path in self.changed else None))
        self._count(path, self.changed[path] if path in self.changed else self._seen.get(path), -1)
        self.changed[path] = node
        self._count(path, node, 1)

    def _count(self, path: bytes, node: Node | None, sign: int) -> None:
        if node is not None and self._limited:
            weight = weight_of(path, node)
            more = self._more.setdefault(node.permissions[0].domid, [0, 0])
            more[0] += sign
            more[1] += sign * weight

    def _finish(self, happened: Iterable[tuple[bytes, bool]]) -> None:
        """End a request's changes. Raises StoreError: they are more than somebody may have, and undone."""
        try:
            self.check_quotas()
        except StoreError:
            for path, before in reversed(self._undo):
                self._count(path, self.changed[path], -1)
                if before is None:
                    del self.changed[path]
                    self._count(path, self._seen.get(path), 1)
                else:
                    self.changed[path] = before[0]
                    self._count(path, before[0], 1)
            raise
        finally:
            undone, self._undo = self._undo, []
        if self._limited:
            self.bytes_held += sum(self._weight_changed(path) for path, _ in undone)
        for path, exact in happened:
            self._happened[path] = exact

    def _weight_changed(self, path: bytes) -> int:
        node = self.changed[path]
        return len(path) if node is None else weight_of(path, node)

    # -- the end

    def check_quotas(self) -> None:
        """Refuse what would give some domain more than it may have. Raises StoreError: ENOSPC, ENOMEM."""
        if not self._limited:
            return
        for owner, (nodes, more_bytes) in self._more.items():
            if owner == 0:
                continue
            account = self._tree.account(owner)
            if nodes > 0 and account.nodes + nodes > quota.NODES:
                raise StoreError("ENOSPC", f"d{owner} would own {account.nodes + nodes} nodes, at most {quota.NODES}")
            if more_bytes > 0:
                quota.check_memory(account, more_bytes)

    def commit(self, released: Mapping[int, int]) -> list[Happening]:
        """Apply it; returns what happened.

        *released*: when domains went, by domid: what was made for one of them is not for the next of its number (XSA-417).

        Raises:
            StoreError: EAGAIN, something that it looked at has changed; ENOSPC or ENOMEM, its domain has come to have
                too much meanwhile. The tree is as it was.
        """
        find = self._tree.find
        for path, node in self._seen.items():
            if find(path) is not node:
                raise StoreError("EAGAIN", f"{path!r} was changed by somebody else")
        self._refuse_gone(released)
        self.check_quotas()
        happened = [
            Happening(path, exact, find(path), find(parent_of(path)) if has_parent(path) else None)
            for path, exact in self._happened.items()
        ]
        self._tree.apply(self.changed)
        return happened

    def _refuse_gone(self, released: Mapping[int, int]) -> None:
        if not released or max(released.values()) <= self.began:
            return
        for path, node in self.changed.items():
            for entry in node.permissions if node else ():
                if released.get(entry.domid, 0) > self.began:
                    raise StoreError("EAGAIN", f"{path!r} was for d{entry.domid}, which is gone")


def readers_of(tree: Tree, happening: Happening) -> tuple[Permissions, ...]:
    """List the permissions one of which must let a connection read, else it is not told (XSA-115).

    They are the node's and its parent's now, or, of a node that has gone, until then. Who could read it until its
    permissions were changed may hear of that.
    """
    path, _, before, parent_before = happening
    after = tree.find(path)
    if after is None:
        return tuple(node.permissions for node in (before, parent_before) if node)
    parent = tree.find(parent_of(path)) if has_parent(path) else None
    old = before if before and before.permissions != after.permissions else None
    return tuple(node.permissions for node in (after, parent, old) if node)
