"""Quotas: what one unprivileged domain may take of the store, and its account of what it has.

Limits are per domain, over all its connections: a node counts for its owner, and only a privileged
connection can change the owner. What a privileged connection does is not limited. CONTROL sets the limits while the
daemon runs.

Source: the defaults of Xen 4.17's xenstored (xenstored_core.c: quota_*); the memory quotas came with XSA-326.
"""

from dataclasses import dataclass, field
from typing import Final

from xbd.xenstore.errors import StoreError

NODES: Final = 1000
WATCHES: Final = 128
TRANSACTIONS: Final = 10
TRANSACTION_NODES: Final = 1024
NODE_BYTES: Final = 2048
PATH_BYTES: Final = 2048
PERMISSIONS: Final = 5
REQUESTS_OUTSTANDING: Final = 20
MEMORY_SOFT_BYTES: Final = 2 << 20
MEMORY_HARD_BYTES: Final = (2 << 20) + (1 << 19)

# What a node takes besides its bytes: its header and, for each entry, a permission (struct xs_tdb_record_hdr).
NODE_HEADER_BYTES: Final = 24
PERMISSION_BYTES: Final = 8
# What a watch, or an open transaction, takes besides its strings; generous, so that many small ones count.
HANDLE_BYTES: Final = 128


@dataclass(slots=True)
class Quotas:
    """The limits of a store, for each unprivileged domain.

    As in Xen, a domain with *watches* watches, or *transactions* transactions, is let in with one more, and a node is
    smaller than *node_size* bytes.
    """

    nodes: int = NODES
    watches: int = WATCHES
    transactions: int = TRANSACTIONS
    outstanding: int = REQUESTS_OUTSTANDING
    transaction_nodes: int = TRANSACTION_NODES
    memory: int = MEMORY_HARD_BYTES
    node_size: int = NODE_BYTES
    path_max: int = PATH_BYTES
    permissions: int = PERMISSIONS
    memory_soft: int = MEMORY_SOFT_BYTES


def size_of(value: bytes, permissions_count: int) -> int:
    """Tell how large a node is without the names of its children."""
    return NODE_HEADER_BYTES + PERMISSION_BYTES * permissions_count + len(value)


@dataclass(slots=True)
class Account:
    """What one domain has in the store.

    Attributes: *quotas*: its limits; *nodes* that it owns, *node_bytes* that they take; *watches*, *transactions* and *other_bytes* (of these,
    and of what waits for it to be read) of all its connections; *warned*: the log was told that it is beyond the soft
    quota.
    """

    nodes: int = 0
    node_bytes: int = 0
    watches: int = 0
    transactions: int = 0
    other_bytes: int = 0
    warned: bool = False
    quotas: Quotas = field(default_factory=Quotas)

    @property
    def memory_bytes(self) -> int:
        """All that it takes."""
        return self.node_bytes + self.other_bytes


def check_memory(account: Account, more_bytes: int) -> None:
    """Refuse a request that would take a domain beyond its memory quota. Raises StoreError: ENOMEM."""
    if account.memory_bytes + more_bytes > account.quotas.memory:
        raise StoreError("ENOMEM", f"{account.memory_bytes} + {more_bytes} bytes, at most {account.quotas.memory}")
