"""Who comes in at a domain's socket at the very moment when the domain goes."""

import errno
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from unittest.mock import ANY

import numpy as np
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.peer import HOST_SUPERFRAMES, DirectPeer, agent, clock, create, create_again, do
from xbd.client.runtime_dir import domain_socket
from xbd.control.controller import Controller
from xbd.control.endpoint import DomainEndpoint
from xbd.control.rate_limit import SourceLog
from xbd.daemons.hypervisor import serve
from xbd.daemons.runtime.listener import IDLE_S, Listener
from xbd.daemons.runtime.outside import replaced
from xbd.daemons.runtime.sockets import bind_unix
from xbd.daemons.runtime.transport import Transport
from xbd.errors import PeerLost
from xbd.machine import Machine
from xbd.protocol.codec import VERSION, Notification
from xbd.storage.image import Image
from xbd.storage.memory import MemoryStore


@pytest.mark.parametrize("method", ["hello", "populate", "store"])
def test_what_came_in_for_a_domain_that_went_is_not_done(method: str) -> None:
    """Its connection's task may have a last turn: the peer is dropped, and the record that is gone is left as it was."""
    store = MemoryStore()
    host = Controller(Machine(HOST_SUPERFRAMES, image=Image(store)), clock=clock)
    domid = create(host)
    peer = agent(host, domid) if method != "hello" else DirectPeer(DomainEndpoint(host, domid, lambda: None))
    # It is on its way to a target: that is looked at with each call.
    do(host, "set_target", domid=domid, pages=512)
    gfns = np.arange(3, dtype="<u8").tobytes()
    params: dict[str, dict[str, object]] = {
        "hello": {"version": VERSION, "session": "late", "last_seen": None},
        "populate": {"gfns": gfns},
        "store": {"gfns": gfns, "words": gfns},
    }
    call = peer.pack(method, params[method])
    do(host, "destroy", domid=domid)
    (dropped,) = peer.send(call)

    assert isinstance(dropped, Notification)
    assert "gone" in str(dropped.untrusted_params)
    peer.endpoint.closed()
    create_again(host, domid, "heir")
    assert host.audit() == []


@pytest.mark.parametrize("turns", range(8))
async def test_a_domain_that_goes_while_somebody_comes_in_takes_nobody_along(tmp_path: Path, turns: int) -> None:
    """However far the newcomer has come: it is let go, and the daemon serves on."""
    async with trio.open_nursery() as nursery:
        host: Controller = await nursery.start(serve, Machine(8), tmp_path)
        # The order in which tasks have their turns is drawn anew each time.
        for _ in range(30):
            domid = host.call("create", {"name": "web", "max_pages": 512, "target_pages": 512})["domid"]
            assert isinstance(domid, int)
            await trio.testing.wait_all_tasks_blocked()
            with socket.socket(socket.AF_UNIX) as newcomer:
                newcomer.connect(str(domain_socket(tmp_path, domid)))
                for _ in range(turns):
                    await trio.lowlevel.checkpoint()
                host.call("destroy", {"domid": domid})
                newcomer.settimeout(0)
                await trio.testing.wait_all_tasks_blocked()
                # Whoever had not been accepted yet is reset.
                with suppress(ConnectionResetError):
                    assert newcomer.recv(1) == b""
        nursery.cancel_scope.cancel()


# Beyond what the system keeps for a peer.
_MUCH_BYTES: Final = 1 << 22


async def hold(transport: Transport, log: SourceLog) -> None:
    """Hold something for who says `h`, nothing for who says `-`, work for ever for `w`, and send `u` more than it reads."""
    del log
    transport.place.is_greeted = True
    transport.place.last_word = str.encode
    while said := await transport.receive():
        transport.place.begin_call()
        with suppress(PeerLost):
            await transport.send(said if said != b"u" else bytes(_MUCH_BYTES))
        if said == b"w":
            await trio.sleep_forever()
        transport.place.end_call(keeps=said == b"h")


