"""The operations on the tree: one function each, from a request's payload to an answer's payload.

Each gets the view that it works on (the tree, or a transaction) and the connection that asks. One that
changes something gets a transaction, and checks everything before it changes anything.

Source: docs/misc/xenstore.txt of Xen 4.17, and what its xenstored answers.
"""

from collections.abc import Callable, Container
from typing import Final, Protocol

from xbd.xenstore.codec import PAYLOAD_MAX, Operation, leading_number, strings_of
from xbd.xenstore.connections import Connection
from xbd.xenstore.errors import StoreError
from xbd.xenstore.paths import INTRODUCED, RELEASED, ROOT, parent_of
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


def one_string(untrusted_payload: bytes, errno: str = "ENOENT") -> bytes:
    """Take a payload that is one string. Raises StoreError: *errno*, its NUL is missing, or there is more behind it."""
    string, nul, more = untrusted_payload.partition(b"\0")
    if not nul or more:
        raise StoreError(errno, "expected one string with a NUL behind it")
    return string


def arguments(untrusted_payload: bytes, count: int, most: int | None = None) -> list[bytes]:
    """Split a payload into as many strings, or up to *most*. Raises StoreError: EINVAL, there are more or fewer."""
    strings = strings_of(untrusted_payload)
    if not count <= len(strings) <= (most or count):
        raise StoreError("EINVAL", f"expected {count} strings, each with a NUL behind it")
    return strings


def find(view: View, connection: Connection, path: bytes, access: int, *, owned: bool = False) -> Node:
    """Find a node, checking that the connection may do *access* with it, and with *owned* that it owns it.

    Raises:
        StoreError: EACCES, it may not. ENOENT, there is no such node; only said to a connection that may do the same
            with the nearest node above, any other gets EACCES. Either way a transaction depends on that node, too.
    """
    node = view.find(path)
    if (
        node is not None
        and connection.may(node.permissions, access)
        and (not owned or connection.owns(node.permissions))
    ):
        return node
    above: Node | None = None
    at = path
    while above is None:
        at = parent_of(at)
        above = view.find(at)
    if node is None and connection.may(above.permissions, access):
        raise StoreError("ENOENT", f"there is no {path!r}")
    raise StoreError("EACCES", f"{path!r} is not for d{connection.domain.domid}")


# -- queries


def read(view: View, connection: Connection, payload: bytes) -> bytes:
    """READ: answer a node's value."""
    path = one_string(payload)
    return find(view, connection, connection.canonical(path), _READ).value


def directory(view: View, connection: Connection, payload: bytes) -> bytes:
    """DIRECTORY: answer the names of a node's children."""
    path = one_string(payload)
    names = _names(find(view, connection, connection.canonical(path), _READ))
    if len(names) > PAYLOAD_MAX:
        raise StoreError("E2BIG", f"the names below {path!r} take {len(names)} bytes; ask for them in parts")
    return names


def directory_part(view: View, connection: Connection, payload: bytes) -> bytes:
    """DIRECTORY_PART: answer a node's generation and its children's names from an offset on, as many as fit.

    An empty name ends the list. A client that sees another generation in the next part begins again.
    """
    path, untrusted_offset = arguments(payload, 2)
    node = find(view, connection, connection.canonical(path), _READ)
    head = b"%d\0" % node.generation
    names = _names(node)
    offset = min(leading_number(untrusted_offset), len(names))
    room = PAYLOAD_MAX - len(head) - 1
    if len(names) - offset <= room:
        return head + names[offset:] + b"\0"
    end = names.rindex(b"\0", offset, offset + room) + 1
    return head + names[offset:end]


def _names(node: Node) -> bytes:
    return b"\0".join(node.children) + b"\0" if node.children else b""


def get_permissions(view: View, connection: Connection, payload: bytes) -> bytes:
    """GET_PERMS: answer a node's permissions."""
    path = one_string(payload)
    return spell(find(view, connection, connection.canonical(path), _READ).permissions)


# -- changing


def write(view: Transaction, connection: Connection, payload: bytes) -> bytes:
    """WRITE: give a node a value; it is made where there is none."""
    untrusted_path, nul, value = payload.partition(b"\0")
    if not nul:
        raise StoreError("EINVAL", "a path without its NUL")
    path = connection.canonical(untrusted_path)
    _find_or_none(view, connection, path)
    view.write(path, value, _owner(connection))
    return OK


def mkdir(view: Transaction, connection: Connection, payload: bytes) -> bytes:
    """MKDIR: make an empty node, unless there is one."""
    untrusted_path = one_string(payload)
    path = connection.canonical(untrusted_path)
    if _find_or_none(view, connection, path) is None:
        view.write(path, b"", _owner(connection))
    return OK


def remove(view: Transaction, connection: Connection, payload: bytes) -> bytes:
    """RM: remove a node and all below it; one that is not there, too, if its parent is."""
    untrusted_path = one_string(payload)
    path = connection.canonical(untrusted_path)
    node = _find_or_none(view, connection, path)
    if path == ROOT:
        raise StoreError("EINVAL", "the root stays")
    if node is not None:
        view.remove(path)
    elif view.find(parent_of(path)) is None:
        raise StoreError("ENOENT", f"there is no {parent_of(path)!r}")
    return OK


def set_permissions(view: Transaction, connection: Connection, payload: bytes, *, domids: Container[int]) -> bytes:
    """SET_PERMS: replace a node's permissions; only its owner may, and not give it away (XSA-419).

    *domids*: the domains that exist.
    """
    untrusted_path, *untrusted_entries = strings_of(payload) or [b""]
    if not untrusted_entries:
        raise StoreError("EINVAL", "an empty list of permissions")
    most = connection.account.quotas.permissions
    if len(untrusted_entries) > most and not connection.privileged:
        raise StoreError("ENOSPC", f"{len(untrusted_entries)} permissions, at most {most}")
    permissions = parse(untrusted_entries, domids)
    special = view.find(untrusted_path) if untrusted_path in (INTRODUCED, RELEASED) else None
    if special is not None:
        if not connection.owns(special.permissions):
            raise StoreError("EACCES", f"{untrusted_path!r} is not for d{connection.domain.domid}")
        view.replace_permissions(untrusted_path, special, permissions)
        return OK
    path = connection.canonical(untrusted_path)
    node = find(view, connection, path, _WRITE, owned=True)
    if not connection.privileged and permissions[0].domid != node.permissions[0].domid:
        raise StoreError("EPERM", f"{path!r} is d{node.permissions[0].domid}'s, and stays so")
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
}
