"""Saving a store as bytes, and restoring it: the nodes with their permissions, and the domains.

A save begins with a record of everything, followed by one record for each request that changed something, so
that a daemon that is killed at any instant loses nothing that it has answered. A record carries its length, a checksum,
and one of these two; reading stops at the last one if that is cut off or differs from its checksum, for it was never
answered. Any other that differs is damage, as is a length that is not what was written, which would hide what follows,
and a first record that is not whole: a save is never used without it. Watches and transactions are not saved: they end
with their connections, and those with the daemon.
"""

import struct
import zlib
from collections.abc import Collection, Iterable, Iterator
from typing import Final

import msgpack  # type: ignore[import-untyped]  # it ships no types

from xbd.errors import DamagedState
from xbd.replaceable import replaceable
from xbd.xenstore.permissions import Entry, Permissions
from xbd.xenstore.store import Store
from xbd.xenstore.tree import Change, Node, Tree

# Another number: an older or newer xbd cannot use it.
MAGIC: Final = b"xbd xenstore 2\n"
# The length of a record and its checksum, and the checksum of these; saves of the format before were without that.
_HEAD: Final = struct.Struct("<II")
_CHECK: Final = struct.Struct("<I")
_FORMATS: Final = {MAGIC: _HEAD.size + _CHECK.size, b"xbd xenstore 1\n": _HEAD.size}
_WHOLE, _CHANGES, _DOMAINS = "whole", "changes", "domains"


def encode_whole(store: Store) -> bytes:
    """Save everything: the first bytes of a save."""
    nodes = [[path, node.value, [list(entry) for entry in node.permissions]] for path, node in store.tree.items()]
    return MAGIC + _frame([_WHOLE, nodes, sorted(store.domains)])


def encode_changes(changes: Iterable[Change]) -> bytes:
    """Save what a request has changed."""
    return _frame([_CHANGES, [_change(path, node) for path, node in changes]])


def encode_domains(domains: Collection[int]) -> bytes:
    """Save which domains there are."""
    return _frame([_DOMAINS, sorted(domains)])


def _change(path: bytes, node: Node | None) -> list[object]:
    if node is None:
        return [path]
    return [path, node.value, [list(entry) for entry in node.permissions], list(node.children)]


def _frame(record: list[object]) -> bytes:
    packed: bytes = msgpack.packb(record)
    head = _HEAD.pack(len(packed), zlib.crc32(packed))
    return head + _CHECK.pack(zlib.crc32(head)) + packed


def _records(save: bytes, head_bytes: int) -> Iterator[list[object]]:
    """Read the records up to the first that is cut off. Raises DamagedState."""
    at = len(MAGIC)
    while at + head_bytes <= len(save):
        head, check = save[at : at + _HEAD.size], save[at + _HEAD.size : at + head_bytes]
        if not any(save[at:]):
            break  # a file that grew before its bytes were on the disk, when that lost its power, ends in zeros
        if check and check != _CHECK.pack(zlib.crc32(head)):
            raise DamagedState(f"the length of the record at byte {at} is not what was written")
        length, checksum = _HEAD.unpack(head)
        packed = save[at + head_bytes : at + head_bytes + length]
        end = at + head_bytes + length
        if len(packed) < length or zlib.crc32(packed) != checksum:
            if end < len(save):
                raise DamagedState(f"the record at byte {at} is not what was written, and others follow it")
            break
        yield msgpack.unpackb(packed)
        at = end
    if at == len(MAGIC):
        raise DamagedState("its first record, which is everything, is cut off or is not what was written")


@replaceable
def restore(save: bytes) -> Store:
    """Make the store that was saved.

    Raises:
        DamagedState: it is no save, of another format, or inconsistent.
    """
    head_bytes = _FORMATS.get(save[: len(MAGIC)])
    if head_bytes is None:
        raise DamagedState(f"it begins with {save[: len(MAGIC)]!r}, expected {MAGIC!r}")
    store = Store()
    try:
        for number, record in enumerate(_records(save, head_bytes)):
            match record:
                case ["whole", list(nodes), list(domains)] if number == 0:
                    store.tree.restore((path, value, _permissions(entries)) for path, value, entries in nodes)
                    _restore_domains(store, domains)
                case ["changes", list(changes)] if number:
                    store.tree.apply(dict(_restored(store.tree, changes)))
                case ["domains", list(domains)] if number:
                    _restore_domains(store, domains)
                case _:
                    raise DamagedState(f"record {number} is {str(record)[:80]}")
    except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
        raise DamagedState(f"a record makes no sense: {error!r}") from error
    violations = store.check()
    if violations:
        raise DamagedState("; ".join(violations[:3]))
    return store


def _permissions(entries: list[list[int]]) -> Permissions:
    return tuple(Entry(int(access), int(domid)) for access, domid in entries)


def _restored(tree: Tree, changes: list[list[object]]) -> Iterator[Change]:
    for change in changes:
        match change:
            case [bytes(path)]:
                yield path, None
            case [bytes(path), bytes(value), list(entries), list(children)]:
                tree.generation += 1
                yield path, Node(value, _permissions(entries), tuple(children), tree.generation)
            case _:
                raise DamagedState(f"a change is {str(change)[:80]}")


def _restore_domains(store: Store, domains: list[int]) -> None:
    for domid in set(store.domains) - set(domains):
        del store.domains[domid]
    for domid in domains:
        store.restore_domain(domid)
