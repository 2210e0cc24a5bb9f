"""Quotas: what one unprivileged domain may take of the store, and its account of what it has.

Limits are per domain, over all its connections: a node counts for its owner, and only a privileged
connection can change the owner. What a privileged connection does is not limited.

Source: the defaults of Xen 4.17's xenstored (xenstored_core.c: quota_*); the memory quotas came with XSA-326.
"""

from dataclasses import dataclass
from typing import Final

from xbd.xenstore.errors import StoreError

NODES: Final = 1000
WATCHES: Final = 128
TRANSACTIONS: Final = 10
TRANSACTION_NODES: Final = 1024
NODE_BYTES: Final = 2048
PERMISSIONS: Final = 5
REQUESTS_OUTSTANDING: Final = 20
MEMORY_SOFT_BYTES: Final = 2 << 20
MEMORY_HARD_BYTES: Final = (2 << 20) + (1 << 19)

# What a node takes besides its bytes: its header and, for each entry, a permission (struct xs_tdb_record_hdr).
NODE_HEADER_BYTES: Final = 24
PERMISSION_BYTES: Final = 8
# What a watch, or an open transaction, takes besides its strings; generous, so that many small ones count.
HANDLE_BYTES: Final = 128


def size_of(value: bytes, permissions_count: int) -> int:
    """Tell how large a node is, as its quota counts."""
    return NODE_HEADER_BYTES + PERMISSION_BYTES * permissions_count + len(value)


@dataclass(slots=True)
class Account:
    """What one domain has in the store.

    Attributes: *nodes* that it owns, *node_bytes* that they take; *watches*, *transactions* and *other_bytes* (of these,
    and of what waits for it to be read) of all its connections; *warned*: the log was told that it is beyond the soft
    quota.
    """

    nodes: int = 0
    node_bytes: int = 0
    watches: int = 0
    transactions: int = 0
    other_bytes: int = 0
    warned: bool = False

    @property
    def memory_bytes(self) -> int:
        """All that it takes."""
        return self.node_bytes + self.other_bytes


def check_memory(account: Account, more_bytes: int) -> None:
    """Refuse a request that would take a domain beyond its memory quota. Raises StoreError: ENOMEM."""
    if account.memory_bytes + more_bytes > MEMORY_HARD_BYTES:
        raise StoreError("ENOMEM", f"{account.memory_bytes} + {more_bytes} bytes, at most {MEMORY_HARD_BYTES}")


def check_node(value: bytes, permissions_count: int) -> None:
    """Refuse a node that is too large. Raises StoreError: ENOSPC."""
    size = size_of(value, permissions_count)
    if size > NODE_HEADER_BYTES + PERMISSION_BYTES * PERMISSIONS + NODE_BYTES or len(value) > NODE_BYTES:
        raise StoreError("ENOSPC", f"a node of {size} bytes, at most {NODE_BYTES}")


def check_permissions(count: int) -> None:
    """Refuse a list that is too long. Raises StoreError: ENOSPC."""
    if count > PERMISSIONS:
        raise StoreError("ENOSPC", f"{count} permissions, at most {PERMISSIONS}")
