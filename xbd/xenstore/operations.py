"""The operations on the tree: one function each, from a request's payload to an answer's payload.

Each gets the view that it works on (the tree, or a transaction) and the connection that asks. One that
changes something gets a transaction, and checks everything before it changes anything.

Source: docs/misc/xenstore.txt of Xen 4.17, and what its xenstored answers.
"""

from collections.abc import Callable
from typing import Final, Protocol

from xbd.xenstore import quota
from xbd.xenstore.codec import PAYLOAD_MAX, Operation, strings_of
from xbd.xenstore.connections import Connection
from xbd.xenstore.errors import StoreError
from xbd.xenstore.paths import INTRODUCED, RELEASED, ROOT, canonical, parent_of
from xbd.xenstore.permissions import Access, parse, spell
from xbd.xenstore.transactions import Transaction
from xbd.xenstore.tree import Node

OK: Final = b"OK\0"
_READ: Final = int(Access.READ)
_WRITE: Final = int(Access.WRITE)


class View(Protocol):
    """A tree, or a transaction's version of it, to be read."""

    def find(self, path: bytes, /) -> Node | None:
        """Look at a node."""


def arguments(untrusted_payload: bytes, count: int) -> list[bytes]:
    """Split a payload into as many strings. Raises StoreError: EINVAL, there are more or fewer."""
    strings = strings_of(untrusted_payload)
    if strings is None or len(strings) != count:
        raise StoreError("EINVAL", f"expected {count} strings, each with a NUL behind it")
    return strings


def find(view: View, connection: Connection, path: bytes, access: int) -> Node:
    """Find a node, checking that the connection may do *access* with it.

    Raises:
        StoreError: EACCES, it may not. ENOENT, there is no such node; only said to a connection that may do the same
            with the nearest node above, any other gets EACCES.
    """
    node = view.find(path)
    if node is not None:
        if not connection.may(node.permissions, access):
            raise StoreError("EACCES", f"{path!r} is not for d{connection.domain.domid}")
        return node
    above: Node | None = None
    at = path
    while above is None:
        at = parent_of(at)
        above = view.find(at)
    if not connection.may(above.permissions, access):
        raise StoreError("EACCES", f"{at!r} is not for d{connection.domain.domid}")
    raise StoreError("ENOENT", f"there is no {path!r}")


# -- queries


def read(view: View, connection: Connection, payload: bytes) -> bytes:
    """READ: answer a node's value."""
    (path,) = arguments(payload, 1)
    return find(view, connection, canonical(path, connection.home), _READ).value


def directory(view: View, connection: Connection, payload: bytes) -> bytes:
    """DIRECTORY: answer the names of a node's children."""
    (path,) = arguments(payload, 1)
    names = _names(find(view, connection, canonical(path, connection.home), _READ))
    if len(names) > PAYLOAD_MAX:
        raise StoreError("E2BIG", f"the names below {path!r} take {len(names)} bytes; ask for them in parts")
    return names


def directory_part(view: View, connection: Connection, payload: bytes) -> bytes:
    """DIRECTORY_PART: answer a node's generation and its children's names from an offset on, as many as fit.

    An empty name ends the list. A client that sees another generation in the next part begins again.
    """
    path, untrusted_offset = arguments(payload, 2)
    if not (untrusted_offset.isdigit() and len(untrusted_offset) < 10):
        raise StoreError("EINVAL", f"{untrusted_offset[:20]!r} is no offset")
    node = find(view, connection, canonical(path, connection.home), _READ)
    head = b"%d\0" % node.generation
    names = _names(node)
    offset = min(int(untrusted_offset), len(names))
    room = PAYLOAD_MAX - len(head) - 1
    if len(names) - offset <= room:
        return head + names[offset:] + b"\0"
    end = names.rindex(b"\0", offset, offset + room) + 1
    return head + names[offset:end]


def _names(node: Node) -> bytes:
    return b"\0".join(node.children) + b"\0" if node.children else b""


def get_permissions(view: View, connection: Connection, payload: bytes) -> bytes:
    """GET_PERMS: answer a node's permissions."""
    (path,) = arguments(payload, 1)
    return spell(find(view, connection, canonical(path, connection.home), _READ).permissions)


# -- changing


def write(view: Transaction, connection: Connection, payload: bytes) -> bytes:
    """WRITE: give a node a value; it is made where there is none."""
    untrusted_path, nul, value = payload.partition(b"\0")
    if not nul:
        raise StoreError("EINVAL", "a path without its NUL")
    path = canonical(untrusted_path, connection.home)
    node = _find_or_none(view, connection, path)
    if not connection.privileged:
        quota.check_node(value, len(node.permissions) if node else 1)
    view.write(path, value, _owner(connection))
    return OK


def mkdir(view: Transaction, connection: Connection, payload: bytes) -> bytes:
    """MKDIR: make an empty node, unless there is one."""
    (untrusted_path,) = arguments(payload, 1)
    path = canonical(untrusted_path, connection.home)
    if _find_or_none(view, connection, path) is None:
        view.write(path, b"", _owner(connection))
    return OK


def remove(view: Transaction, connection: Connection, payload: bytes) -> bytes:
    """RM: remove a node and all below it; one that is not there, too, if its parent is."""
    (untrusted_path,) = arguments(payload, 1)
    path = canonical(untrusted_path, connection.home)
    if path == ROOT:
        raise StoreError("EINVAL", "the root stays")
    if _find_or_none(view, connection, path) is not None:
        view.remove(path)
    elif view.find(parent_of(path)) is None:
        raise StoreError("ENOENT", f"there is no {parent_of(path)!r}")
    return OK


def set_permissions(view: Transaction, connection: Connection, payload: bytes) -> bytes:
    """SET_PERMS: replace a node's permissions; only its owner may, and not give it away (XSA-419)."""
    untrusted_path, *untrusted_entries = strings_of(payload) or [b""]
    permissions = parse(untrusted_entries)
    if not connection.privileged:
        quota.check_permissions(len(permissions))
    special = untrusted_path in (INTRODUCED, RELEASED) and connection.privileged
    path = untrusted_path if special else canonical(untrusted_path, connection.home)
    node = view.find(path) if special else find(view, connection, path, _WRITE)
    assert node is not None, f"{path!r} has gone"
    if not connection.owns(node.permissions):
        raise StoreError("EACCES", f"{path!r} is not d{connection.domain.domid}'s")
    if not connection.privileged and permissions[0].domid != node.permissions[0].domid:
        raise StoreError("EPERM", f"{path!r} is d{node.permissions[0].domid}'s, and stays so")
    if special:
        view.replace_permissions(path, node, permissions)
    else:
        view.set_permissions(path, node, permissions)
    return OK


def _find_or_none(view: View, connection: Connection, path: bytes) -> Node | None:
    """Find a node that may be written, or none where one may be made. Raises StoreError: EACCES."""
    try:
        return find(view, connection, path, _WRITE)
    except StoreError as error:
        if error.errno == "ENOENT":
            return None
        raise


def _owner(connection: Connection) -> int | None:
    return None if connection.privileged else connection.domain.domid


LOOKS: Final[dict[int, Callable[[View, Connection, bytes], bytes]]] = {
    Operation.READ: read,
    Operation.DIRECTORY: directory,
    Operation.DIRECTORY_PART: directory_part,
    Operation.GET_PERMS: get_permissions,
}
CHANGES: Final[dict[int, Callable[[Transaction, Connection, bytes], bytes]]] = {
    Operation.WRITE: write,
    Operation.MKDIR: mkdir,
    Operation.RM: remove,
    Operation.SET_PERMS: set_permissions,
}
