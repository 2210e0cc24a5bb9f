"""A connected Unix socket, driven directly: a call costs one pass of the scheduler, not three.

What is sent is tried at once, without a pause; only what the socket does not take is kept and waited for. At most one
piece of output is kept: `send` waits until it is gone, and who may not wait posts nothing before `is_clear`. So the memory
that a peer which does not read can take is that of one piece.
"""

import math
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import trio

from xbd.daemons.runtime import sockets
from xbd.daemons.runtime.outside import calls
from xbd.errors import PeerLost
from xbd.protocol.codec import RECEIVE_BYTES

_NOTHING = memoryview(b"")


@dataclass(slots=True)
class Place:
    """What a listener has to know of a peer to give its place to another one.

    Attributes:
        idle_since_s: since when it asks nothing, by trio's clock; None: a call of its own is in flight.
        is_held: whether something of it is kept here, such as a session, so that it may be idle.
        is_greeted: whether it has said hello; until it has, nothing else that it says counts.
        stalled_since_s: since when it leaves unread what it was sent; None: it reads.
        uid: whose it is, where that matters.
        last_word: makes what it is told when its place is taken, given the reason.
    """

    idle_since_s: float | None = None
    is_held: bool = False
    is_greeted: bool = False
    stalled_since_s: float | None = None
    uid: int = 0
    last_word: Callable[[str], bytes] = lambda _: b""

    def begin_call(self) -> None:
        """Keep the place while something is in flight."""
        if self.is_greeted:
            self.idle_since_s = None

    def end_call(self, *, keeps: bool) -> None:
        """Be idle from now on; something may *keep* it all the same."""
        if self.is_greeted:
            self.idle_since_s, self.is_held = trio.current_time(), keeps

    def quiet_since_s(self, *, may_be_held: bool) -> float | None:
        """Tell since when it has done nothing; None: it is at something, or keeps its place (unless it *may be held*)."""
        if may_be_held and self.stalled_since_s is not None:
            return self.stalled_since_s
        return self.idle_since_s if may_be_held or not self.is_held else None


class Transport:
    """A connection's bytes.

    Args:
        connection: connected, non-blocking; owned from here on.
        patience_s: how long a send may wait for the peer to read.

    Attributes: *place*: what its listener knows of it.
    """

    def __init__(self, connection: socket.socket, *, patience_s: float = math.inf) -> None:
        self.place = Place()
        self._socket = connection
        self._patience_s = patience_s
        self._unsent = _NOTHING
        self._draining = trio.Lock()

    async def receive(self) -> bytes:
        """Wait for bytes, at most `RECEIVE_BYTES`; empty at the end, also when somebody here has closed it, or no memory is left."""
        while True:
            try:
                await sockets.until_readable(self._socket)
                return calls.receive(self._socket, RECEIVE_BYTES)
            except BlockingIOError:
                continue
            except (OSError, MemoryError, trio.ClosedResourceError):
                return b""

    @property
    def is_clear(self) -> bool:
        """Whether all that was given to it has been sent."""
        return not self._unsent

    async def send(self, output: bytes) -> None:
        """Send all of it, before or after what other tasks send; at once and without a pause where it fits.

        Raises:
            PeerLost: the peer is gone, or has not read for as long as it may.
        """
        if not self._unsent:
            self.post(output)
            output = b""
        if self._unsent:
            await self._drain_and_send(output)

    def post(self, output: bytes) -> None:
        """Send what can be sent at once; the rest is kept, for `drain`. Only when `is_clear`. Raises PeerLost."""
        assert not self._unsent, f"{len(self._unsent)} bytes are kept, and more were posted"
        sent = self._send_some(output)
        if sent < len(output):
            self._unsent = memoryview(output)[sent:]

    async def drain(self) -> None:
        """Wait until it `is_clear`. Raises PeerLost, as `send` does."""
        await self._drain_and_send(b"")

    async def _drain_and_send(self, output: bytes) -> None:
        """Send what is kept, then *output*. A send that is cancelled leaves its rest to the next: no message is torn."""
        with trio.move_on_after(self._patience_s) as waiting:
            async with self._draining:
                self.place.stalled_since_s = trio.current_time()
                while self._unsent or output:
                    if not self._unsent:
                        self.post(output)
                        output = b""
                        continue
                    await self._until_writable()
                    self._unsent = self._unsent[self._send_some(self._unsent) :]
                self.place.stalled_since_s = None
        if waiting.cancelled_caught:
            raise PeerLost(f"the peer has not read for {self._patience_s} s")

    async def _until_writable(self) -> None:
        try:
            await sockets.until_writable(self._socket)
        except (OSError, trio.ClosedResourceError) as error:
            raise PeerLost("the connection was closed") from error

    def _send_some(self, output: bytes | memoryview) -> int:
        """Send what can be sent at once; returns how many bytes that were. Raises PeerLost."""
        try:
            return calls.send(self._socket, output)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise PeerLost(f"the peer is gone: {error.strerror}") from error

    def send_last(self, message: bytes) -> None:
        """Send a short message if that can be done at once; whoever ends does not wait for a peer."""
        with suppress(PeerLost):
            if not self._unsent:
                self._send_some(message)

    def give_place_away(self, reason: str) -> None:
        """End the connection of a peer that is idle, and tell it why, if it reads."""
        self.send_last(self.place.last_word(reason))
        self.close()

    def finish(self) -> None:
        """Take no more calls: what was received is answered, then the connection ends."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """End the connection."""
        sockets.close(self._socket)
