"""Names of nodes: what is a path, and where a relative one leads.

A path is made of parts of `A-Za-z0-9-_@`, joined by single slashes. A relative one starts at the home of
the domain whose connection names it; everything behind `canonical` sees absolute paths only. Special
names (`@introduceDomain`) are no nodes: they can be watched, and two of them have permissions.

Source: Xen tools/xenstore/xenstored_core.c, is_valid_nodename (4.17).
"""

import re
from typing import Final

from xbd.xenstore.errors import StoreError

# XENSTORE_REL_PATH_MAX of Xen's public/io/xs_wire.h; neither a NUL nor the name of a domain's home is counted.
RELATIVE_MAX: Final = 2048
ROOT: Final = b"/"
_ABSOLUTE: Final = re.compile(rb"/|(?:/[A-Za-z0-9\-_@]+)+")
# As scanf's %5u reads a number: five characters, one of which may be a sign.
_HOME: Final = re.compile(rb"/local/domain/(?:\d{1,5}|-\d{1,4})/")

# The names that have permissions; any other may be watched all the same, and nothing ever happens to it.
INTRODUCED: Final = b"@introduceDomain"
RELEASED: Final = b"@releaseDomain"


def home_of(domid: int) -> bytes:
    """Name the node below which a domain's relative paths lie."""
    return b"/local/domain/%d" % domid


def absolute(untrusted_path: bytes, home: bytes) -> bytes:
    """Join a relative path to *home*; one that starts with a slash, or is a special name, stays as it is."""
    return untrusted_path if untrusted_path.startswith((b"/", b"@")) else home + b"/" + untrusted_path


def canonical(untrusted_path: bytes, home: bytes, most: int = RELATIVE_MAX) -> bytes:
    """Make the absolute path of what a request names; *home* is where relative ones start.

    *most*: how many bytes it may have besides the `/local/domain/N/` that it may begin with.

    Raises:
        StoreError: EINVAL, it is no path, or too long.
    """
    path = absolute(untrusted_path, home)
    if len(path) > most:
        begin = _HOME.match(path)
        if len(path) > most + (begin.end() if begin else 0):
            raise StoreError(
                "EINVAL", f"{path[:80]!r}... has {len(path)} bytes, at most {most} are allowed below a home"
            )
    if _ABSOLUTE.fullmatch(path):
        return path
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
