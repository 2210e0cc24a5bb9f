"""Carrying bytes between a connection and its endpoint.

A peer's task receives, lets its endpoint take turns, and sends the answers, one turn after the
other; between two turns every other task gets its turn. A second task, asleep most of the time,
sends what the peer is to be told unasked. A peer that does not read holds up nobody but itself:
its answers are not computed before the previous ones are taken, notices are coalesced, events wait
in the host's log. One whose patience is limited is dropped when it does not read for that long.
"""

import math
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

import structlog
import trio

from xbd.errors import PeerLost
from xbd.services.endpoint import Endpoint
from xbd.wire.codec import RECEIVE_BYTES

_log = structlog.get_logger(__name__)

# How long a toolstack may leave its answers unread; a person who stopped one with Ctrl-Z can start it anew.
TOOLSTACK_PATIENCE_S: Final = 10.0


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
        """Wait for bytes, at most `RECEIVE_BYTES`; empty at the end."""
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            with suppress(BlockingIOError):
                try:
                    return self._socket.recv(RECEIVE_BYTES)
                except ConnectionError:
                    return b""

    async def send(self, answers: bytes) -> None:
        """Send all of it; where the socket's buffer has room, at once and without a pause."""
        sent = 0
        if not self._sending.locked():
            sent = self._send_some(answers)
            if sent == len(answers):
                return
        with trio.move_on_after(self._patience_s) as waiting:
            async with self._sending:
                rest = memoryview(answers)[sent:]
                while rest:
                    await trio.lowlevel.wait_writable(self._socket)
                    rest = rest[self._send_some(rest) :]
        if waiting.cancelled_caught:
            raise PeerLost(f"the peer has not read for {self._patience_s} s")

    def _send_some(self, answers: bytes | memoryview) -> int:
        try:
            return self._socket.send(answers)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise PeerLost(f"the peer is gone: {error.strerror}") from error

    def finish(self) -> None:
        """Take no more calls: what was received is answered, then the connection ends."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """End the connection."""
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()


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


async def converse(transport: Transport, make_endpoint: Callable[[Callable[[], None]], Endpoint]) -> None:
    """Serve one peer until it leaves, is lost, or is dropped; the transport is closed in the end.

    Args:
        transport: its bytes.
        make_endpoint: makes its endpoint, given what wakes this peer when there is something to tell.
    """
    alarm = Alarm()
    endpoint = make_endpoint(alarm.ring)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_tell, transport, endpoint, alarm, nursery.cancel_scope)
            await _answer(transport, endpoint)
            nursery.cancel_scope.cancel()
    finally:
        endpoint.closed()
        transport.close()
    if endpoint.dropped is not None:
        _log.warning("peer_dropped", reason=str(endpoint.dropped), expected=endpoint.dropped.hint)


async def _answer(transport: Transport, endpoint: Endpoint) -> None:
    """Receive, take turns, send; returns when the peer is gone or dropped."""
    try:
        while received := await transport.receive():
            endpoint.feed(received)
            while endpoint.more:
                answers = endpoint.turn()
                if answers:
                    await transport.send(answers)
                if endpoint.dropped is not None:
                    return
                if endpoint.more:
                    await trio.lowlevel.checkpoint()
    except PeerLost as error:
        _log.debug("peer_lost", reason=str(error))


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
