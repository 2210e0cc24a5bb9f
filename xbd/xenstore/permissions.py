"""The permissions of a node: a list of entries, the first of which names its owner.

The owner may do everything with it; the first entry's access is also what a domain gets that no other
entry names. Privileged connections are not asked. A new node has its parent's whole list, but what an
unprivileged domain makes is its own.

Source: Xen tools/xenstore/xenstored_core.c, perm_for_conn (4.17); docs/misc/xenstore.txt.
"""

from enum import IntFlag
from typing import Final, NamedTuple

from xbd.xenstore.errors import StoreError

# DOMID_FIRST_RESERVED: numbers from here on are no domains.
DOMID_END: Final = 0x7FF0


class Access(IntFlag):
    """What an entry permits."""

    NONE = 0
    READ = 1
    WRITE = 2
    BOTH = 3


class Entry(NamedTuple):
    """One domain's access, as bits of `Access`."""

    access: int
    domid: int


Permissions = tuple[Entry, ...]

_LETTERS: Final = {b"n": 0, b"r": 1, b"w": 2, b"b": 3}
_BY_ACCESS: Final = (b"n", b"r", b"w", b"b")

# What the root and the special names have at first: dom0's alone.
PRIVATE: Final[Permissions] = (Entry(int(Access.NONE), 0),)


def parse_domid(untrusted_text: bytes) -> int:
    """Read a domain's number. Raises StoreError: EINVAL, it is none."""
    if not (untrusted_text.isdigit() and len(untrusted_text) <= len(str(DOMID_END))):
        raise StoreError("EINVAL", f"{untrusted_text[:20]!r} is no domid")
    domid = int(untrusted_text)
    if domid >= DOMID_END:
        raise StoreError("EINVAL", f"domid {domid} is reserved")
    return domid


def parse(untrusted_entries: list[bytes]) -> Permissions:
    """Read a list of entries such as `n0` and `r7`. Raises StoreError: EINVAL, one is malformed or there is none."""
    if not untrusted_entries:
        raise StoreError("EINVAL", "an empty list of permissions")
    entries = []
    for untrusted in untrusted_entries:
        access = _LETTERS.get(untrusted[:1])
        if access is None:
            raise StoreError("EINVAL", f"{untrusted[:20]!r} is no permission")
        entries.append(Entry(access, parse_domid(untrusted[1:])))
    return tuple(entries)


def spell(permissions: Permissions) -> bytes:
    """Encode a list for the wire: each entry ended by a NUL."""
    return b"".join(b"%s%d\0" % (_BY_ACCESS[access], domid) for access, domid in permissions)


def access_of(permissions: Permissions, domid: int, target: int | None = None) -> int:
    """Tell what an unprivileged domain may do, as bits; *target* is the domain that it stands in for, if any."""
    owner = permissions[0]
    if owner.domid in (domid, target):
        return int(Access.BOTH)
    for access, named in permissions[1:]:
        if named in (domid, target):
            return access
    return owner.access


def is_owner(permissions: Permissions, domid: int, target: int | None = None) -> bool:
    """Tell whether a domain owns the node."""
    return permissions[0].domid in (domid, target)


def without(permissions: Permissions, domid: int) -> Permissions:
    """Remove a gone domain's entries but the owner's, so that the next domain with its domid inherits nothing."""
    return (permissions[0], *(entry for entry in permissions[1:] if entry.domid != domid))
