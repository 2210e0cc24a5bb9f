"""Carrying bytes between a connection and its endpoint.

A peer's task receives, lets its endpoint take turns, and sends the answers, one turn after the
other; between two turns every other task gets its turn. A second task, asleep most of the time,
sends what the peer is to be told unasked. A peer that does not read holds up nobody but itself:
its answers are not computed before the previous ones are taken, notices are coalesced, events wait
in the host's log. One that does not read for as long as that is waited for is dropped, and so is one
that does not say hello: a place at a door is for who has something to say.
"""

import math
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

import structlog
import trio

from xbd.control.endpoint import Endpoint
from xbd.control.rate_limit import SourceLog
from xbd.daemons.runtime import sockets
from xbd.daemons.runtime.disk_gate import Room
from xbd.daemons.runtime.outside import calls
from xbd.errors import PeerLost, RemoteProtocolError
from xbd.protocol.codec import RECEIVE_BYTES

_log = structlog.get_logger(__name__)

# How long a toolstack may leave its answers unread; a person who stopped one with Ctrl-Z can start it anew.
TOOLSTACK_PATIENCE_S: Final = 10.0
# And an agent: one that is stopped for longer resumes its session, and until then its answers wait in nobody's memory.
DOMAIN_PATIENCE_S: Final = 60.0
# How long a peer may be connected before it has said hello; it is the first thing that anybody sends.
HELLO_PATIENCE_S: Final = 10.0
# What a guest's turn may take of the processor, twice over what a batch takes on a slow machine; and how many times what
# is beyond it a guest rests before its next. Some calls are checked whole although a turn does little of them: 2 ms for
# the longest, which one that makes no others then makes once in 30 ms, so that of another's calls not one in a hundred
# comes behind it. A boot may take longer, is no habit, and need not be paid for in full.
LONG_TURN_S: Final = 0.0005
RESTS: Final = 19
LONGEST_REST_S: Final = 0.5
# How long one that is dropped for its silence may take to be told so.
_LAST_WORD_S: Final = 1.0


class Transport(Protocol):
    """A connection's bytes."""

    async def receive(self) -> bytes:
        """Wait for bytes, at most `RECEIVE_BYTES`; empty at the end. Always lets other tasks run."""

    async def send(self, answers: bytes) -> None:
        """Send all of it, before or after what other tasks send. Raises PeerLost."""

    def close(self) -> None:
        """End the connection."""


class SocketTransport:
    """A connected Unix socket, driven directly: a call costs one pass of the scheduler, not three.

    Args:
        connection: connected, non-blocking; owned from here on.
        patience_s: how long a send may wait for the peer to read.
    """

    def __init__(self, connection: socket.socket, *, patience_s: float = math.inf) -> None:
        self._socket = connection
        self._patience_s = patience_s
        self._sending = trio.Lock()

    async def receive(self) -> bytes:
        """Wait for bytes, at most `RECEIVE_BYTES`; empty at the end, also when somebody here has closed it."""
        while True:
            try:
                await sockets.until_readable(self._socket)
                return calls.receive(self._socket, RECEIVE_BYTES)
            except BlockingIOError:
                continue
            except (OSError, trio.ClosedResourceError):
                return b""

    async def send(self, answers: bytes) -> None:
        """Send all of it; where the socket's buffer has room, at once and without a pause. Raises PeerLost."""
        sent = 0
        if not self._sending.locked():
            sent = self.send_some(answers)
            if sent == len(answers):
                return
        with trio.move_on_after(self._patience_s) as waiting:
            async with self._sending:
                rest = memoryview(answers)[sent:]
                while rest:
                    await self.writable()
                    rest = rest[self.send_some(rest) :]
        if waiting.cancelled_caught:
            raise PeerLost(f"the peer has not read for {self._patience_s} s")

    async def writable(self) -> None:
        """Wait until `send_some` can send something. Raises PeerLost."""
        try:
            await sockets.until_writable(self._socket)
        except (OSError, trio.ClosedResourceError) as error:
            raise PeerLost("the connection was closed") from error

    def send_some(self, answers: bytes | memoryview) -> int:
        """Send what can be sent at once; returns how many bytes that were. Raises PeerLost."""
        try:
            return calls.send(self._socket, answers)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise PeerLost(f"the peer is gone: {error.strerror}") from error

    def send_last(self, message: bytes) -> None:
        """Send a short message if that can be done at once; whoever ends does not wait for a peer."""
        with suppress(PeerLost):
            if not self._sending.locked():
                self.send_some(message)

    def finish(self) -> None:
        """Take no more calls: what was received is answered, then the connection ends."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """End the connection."""
        sockets.close(self._socket)


class StreamTransport:
    """Any trio stream as a transport."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self._stream = stream
        self._sending = trio.Lock()

    async def receive(self) -> bytes:
        """Wait for bytes, at most `RECEIVE_BYTES`; empty at the end."""
        try:
            return bytes(await self._stream.receive_some(RECEIVE_BYTES))
        except trio.BrokenResourceError:
            return b""

    async def send(self, answers: bytes) -> None:
        """Send all of it."""
        try:
            async with self._sending:
                await self._stream.send_all(answers)
        except trio.BrokenResourceError as error:
            raise PeerLost("the peer is gone") from error

    def close(self) -> None:
        """Leave the stream to who opened it."""


