"""The permissions of a node: a list of entries, the first of which names its owner.

The owner may do everything with it; the first entry's access is also what a domain gets that no other
entry names. Privileged connections are not asked. A new node has its parent's whole list, but what an
unprivileged domain makes is its own.

Source: Xen tools/xenstore/xenstored_core.c, perm_for_conn (4.17); docs/misc/xenstore.txt.
"""

from collections.abc import Container
from enum import IntFlag
from typing import Final, NamedTuple

from xbd.xenstore.codec import whole_number
from xbd.xenstore.errors import StoreError

# DOMID_FIRST_RESERVED: numbers from here on are no domains, and no domain is ever given them.
DOMID_END: Final = 0x7FF0


class Access(IntFlag):
    """What an entry permits."""

    NONE = 0
    READ = 1
    WRITE = 2
    BOTH = 3
    # The domain did not exist when the entry was set: it is shown, but the next domain with its domid gets nothing.
    IGNORED = 8


class Entry(NamedTuple):
    """One domain's access, as bits of `Access`."""

    access: int
    domid: int


Permissions = tuple[Entry, ...]

_IGNORED: Final = Access.IGNORED.value
_LETTERS: Final = {b"n": 0, b"r": 1, b"w": 2, b"b": 3}
_BY_ACCESS: Final = (b"n", b"r", b"w", b"b")

# What the root and the special names have at first: dom0's alone.
PRIVATE: Final[Permissions] = (Entry(int(Access.NONE), 0),)


def parse(untrusted_entries: list[bytes], domids: Container[int]) -> Permissions:
    """Read a list of entries such as `n0` and `r7`; *domids* are the domains that exist.

    Raises:
        StoreError: EINVAL, one is malformed. ENOENT, the owner does not exist.
    """
    entries = []
    for untrusted in untrusted_entries:
        access, domid = _LETTERS.get(untrusted[:1]), whole_number(untrusted[1:])
        if access is None or domid is None:
            raise StoreError("EINVAL", f"{untrusted[:20]!r} is no permission")
        entries.append(Entry(access if domid in domids else access | Access.IGNORED.value, domid))
    access, owner = entries[0]
    if owner not in domids and owner < DOMID_END:
        raise StoreError("ENOENT", f"there is no d{owner} to own a node")
    return (Entry(access & Access.BOTH.value, owner), *entries[1:])


def spell(permissions: Permissions) -> bytes:
    """Encode a list for the wire: each entry ended by a NUL."""
    return b"".join(
        b"%s%d\0" % (_BY_ACCESS[access & 3], domid - ((domid & 1 << 31) << 1)) for access, domid in permissions
    )


def access_of(permissions: Permissions, domid: int, target: int | None = None) -> int:
    """Tell what an unprivileged domain may do, as bits; *target* is the domain that it stands in for, if any."""
    owner = permissions[0]
    if owner.domid in (domid, target):
        return int(Access.BOTH)
    for access, named in permissions[1:]:
        if named in (domid, target) and not access & _IGNORED:
            return access
    return owner.access


def is_owner(permissions: Permissions, domid: int, target: int | None = None) -> bool:
    """Tell whether a domain owns the node."""
    return permissions[0].domid in (domid, target)


def without(permissions: Permissions, domid: int) -> Permissions:
    """Remove a gone domain's entries but the owner's, so that the next domain with its domid inherits nothing."""
    return (permissions[0], *(entry for entry in permissions[1:] if entry.domid != domid))
