"""The domains that the store knows, and the removal of one's nodes and permissions."""

from dataclasses import dataclass
from typing import Final

from xbd.xenstore.paths import has_parent
from xbd.xenstore.permissions import PRIVATE, without
from xbd.xenstore.transactions import Transaction, WatchedChange
from xbd.xenstore.tree import Tree

DOM0: Final = 0


@dataclass(slots=True)
class Domain:
    """A domain that was introduced; *target*: the domain that it may act for (SET_TARGET), if any."""

    domid: int
    target: int | None = None


def forget(tree: Tree, domid: int) -> list[WatchedChange]:
    """Remove what a domain owned, and its entries in all permissions: the next one with its domid inherits nothing.

    The root and the special names become dom0's.
    """
    view = Transaction(tree)
    for path in tree.naming(domid):
        node = view.find(path)
        if node is None:
            continue  # It was removed with a node above it.
        if node.permissions[0].domid == domid and has_parent(path):
            view.remove(path)
        elif node.permissions[0].domid == domid:
            view.replace_permissions(path, node, PRIVATE)
        else:
            view.replace_permissions(path, node, without(node.permissions, domid))
    happened = view.commit({})
    account = tree.account(domid)
    assert (account.nodes, account.memory_bytes) == (0, 0), f"d{domid} is gone and has {account}"
    del tree.accounts[domid]
    return happened