class Alarm:
    """Wakes one task that waits; what rings while nobody waits is kept."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def ring(self) -> None:
        """Wake the task."""
        self._event.set()

    async def wait(self) -> None:
        """Wait for the next ring."""
        await self._event.wait()
        self._event = trio.Event()


class Pace:
    """The turns of one guest's connections: it rests before the next when one took too much of the processor."""

    def __init__(self) -> None:
        self._clock_s = trio.lowlevel.current_clock().current_time
        self._rested_at_s = -math.inf

    async def turn(self, endpoint: Endpoint) -> bytes:
        """Let an endpoint take its turn when its guest has rested; returns its answers."""
        if self._clock_s() < self._rested_at_s:
            await trio.sleep_until(self._rested_at_s)
        began_s, cpu_began_s = self._clock_s(), time.thread_time()
        answers = endpoint.turn()
        # A turn that others kept from the processor took no longer for that; and where time is virtual, none takes any.
        ended_s = self._clock_s()
        spent_s = min(time.thread_time() - cpu_began_s, ended_s - began_s)
        if spent_s > LONG_TURN_S:
            self._rested_at_s = ended_s + rest_after(spent_s)
        return answers


async def converse(
    transport: Transport,
    make_endpoint: Callable[[Callable[[], None]], Endpoint],
    room: Room | None = None,
    *,
    pace: Pace | None = None,
    log: SourceLog | None = None,
) -> None:
    """Serve one peer until it leaves, is lost, or is dropped; the transport is closed in the end.

    Args:
        transport: its bytes.
        make_endpoint: makes its endpoint, given what wakes this peer when there is something to tell.
        room: it gets no turn while this is closed.
        pace: what its guest's turns are paced by.
        log: where it is said that it was dropped.
    """
    log = log or SourceLog(_log)
    alarm = Alarm()
    endpoint = make_endpoint(alarm.ring)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_tell, transport, endpoint, alarm, nursery.cancel_scope)
            with trio.move_on_after(HELLO_PATIENCE_S) as greeting:
                await _answer(transport, endpoint, room, greeting, pace)
            if greeting.cancelled_caught:
                await _drop_silent(transport, endpoint)
            nursery.cancel_scope.cancel()
    finally:
        endpoint.closed()
        transport.close()
    if endpoint.dropped is not None:
        now, dropped = trio.current_time(), endpoint.dropped
        log.warning(now, "peer_dropped", reason=str(dropped), expected=dropped.hint)


async def _drop_silent(transport: Transport, endpoint: Endpoint) -> None:
    error = RemoteProtocolError(f"no hello within {HELLO_PATIENCE_S:g} s", "a call of hello first")
    with suppress(PeerLost), trio.move_on_after(_LAST_WORD_S):
        await transport.send(endpoint.drop(error))


async def _answer(
    transport: Transport, endpoint: Endpoint, room: Room | None, greeting: trio.CancelScope, pace: Pace | None
) -> None:
    """Receive, take turns, send; returns when the peer is gone or dropped. *greeting* ends with a hello that is accepted."""
    greeted = False
    try:
        while received := await transport.receive():
            endpoint.feed(received)
            while endpoint.more:
                if room is not None and not room.is_open:
                    await _wait_for(room, greeting)
                answers = await pace.turn(endpoint) if pace else endpoint.turn()
                if not greeted and endpoint.admitted:
                    greeted, greeting.deadline = True, math.inf
                if answers:
                    await transport.send(answers)
                if endpoint.dropped is not None:
                    return
                if endpoint.more:
                    await trio.lowlevel.checkpoint()
    except PeerLost as error:
        _log.debug("peer_lost", reason=str(error))


def rest_after(turn_s: float) -> float:
    """Tell how long a guest rests after a turn that took so long of the processor."""
    return min(max(turn_s - LONG_TURN_S, 0.0) * RESTS, LONGEST_REST_S)


async def _wait_for(room: Room, greeting: trio.CancelScope) -> None:
    """Wait until there is room; who waits for that is not silent."""
    left_s = greeting.deadline - trio.current_time()
    greeting.deadline = math.inf
    await room.wait()
    greeting.deadline = trio.current_time() + left_s


async def _tell(transport: Transport, endpoint: Endpoint, alarm: Alarm, peer: trio.CancelScope) -> None:
    """Send what the peer is to be told unasked, whenever the alarm rings."""
    try:
        while True:
            await alarm.wait()
            while pending := endpoint.take_pending():
                await transport.send(pending)
                if endpoint.dropped is not None:
                    peer.cancel()
                    return
                await trio.lowlevel.checkpoint()
    except PeerLost as error:
        _log.debug("peer_lost", reason=str(error))
        peer.cancel()
