"""Transactions: changes that are prepared apart from the tree, and applied all at once or not at all.

A transaction sees each node as it was when it first read it, with its own changes on top. It remembers every
node that it read, listed, overwrote or found missing (for a missing one also the nearest node above, whose
permissions decide whether it may know that). If any of these was replaced when it is committed, all of it is
refused with EAGAIN. Creating or removing a child replaces its parent; giving a child another value does not.

A single request that changes something is a transaction of its own, so that one that fails half way,
because of a quota for example, leaves nothing behind (XSA-415). One that is held, over several requests, can only fail
(ENOMEM) after it read too many nodes, or a node grew too large in it, as in Xen.

Source: Xen tools/xenstore/xenstored_transaction.c, access_node and check_transactions (4.17), and what
that daemon answers.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from xbd.xenstore import quota
from xbd.xenstore.errors import StoreError
from xbd.xenstore.paths import child_of, has_parent, name_of, parent_of
from xbd.xenstore.permissions import Permissions
from xbd.xenstore.quota import size_of
from xbd.xenstore.tree import Node, Tree, weight_of


class WatchedChange(NamedTuple):
    """A change that watches fire for: *path* changed; *exact*: only watches on just this path fire.

    *nodes*: a connection that may read none of them gets no event (XSA-115): the node as it was, and as it is with its
    parent; of one that is gone the parent counts as it was, or in a held transaction not at all.
    """

    path: bytes
    exact: bool
    nodes: tuple[Node | None, ...]

    @property
    def readers(self) -> tuple[Permissions, ...]:
        """The permission lists that say who may hear of it."""
        return tuple(node.permissions for node in self.nodes if node)


class Transaction:
    """A view of *tree* with changes of its own.

    Args:
        tree: what it is applied to.
        limited: whether it is an unprivileged domain's: what it reads, and what its nodes' owners get, is bounded.
        held: whether it goes on over several requests.

    Attributes: *began*: the tree's generation at its start; *bytes_held*: what it takes of its domain's memory;
    *changed*: the nodes that are to be put, or dropped (None).
    """

    def __init__(self, tree: Tree, *, limited: bool = False, held: bool = False) -> None:
        self.began = tree.generation
        self.bytes_held = quota.HANDLE_BYTES
        self.changed: dict[bytes, Node | None] = {}
        # Changed paths in the order of change, and whether only watches on just that path fire.
        self._happened: dict[bytes, bool] = {}
        self._seen: dict[bytes, Node | None] = {}
        # By owner: how many nodes and bytes more than in the tree.
        self._more: dict[int, list[int]] = {}
        self._created = self._failed = False
        self._tree = tree
        self._limited = limited
        self._held = held

    def find(self, path: bytes) -> Node | None:
        """Find a node, and remember it. Raises StoreError: ENOSPC, it has read too many."""
        if path in self.changed:
            return self.changed[path]
        if path in self._seen:
            return self._seen[path]
        if self._limited and len(self._seen) >= self._tree.quotas.transaction_nodes:
            raise self._fail("ENOSPC", f"a transaction of more than {len(self._seen)} nodes")
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
        self._put(parent_path, parent._replace(children=kept, generation=self._next()), sized=False)
        for one in doomed:
            self._put(one, None)
        # Watches on nodes that are removed with it fire first.
        self._finish([(one, one != path) for one in doomed])

    def subtree(self, path: bytes) -> list[bytes]:
        """List a node and all below it, children first; a loop, not recursion: guests nest nodes deeply (XSA-418)."""
        found, waiting = [], [(path, False)]
        while waiting:
            path, is_done = waiting.pop()
            if is_done:
                found.append(path)
                continue
            node = self.find(path)
            if node is None:
                raise self._torn(path)
            waiting.append((path, True))
            waiting += [(child_of(path, name), False) for name in reversed(node.children)]
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
        self._created = True
        if owner is not None:
            self._check_room(owner, len(missing))
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

    def _put(self, path: bytes, node: Node | None, *, sized: bool = True) -> None:
        """Change a node. Raises StoreError: ENOSPC, it is *sized*, and larger than its quota."""
        if self._limited:
            self._count(self.changed[path] if path in self.changed else self._seen.get(path), path, -1)
            self.bytes_held += self._count(node, path, 1) or len(path)
            if node is not None and sized:
                size = size_of(node.value, len(node.permissions)) + sum(map(len, node.children)) + len(node.children)
                if size >= self._tree.quotas.node_size:
                    raise self._fail("ENOSPC", f"{path!r} of {size} bytes, less than {self._tree.quotas.node_size} fit")
        self.changed[path] = node

    def _count(self, node: Node | None, path: bytes, sign: int) -> int:
        if node is None:
            return 0
        weight = weight_of(path, node)
        more = self._more.setdefault(node.permissions[0].domid, [0, 0])
        more[0] += sign
        more[1] += sign * weight
        return weight

    def _fail(self, errno: str, message: str) -> StoreError:
        """Note that it cannot be committed any more: what the request at hand has changed already stays in it."""
        self._failed = True
        return StoreError(errno, message)

    def _finish(self, happened: Iterable[tuple[bytes, bool]]) -> None:
        """End a request's changes. Raises StoreError: ENOMEM, they exceed a domain's memory."""
        self._check_memory()
        for path, exact in happened:
            self._happened[path] = exact and self._happened.get(path, True)

    # -- the end

    def _check_memory(self) -> None:
        for owner, (_, more_bytes) in self._more.items():
            if owner and more_bytes > 0:
                try:
                    quota.check_memory(self._tree.account(owner), more_bytes)
                except StoreError:
                    self._failed = True
                    raise

    def _check_room(self, owner: int, count: int) -> None:
        """Check that a domain may have *count* new nodes. Raises StoreError: ENOSPC.

        As in Xen, those that a held transaction made before count in the end, and then reaching the quota is too many.
        """
        account = self._tree.account(owner)
        if account.nodes + (1 if self._held else count) > account.quotas.nodes:
            raise StoreError("ENOSPC", f"d{owner} owns {account.nodes} nodes, at most {account.quotas.nodes}")

    def _check_rooms(self) -> None:
        if not (self._held and self._limited and self._created):
            return
        for owner, (nodes, _) in self._more.items():
            account = self._tree.account(owner)
            if owner and nodes and account.nodes + nodes >= account.quotas.nodes:
                raise StoreError("ENOSPC", f"d{owner} would own {account.nodes + nodes} nodes in the end")

    def commit(self, released: Mapping[int, int]) -> list[WatchedChange]:
        """Apply it; returns the changes that watches fire for.

        *released*: by domid, when the last domain with it was removed: nodes made for that one are not given to the
        next (XSA-417).

        Raises:
            StoreError: ENOMEM, a request in it was refused for want of room; ENOSPC or ENOMEM, its domain exceeded its
                quota meanwhile; EAGAIN, a node that it read was replaced. The tree is as it was.
        """
        if self._failed:
            raise StoreError("ENOMEM", "a request in it was refused for want of room")
        self._check_rooms()
        find = self._tree.find
        for path, node in self._seen.items():
            if find(path) is not node:
                raise StoreError("EAGAIN", f"{path!r} was changed by somebody else")
        self._refuse_gone(released)
        self._check_memory()
        happened = self._in_order_of_access() if self._held else self._in_order_of_change()
        self._tree.apply(self.changed)
        return happened

    def _in_order_of_change(self) -> list[WatchedChange]:
        find, changes = self._tree.find, []
        for path, exact in self._happened.items():
            above = parent_of(path) if has_parent(path) else None
            parent = find(above) if above else None
            after = self.changed[path]
            if after is not None and above in self.changed:
                parent = self.changed[above]
            changes.append(WatchedChange(path, exact, (find(path), after, parent)))
        return changes

    def _in_order_of_access(self) -> list[WatchedChange]:
        """As in Xen a node is told when it is put, its parent as it is then; what was made and removed is not told."""
        changes = []
        now: dict[bytes, Node | None] = {}
        for path, before in self._seen.items():
            after = now[path] = self.changed.get(path, before)
            if path in self._happened and (before is not None or after is not None):
                above = parent_of(path) if after is not None and has_parent(path) else None
                parent = None if above is None else now[above] if above in now else self._tree.find(above)
                changes.append(WatchedChange(path, self._happened[path], (before, after, parent)))
        return changes

    def _refuse_gone(self, released: Mapping[int, int]) -> None:
        if not released or max(released.values()) <= self.began:
            return
        for path, node in self.changed.items():
            for entry in node.permissions if node else ():
                if released.get(entry.domid, 0) > self.began:
                    raise StoreError("EAGAIN", f"{path!r} was for d{entry.domid}, which is gone")
