"""Names of nodes: what is a path, and where a relative one leads.

A path is made of parts of `A-Za-z0-9-_@`, joined by single slashes. A relative one starts at the home of
the domain whose connection names it; everything behind `canonical` sees absolute paths only. Special
names (`@introduceDomain`) are no nodes: they can be watched, and two of them have permissions.

Source: Xen tools/xenstore/xenstored_core.c, is_valid_nodename (4.17).
"""

import re
from typing import Final

from xbd.xenstore.errors import StoreError

# XENSTORE_ABS_PATH_MAX and XENSTORE_REL_PATH_MAX of Xen's public/io/xs_wire.h; a NUL is not counted.
ABSOLUTE_MAX: Final = 3072
RELATIVE_MAX: Final = 2048
ROOT: Final = b"/"
_PART: Final = rb"[A-Za-z0-9\-_@]+"
_ABSOLUTE: Final = re.compile(rb"/|(?:/" + _PART + rb")+")
_RELATIVE: Final = re.compile(_PART + rb"(?:/" + _PART + rb")*")

# The names that have permissions; any other may be watched all the same, and nothing ever happens to it.
INTRODUCED: Final = b"@introduceDomain"
RELEASED: Final = b"@releaseDomain"


def home_of(domid: int) -> bytes:
    """Name the node below which a domain's relative paths lie."""
    return b"/local/domain/%d" % domid


def canonical(untrusted_path: bytes, home: bytes) -> bytes:
    """Make the absolute path of what a request names; *home* is where relative ones start.

    Raises:
        StoreError: EINVAL, it is no path, or too long.
    """
    # A special name begins with an @, and is no relative path.
    if untrusted_path.startswith(b"/"):
        if len(untrusted_path) <= ABSOLUTE_MAX and _ABSOLUTE.fullmatch(untrusted_path):
            return untrusted_path
    elif (
        len(untrusted_path) <= RELATIVE_MAX
        and not untrusted_path.startswith(b"@")
        and _RELATIVE.fullmatch(untrusted_path)
    ):
        return home + b"/" + untrusted_path
    raise StoreError("EINVAL", f"{untrusted_path[:80]!r} is no path")


def is_special(path: bytes) -> bool:
    """Tell whether a name is a special one, such as `@releaseDomain`: any that begins so, as in Xen."""
    return path.startswith(b"@") and len(path) <= RELATIVE_MAX


def parent_of(path: bytes) -> bytes:
    """Name the parent of a node that is not the root."""
    return path[: path.rindex(b"/")] or ROOT


def has_parent(path: bytes) -> bool:
    """Tell whether a node lies in another: all but the root and the special names do."""
    return path != ROOT and path.startswith(b"/")


def name_of(path: bytes) -> bytes:
    """Name a node within its parent."""
    return path[path.rindex(b"/") + 1 :]


def child_of(path: bytes, name: bytes) -> bytes:
    """Name a child."""
    return path + name if path == ROOT else path + b"/" + name


def ancestry(path: bytes) -> list[bytes]:
    """List a path and all that it lies in, itself first, the root last; a special name has nothing above it."""
    lineage = [path]
    while has_parent(path):
        path = parent_of(path)
        lineage.append(path)
    return lineage
