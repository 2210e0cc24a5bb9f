"""Transactions: changes that are prepared apart from the tree, and applied all at once or not at all.

A transaction sees each node as it was when it first read it, with its own changes on top. It remembers every
node that it read, listed, overwrote or found missing (for a missing one also the nearest node above, whose
permissions decide whether it may know that). If any of these was replaced when it is committed, all of it is
refused with EAGAIN. Creating or removing a child replaces its parent; giving a child another value does not.

A single request that changes something is a transaction of its own, so that one that fails half way,
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


class WatchedChange(NamedTuple):
    """A change that watches fire for: *path* changed; *exact*: only watches on just this path fire.

    *before*, *parent_before*: the node and its parent before the change; they say who may hear of a node that is gone.
    """

    path: bytes
    exact: bool
    before: Node | None
    parent_before: Node | None


class Transaction:
    """A view of *tree* with changes of its own.

    Args:
        tree: what it is applied to.
        limited: whether it is an unprivileged domain's: what it reads, and what its nodes' owners get, is bounded.
        most: how many nodes a limited one may read.

    Attributes: *began*: the tree's generation at its start; *bytes_held*: what it takes of its domain's memory;
    *changed*: the nodes that are to be put, or dropped (None).
    """

    def __init__(self, tree: Tree, *, limited: bool = False, most: int = quota.TRANSACTION_NODES) -> None:
        self.began = tree.generation
        self.bytes_held = quota.HANDLE_BYTES
        self.changed: dict[bytes, Node | None] = {}
        # Changed paths in the order of change, and whether only watches on just that path fire.
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
        """Find a node, and remember it. Raises StoreError: ENOSPC, it has read too many."""
        if path in self.changed:
            return self.changed[path]
        if path in self._seen:
            return self._seen[path]
        if self._limited and len(self._seen) >= self._most:
            raise StoreError("ENOSPC", f"a transaction of more than {self._most} nodes")
        node = self._seen[path] = self._tree.find(path)
        self.bytes_held += len(path)
        return node

    # -- changes; each reads all that it needs before it changes anything

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
        """Give a node, as it was found, other permissions, without an event."""
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
        # Watches on nodes that are removed with it fire first.
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
        """Make the error for a node that does not match its parent: both were changed between the two reads."""
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
        """End a request's changes. Raises StoreError: they exceed a domain's quota, and are undone."""
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
        """Check the quota of every domain that gets nodes. Raises StoreError: ENOSPC, ENOMEM."""
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

    def commit(self, released: Mapping[int, int]) -> list[WatchedChange]:
        """Apply it; returns the changes that watches fire for.

        *released*: by domid, when the last domain with it was removed: nodes made for that one are not given to the
        next
        (XSA-417).

        Raises:
            StoreError: EAGAIN, a node that it read was replaced; ENOSPC or ENOMEM, its domain exceeded its quota
                meanwhile. The tree is as it was.
        """
        find = self._tree.find
        for path, node in self._seen.items():
            if find(path) is not node:
                raise StoreError("EAGAIN", f"{path!r} was changed by somebody else")
        self._refuse_gone(released)
        self.check_quotas()
        happened = [
            WatchedChange(path, exact, find(path), find(parent_of(path)) if has_parent(path) else None)
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


def readers_of(tree: Tree, change: WatchedChange) -> tuple[Permissions, ...]:
    """List the permission lists of a change; a connection that none of them lets read gets no event (XSA-115).

    They are those of the node and its parent, as they are now, or for a node that is gone as they were. A connection
    that could read a node until its permissions were changed may hear of that change.
    """
    path, _, before, parent_before = change
    after = tree.find(path)
    if after is None:
        return tuple(node.permissions for node in (before, parent_before) if node)
    parent = tree.find(parent_of(path)) if has_parent(path) else None
    old = before if before and before.permissions != after.permissions else None
    return tuple(node.permissions for node in (after, parent, old) if node)
