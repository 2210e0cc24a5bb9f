"""A guest that floods its own socket, in a process of its own: `python -m xbd.lab.bench.shell.flooder PATH KIND`.

It ignores the limit of calls in flight: one thread sends without a pause, another discards the answers, so the socket
is always full. It prints `flooding` after the first answer, or the first end of a connection, and goes on until it is
killed.
"""

import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import count, cycle
from typing import Final

import msgpack  # type: ignore[import-untyped]  # it ships no types
import numpy as np

from xbd.abi import TURN_LEAVES
from xbd.lab.bench.flooding import FLOOD_PAGES
from xbd.protocol.codec import VERSION
from xbd.units import SUPER_PAGES

_RECEIVE_BYTES: Final = 1 << 20
# It is to flood the daemon, not to take the processor from the measuring process.
_NICE: Final = 19

Params = dict[str, object]


def _pack(msgid: int, method: str, params: Params) -> bytes:
    packed: bytes = msgpack.packb([0, msgid, method, [params]])
    return packed


def _hello(session: str) -> bytes:
    return _pack(0, "hello", {"version": VERSION, "session": session, "last_seen": None})


def _batches() -> Iterator[tuple[str, Params]]:
    """Decrease and populate a batch, for ever: each call takes a whole turn of the daemon."""
    params: Params = {"gfns": np.arange(SUPER_PAGES, dtype="<u8")[::-1].tobytes()}
    return cycle([("decrease", params), ("populate", params)])


def _loads() -> Iterator[tuple[str, Params]]:
    """Read one word, for ever: as many messages as fit."""
    return cycle([("load", {"gfns": bytes(8)})])


def _longest() -> Iterator[tuple[str, Params]]:
    """Move pages to and fro by calls as long as a message may be, in no order: all of it is checked, a turn is done."""
    low = np.random.default_rng(0).permutation(FLOOD_PAGES).astype("<u8")
    lower, upper = low.tobytes(), (low + np.uint64(FLOOD_PAGES)).tobytes()
    there: Params = {"populate": upper, "depopulate": lower}
    back: Params = {"populate": lower, "depopulate": upper}
    return cycle([("populate_depopulate", there), ("populate_depopulate", back)])


def _breaking() -> Iterator[tuple[str, Params]]:
    """Break as many superpages as a turn may, and mend them, for ever."""
    firsts = np.arange(0, FLOOD_PAGES, SUPER_PAGES, dtype="<u8").reshape(-1, TURN_LEAVES)
    return cycle([(method, {"gfns": gfns.tobytes()}) for gfns in firsts for method in ("decrease", "populate")])


def _boot_and_break(session: str) -> bytes:
    """Boot, and break every superpage, so that the next boot finds single pages."""
    firsts = np.arange(0, FLOOD_PAGES, SUPER_PAGES, dtype="<u8").reshape(-1, TURN_LEAVES)
    calls = [_pack(msgid, "decrease", {"gfns": gfns.tobytes()}) for msgid, gfns in enumerate(firsts, 1)]
    return _hello(session) + b"".join(calls)


def _flood_with_calls(path: str, calls: Iterator[tuple[str, Params]], flooding: Callable[[], None]) -> None:
    """Send calls on one connection for ever."""
    connection = _connect(path)
    connection.sendall(_hello("flood"))
    connection.recv(_RECEIVE_BYTES)
    threading.Thread(target=_discard, args=(connection, flooding), daemon=True).start()
    for msgid, call in zip(count(1), calls, strict=False):
        connection.sendall(_pack(msgid, *call))


def _discard(connection: socket.socket, flooding: Callable[[], None]) -> None:
    """Discard answers until the connection ends; then end the process."""
    while connection.recv(_RECEIVE_BYTES):
        flooding()
    os._exit(1)  # the other thread waits in a send


def _flood_with_connections(path: str, sent: Callable[[int], bytes], flooding: Callable[[], None]) -> None:
    """Connect, send, read an answer, and connect again, for ever."""
    for n in count():
        with _connect(path) as connection:
            try:
                connection.sendall(sent(n))
                connection.recv(_RECEIVE_BYTES)
            except ConnectionError:
                continue
        flooding()


def _connect(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    return connection


KINDS: Final[dict[str, Callable[[str, Callable[[], None]], None]]] = {
    "batches": lambda path, flooding: _flood_with_calls(path, _batches(), flooding),
    "loads": lambda path, flooding: _flood_with_calls(path, _loads(), flooding),
    "longest": lambda path, flooding: _flood_with_calls(path, _longest(), flooding),
    "breaking": lambda path, flooding: _flood_with_calls(path, _breaking(), flooding),
    "garbage": lambda path, flooding: _flood_with_connections(path, lambda _: b"\xc1" * 64, flooding),
    "reboots": lambda path, flooding: _flood_with_connections(path, lambda n: _hello(f"flood-{n}"), flooding),
    "broken_reboots": lambda path, flooding: _flood_with_connections(
        path, lambda n: _boot_and_break(f"flood-{n}"), flooding
    ),
}


def main(path: str, kind: str) -> None:
    """Flood the socket at *path*."""
    said = threading.Event()

    def flooding() -> None:
        if not said.is_set():
            said.set()
            sys.stdout.write("flooding\n")
            sys.stdout.flush()

    os.nice(_NICE)
    KINDS[kind](path, flooding)


if __name__ == "__main__":
    main(*sys.argv[1:])