@contextmanager
def coming(path: Path, uid: int, says: bytes) -> Iterator[socket.socket]:
    """Connect as a user and say something."""
    credentials = struct.pack("3i", 1, uid, uid)
    with replaced(socket_option=lambda *_: credentials), socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(path))
        peer.settimeout(0)
        peer.sendall(says)
        yield peer


async def served(path: Path, held: list[tuple[int, bytes]], *, yields: bool) -> tuple[int | None, str, bool]:
    """Fill a listener's places by (user, what it says), then let one more come.

    Returns:
        Who gave way, what it was told, and whether the newcomer was served.
    """
    listener = Listener(path, bind_unix(path), len(held), hold, 10.0, anybody=True, yields=yields)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.serve)
        peers: list[socket.socket] = []
        for uid, says in [*held, (7, b"-")]:
            with coming(path, uid, says) as peer:
                peers.append(peer.dup())
                await trio.sleep(2 * IDLE_S)
        *before, newcomer = peers
        gone = {index: told for index, peer in enumerate(before) if (told := last_word(peer)) is not None}
        is_served = False
        with suppress(ConnectionResetError):
            is_served = newcomer.recv(1) == b"-"
        for peer in peers:
            peer.close()
        listener.close()
        nursery.cancel_scope.cancel()
    assert len(gone) <= 1
    index, told = next(iter(gone.items()), (None, ""))
    return index, told, is_served


def last_word(peer: socket.socket) -> str | None:
    """Read what a peer was told beyond its answer, if its connection has ended."""
    read = b""
    try:
        while received := peer.recv(4096):
            read += received
    except BlockingIOError:
        return None
    return read[1:].decode()


@pytest.mark.parametrize(
    ("held", "gives_way"),
    [
        ([(1, b"h"), (1, b"h"), (1, b"h")], 0),
        ([(1, b"h"), (2, b"h"), (2, b"h")], 1),
        ([(1, b"h"), (1, b"-"), (1, b"h")], 1),
        ([(1, b"-"), (2, b"h"), (2, b"h")], 1),
        ([(1, b"h"), (2, b"w"), (2, b"w")], 0),
    ],
)
async def test_of_those_who_hold_something_one_of_the_user_s_who_has_most_gives_way(
    tmp_path: Path, autojump_clock: MockClock, held: list[tuple[int, bytes]], gives_way: int
) -> None:
    """One that holds nothing before one that does, else the one idle for longest; it is told why, and whose fault it is."""
    del autojump_clock
    index, told, is_served = await served(tmp_path / "socket", held, yields=True)
    assert (index, is_served) == (gives_way, True)
    count = [uid for uid, _ in held].count(held[gives_way][0])
    assert told == (
        "it was idle, and another one came when all 3 places were taken,"
        f" {count} of them by user {held[gives_way][0]}, whose it is"
    )


async def test_who_does_not_read_is_idle_too(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Though it is owed an answer: it gets it no more, and its place is the newcomer's."""
    del autojump_clock
    index, _, is_served = await served(tmp_path / "socket", [(1, b"w"), (1, b"u"), (2, b"h")], yields=True)
    assert (index, is_served) == (1, True)


async def test_where_nobody_yields_who_holds_something_stays(tmp_path: Path, autojump_clock: MockClock) -> None:
    """As the agents at a domain's socket: the newcomer is refused."""
    del autojump_clock
    assert await served(tmp_path / "socket", [(1, b"h"), (1, b"h")], yields=False) == (None, "", False)


@pytest.mark.parametrize(
    "lack", [OSError(errno.EMFILE, "none left"), OSError(errno.ENOMEM, "no memory"), MemoryError()]
)
async def test_what_lacks_for_accepting_keeps_nobody_out_for_long(
    tmp_path: Path, autojump_clock: MockClock, lack: Exception
) -> None:
    """No descriptor, no memory in the kernel, none in Python: whoever waits meanwhile gets in afterwards."""
    del autojump_clock
    lacking = iter([lack, lack])

    def accept(bound: socket.socket) -> tuple[socket.socket, object]:
        for error in lacking:
            raise error
        return bound.accept()

    with replaced(accept=accept):
        assert await served(tmp_path / "socket", [(1, b"-")], yields=True) == (0, ANY, True)
