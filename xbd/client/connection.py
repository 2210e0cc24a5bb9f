"""A client's connection in tasks: a trio stream around a `ToolstackSession`, which says what to send and when to try again."""

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from xbd.client.calls import Awaiting, Request, T
from xbd.errors import PeerLost, XbdError
from xbd.protocol.client_session import Answered, Greeted, HelloAgain
from xbd.protocol.codec import RECEIVE_BYTES, Notification
from xbd.protocol.toolstack_session import ANSWER_TIMEOUT_S, CALLS_IN_FLIGHT, Outcome, ToolstackSession

_BROKEN: Final = (trio.BrokenResourceError, trio.ClosedResourceError)

Connect = Callable[[], Awaitable[trio.abc.Stream]]


class _Call:
    """A call that was made, and later what it came to."""

    __slots__ = ("outcome", "settled")

    def __init__(self) -> None:
        self.settled = trio.Event()
        self.outcome: Outcome = {}

    def settle(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.settled.set()


class Connection(Awaiting):
    """A connection to a daemon; calls may be made from any number of tasks.

    Args:
        stream: the first connection.
        session: its state.
        connect: makes the next connection of a session that has a name.
    """

    def __init__(self, stream: trio.abc.Stream, session: ToolstackSession[_Call], connect: Connect) -> None:
        self.stream = stream
        self.session = session
        self._connect = connect
        self._room = trio.Semaphore(CALLS_IN_FLIGHT)
        self._calls: set[_Call] = set()
        # Held while a call is sent whole, and while there is no connection.
        self._sending = trio.Lock()
        self._ended: XbdError | None = None
        self._news = trio.Event()

    async def ask(self, request: Request[T]) -> T:
        """Make a call, and return what its answer says.

        Raises:
            HypercallError: the daemon refused; nothing was changed.
            PeerLost: the connection ended, or no answer came in time.
            RemoteProtocolError: the answer makes no sense.
        """
        call = _Call()
        with trio.move_on_after(request.timeout_s):
            await self._send(call, request)
            await call.settled.wait()
        if not call.settled.is_set():
            raise self._hangs(request.method, request.timeout_s)
        return request.result(call.outcome)

    def _hangs(self, method: str, timeout_s: float) -> PeerLost:
        return PeerLost(f"{self.session.where} has not answered `{method}` for {timeout_s:g} s; is it hanging?")

    async def _send(self, call: _Call, request: Request[T]) -> None:
        """Number a call and send it whole, even if the caller is cancelled meanwhile: numbers must not have gaps."""
        await self._room.acquire()
        try:
            async with self._sending:
                if self._ended is not None:
                    raise self._ended
                message = self.session.make_call(request.method, request.params, call)
                self._calls.add(call)
                await self._send_whole(message)
        finally:
            if call not in self._calls and not call.settled.is_set():
                self._room.release()

    async def _send_whole(self, message: bytes) -> None:
        try:
            with trio.CancelScope(shield=True), trio.fail_after(ANSWER_TIMEOUT_S):
                await self.stream.send_all(message)
        except (*_BROKEN, trio.TooSlowError):
            # The receiving task sees the end, and resumes the session or ends it; what has no answer is sent again.
            await trio.aclose_forcefully(self.stream)

    async def greet(self) -> None:
        """Say hello on the first connection. Raises HypercallError, PeerLost, RemoteProtocolError."""
        with trio.move_on_after(ANSWER_TIMEOUT_S) as patience:
            await self._greet()
        if patience.cancelled_caught:
            raise self._hangs("hello", ANSWER_TIMEOUT_S)

    async def _greet(self) -> None:
        """Say hello on a new connection, and send again what has no answer. Raises as `greet` does."""
        try:
            await self.stream.send_all(self.session.connected())
            while not self.session.is_greeted:
                await self._receive()
        except _BROKEN as error:
            raise self._broke(error) from error

    async def receive_all(self) -> None:
        """Receive until the session is over; runs as a task of `serve_client`."""
        while self._ended is None:
            try:
                try:
                    while True:
                        await self._receive()
                except _BROKEN as error:
                    raise self._broke(error) from error
            except XbdError as error:
                await self._resume_after(error)

    async def _receive(self) -> None:
        """Take what comes next. Raises what the session does; PeerLost: the other end closed the connection."""
        received = await self.stream.receive_some(RECEIVE_BYTES)
        if not received:
            raise PeerLost(f"{self.session.where} closed the connection; it may have been stopped (see its log)")
        for message in self.session.receive(received):
            match message:
                case Answered(call, outcome):
                    self._calls.discard(call)
                    self._room.release()
                    call.settle(outcome)
                case Greeted(_, resumed=True):
                    await self.stream.send_all(self.session.resend())
                    self._news.set()
                case HelloAgain(packed):
                    await self.stream.send_all(packed)
                case Notification("event"):
                    self._news.set()

    def _broke(self, error: Exception) -> PeerLost:
        return PeerLost(f"the connection to {self.session.where} broke ({str(error) or type(error).__name__})")

    async def _resume_after(self, error: XbdError) -> None:
        """Connect again until hello is answered, or end the session and all its calls."""
        # Before the lock is waited for: who holds it may be sending to somebody who does not read.
        await trio.aclose_forcefully(self.stream)
        async with self._sending:
            while True:
                try:
                    pause_s = self.session.lost(error, trio.current_time())
                except XbdError as final:
                    self._end(final)
                    return
                await trio.sleep(pause_s)
                try:
                    await self._connect_again()
                except XbdError as again:
                    error = again
                else:
                    return

    async def _connect_again(self) -> None:
        """Connect and say hello, for as long as that is worth it. Raises XbdError; the stream is closed then."""
        assert self.session.give_up_at_s is not None, "a session that is lost for nobody knows how long"
        with trio.move_on_at(self.session.give_up_at_s):
            self.stream = await self._connect()
            try:
                await self._greet()
            except BaseException:
                await trio.aclose_forcefully(self.stream)
                raise
            return
        raise PeerLost(f"{self.session.where} has not answered `hello`")

    def _end(self, error: XbdError) -> None:
        """End the session, and fail all calls in flight."""
        self._ended = error
        for call in self._calls:
            call.settle(error)
            self._room.release()
        self._news.set()

    async def wait_for_events(self) -> None:
        """Wait until events were received, or some were missed. Raises the error that ended the connection."""
        if self._ended is not None:
            raise self._ended
        self._news = trio.Event()
        await self._news.wait()
