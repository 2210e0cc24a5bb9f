"""One conversation on a Unix socket, cut anywhere."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import numpy as np
import pytest
import trio
import trio.testing

from tests.peer import StreamPeer, create, small_host
from xbd.control.controller import Controller
from xbd.control.endpoint import DomainEndpoint, Endpoint, ToolstackEndpoint
from xbd.daemons.runtime.outside import replaced
from xbd.daemons.runtime.peers import HELLO_PATIENCE_S, converse
from xbd.daemons.runtime.transport import Transport
from xbd.protocol.codec import Notification

MakeEndpoint = Callable[[Callable[[], None]], Endpoint]


@asynccontextmanager
async def conversing(
    make_endpoint: MakeEndpoint, take_turn: Callable[[Endpoint], Awaitable[bytes]] | None = None
) -> AsyncIterator[StreamPeer]:
    """Converse on a Unix socket."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(0)
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(converse, Transport(theirs), make_endpoint, take_turn=take_turn))
        yield StreamPeer(stream)
        await stream.aclose()


@pytest.fixture
def host() -> Controller:
    """Make a host with one domain."""
    host = small_host()
    create(host)
    return host


def domain(host: Controller) -> MakeEndpoint:
    """Make the domain's endpoint."""
    return lambda wake: DomainEndpoint(host, 1, wake)


async def test_calls_are_answered_in_order(host: Controller) -> None:
    """Eight pipelined batches come back in the order in which they were sent."""
    async with conversing(domain(host)) as peer:
        await peer.call("hello", version=1, session="a", last_seen=None)
        batches = [np.arange(n * 128, n * 128 + 128, dtype="<u8").tobytes() for n in range(8)]
        await peer.stream.send_all(b"".join(peer.pack("decrease", {"gfns": batch}) for batch in batches))
        answers = [await peer.answer() for _ in batches]

    assert [answer.msgid for answer in answers] == list(range(1, 9))
    assert all(answer.untrusted_result == [128, None] for answer in answers)
    assert host.machine.domain_info(1).tot_pages == 1024


async def test_a_call_cut_at_every_byte_is_answered_once(host: Controller) -> None:
    """Wherever a message is cut, it is handled when it is whole."""
    async with conversing(domain(host)) as peer:
        await peer.call("hello", version=1, session="a", last_seen=None)
        for byte in peer.pack("decrease", {"gfns": bytes(8)}):
            await peer.stream.send_all(bytes([byte]))
            await trio.testing.wait_all_tasks_blocked()
        answer = await peer.answer()

    assert answer.untrusted_result == [1, None]


async def test_notices_come_unasked(host: Controller) -> None:
    """A target reaches the agent without its asking."""
    async with conversing(domain(host)) as peer:
        await peer.call("hello", version=1, session="a", last_seen=None)
        host.call("set_target", {"domid": 1, "pages": 512})
        message = await peer.next_message()

    assert message == Notification("target", [{"number": 1, "pages": 512}])


async def test_events_come_unasked(host: Controller) -> None:
    """A subscriber follows what happens, in order."""
    async with conversing(lambda wake: ToolstackEndpoint(host, wake)) as peer:
        await peer.call("hello", version=1)
        assert (await peer.call("events", since=0))["next"] == 2
        for superpages in (1, 2, 3):
            host.call("set_target", {"domid": 1, "pages": superpages * 512})
        numbers = []
        for _ in range(3):
            message = await peer.next_message()
            assert isinstance(message, Notification)
            numbers.append(message.untrusted_params[0]["number"])  # type: ignore[index]

    assert numbers == [2, 3, 4]


async def test_garbage_is_told_and_the_connection_ends(host: Controller) -> None:
    """The peer hears why, then the end; the domain waits for its agent."""
    async with conversing(domain(host)) as peer:
        await peer.call("hello", version=1, session="a", last_seen=None)
        await peer.stream.send_all(b"\xc1 no message at all")
        message = await peer.next_message()

        assert isinstance(message, Notification)
        assert message.method == "dropped"
    assert host.call("info", {"domain": 1})["state"] == "waiting"


async def test_a_peer_that_leaves_is_noted(host: Controller) -> None:
    """Whoever closes its end is gone for the daemon, too."""
    async with conversing(domain(host)) as peer:
        await peer.call("hello", version=1, session="a", last_seen=None)
        assert host.call("info", {"domain": 1})["state"] == "running"

    assert host.call("info", {"domain": 1})["state"] == "waiting"


async def _send_without_reading(stream: trio.SocketStream, calls: bytes) -> None:
    with trio.move_on_after(60):
        await stream.send_all(calls)
        await trio.sleep(30)
        await stream.send_all(calls)


async def test_a_peer_that_does_not_read_holds_up_nobody(
    autojump_clock: trio.testing.MockClock, host: Controller
) -> None:
    """Its calls stop being executed when its answers do not fit; after its patience it is lost."""
    del autojump_clock
    ours, theirs = socket.socketpair()
    theirs.settimeout(0)
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    peer = StreamPeer(stream)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(converse, Transport(theirs, patience_s=10), lambda wake: ToolstackEndpoint(host, wake))
        calls = peer.pack("hello", {"version": 1}) + b"".join(peer.pack("list", {}) for _ in range(3000))
        with pytest.raises(trio.BrokenResourceError):
            await _send_without_reading(stream, calls)
        await stream.aclose()
    assert theirs.fileno() == -1


async def test_a_hello_that_waits_for_its_turn_is_one(autojump_clock: trio.testing.MockClock, host: Controller) -> None:
    """However long the daemon has other guests to serve first, who has said hello is not silent."""
    del autojump_clock

    async def take_turn_late(endpoint: Endpoint) -> bytes:
        await trio.sleep(3 * HELLO_PATIENCE_S)
        return endpoint.turn()

    async with conversing(domain(host), take_turn_late) as peer:
        assert (await peer.call("hello", version=1, session="a", last_seen=None))["domid"] == 1


async def test_a_peer_for_whose_bytes_no_memory_is_left_is_let_go() -> None:
    """As one that has left: nothing that it sent was done, and its session may be resumed."""

    def receive(*_: object) -> bytes:
        raise MemoryError

    ours, theirs = socket.socketpair()
    with ours, replaced(receive=receive):
        theirs.settimeout(0)
        ours.sendall(b"hello")
        transport = Transport(theirs)
        assert await transport.receive() == b""
        transport.close()
