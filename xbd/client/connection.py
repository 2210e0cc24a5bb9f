"""A client's connection: calls and their answers, events, and resuming both after a lost connection.

Calls are numbered from the hello on and answered in order. A client with a `Resumption` opens a session:
when its connection is lost, it connects again with growing pauses, says with hello which answer it had
last, and sends again what has no answer. The daemon keeps the last answers of calls that change
something, and gives them again, so nothing is done twice; it does so through its own restarts, if its
state is saved. Where the session cannot be resumed, calls in flight raise `PeerLost`: whether they were
executed is then unknown.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import trio

from xbd.client.discovery import NoHypervisor
from xbd.client.retry import retry
from xbd.errors import Busy, HypercallError, PeerLost, RemoteProtocolError, XbdError
from xbd.protocol.backoff import Backoff
from xbd.protocol.codec import (
    ANSWER_LIMITS,
    MSGID_LIMIT,
    RECEIVE_BYTES,
    Decoder,
    Notification,
    Response,
    encode_request,
)
from xbd.protocol.fields import error_from_map
from xbd.protocol.methods import VERSION

# A daemon that has not answered by then hangs.
ANSWER_TIMEOUT_S: Final = 60.0
# Enough to keep the daemon busy, and as many answers as it keeps; it reads one client's calls in order anyway.
CALLS_IN_FLIGHT: Final = 64
# A reader of events that is this far behind fetches what it missed instead (the daemon keeps the latest).
EVENTS_QUEUED: Final = 10_000
# A daemon that restarts is there again after a second or three; one that is not after ten, is not restarting.
RESUME_WITHIN_S: Final = 10.0
_HELLO_MSGID: Final = 0

Params = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Resumption:
    """What it takes to resume after a loss: a function that connects, and the session's name."""

    connect: Callable[[], Awaitable[trio.abc.Stream]]
    session: str


class _Call:
    """A call in flight, and later its answer or error."""

    __slots__ = ("answered", "error", "result")

    def __init__(self) -> None:
        self.answered = trio.Event()
        self.result: object = None
        self.error: XbdError | None = None

    def settle(self, result: object, error: XbdError | None) -> None:
        self.result, self.error = result, error
        self.answered.set()


class Connection:
    """A connection to a daemon.

    Attributes: *events_waiting*: received events that were not read yet; *events_missed*: some were dropped, fetch them.
    """

    def __init__(self, stream: trio.abc.Stream, where: str, resumption: Resumption | None = None) -> None:
        self.stream = stream
        self.events_waiting: deque[dict[str, Any]] = deque()
        self.events_missed = False
        self._where = where
        self._resumption = resumption
        self._decoder = Decoder(ANSWER_LIMITS)
        self._calls: dict[int, _Call] = {}
        # Packed calls without an answer yet, also those whose callers were cancelled.
        self._unanswered: dict[int, bytes] = {}
        self._next_msgid = _HELLO_MSGID
        self._last_seen: int | None = None
        self._in_flight = trio.CapacityLimiter(CALLS_IN_FLIGHT)
        self._sending = trio.Lock()
        self._lost: XbdError | None = None
        self._new_events = trio.Event()

    # -- calls

    async def hello(self) -> dict[str, Any]:
        """Agree on the protocol's version; says {version, host}."""
        return await self.call("hello", self._hello_params())

    def _hello_params(self) -> dict[str, object]:
        if self._resumption is None:
            return {"version": VERSION}
        return {"version": VERSION, "session": self._resumption.session, "last_seen": self._last_seen}

    async def call(
        self, method: str, params: Params | None = None, *, timeout_s: float = ANSWER_TIMEOUT_S
    ) -> dict[str, Any]:
        """Call any method and wait for its answer, a map.

        Raises:
            HypercallError: the daemon refused; nothing was changed.
            PeerLost: the connection ended, or no answer came in *timeout_s*.
            RemoteProtocolError: the answer makes no sense.
        """
        async with self._in_flight:
            call = _Call()
            msgid: int | None = None
            try:
                with trio.move_on_after(timeout_s) as patience:
                    msgid = await self._send(call, method, dict(params or {}))
                    await call.answered.wait()
            finally:
                if msgid is not None:
                    self._calls.pop(msgid, None)
            if patience.cancelled_caught:
                raise PeerLost(f"{self._where} has not answered `{method}` for {timeout_s:g} s; is it hanging?")
        if call.error is not None:
            raise call.error
        if not isinstance(call.result, dict):
            raise RemoteProtocolError(f"{method} was answered with a {type(call.result).__name__}", "a map")
        return call.result

    async def _send(self, call: _Call, method: str, params: dict[str, object]) -> int:
        """Number a call and send it whole, even if the caller is cancelled meanwhile: numbers must not have gaps."""
        async with self._sending:
            if self._lost is not None:
                raise self._lost
            msgid, self._next_msgid = self._next_msgid, (self._next_msgid + 1) % MSGID_LIMIT
            message = encode_request(msgid, method, params)
            self._calls[msgid], self._unanswered[msgid] = call, message
            try:
                with trio.CancelScope(shield=True), trio.fail_after(ANSWER_TIMEOUT_S):
                    await self.stream.send_all(message)
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
                if self._resumption is None:
                    self._lose(PeerLost(f"the connection to {self._where} ended while a call was sent"))
                    raise self._lost or PeerLost(self._where) from error
                # It is sent again when the session is resumed; closing the stream makes the receiving task start that.
                await trio.aclose_forcefully(self.stream)
        return msgid

    # -- receiving

    async def receive_all(self) -> None:
        """Receive messages until the connection is finally lost; runs as a task of `serve_client`."""
        while True:
            lost = await self._receive()
            if self._resumption is None or self._last_seen is None or isinstance(lost, RemoteProtocolError):
                self._lose(lost)
                return
            async with self._sending:
                refused = await self._resume(self._resumption, lost)
                if refused is not None:
                    # Before a task that waits for the lock sends.
                    self._lose(refused)
                    return
            # Events that happened meanwhile have to be fetched.
            self.events_missed = True
            self._new_events.set()

    async def _receive(self) -> XbdError:
        """Receive messages from the present stream until it ends; returns why it ended."""
        try:
            while received := await self.stream.receive_some(RECEIVE_BYTES):
                self._decoder.feed(received)
                while (message := self._decoder.next_message()) is not None:
                    self._take(message)
                    if self._lost is not None:
                        return self._lost
        except RemoteProtocolError as error:
            return RemoteProtocolError(f"{self._where} sent {error}", error.hint)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            return PeerLost(f"the connection to {self._where} broke ({str(error) or type(error).__name__})")
        return PeerLost(f"{self._where} closed the connection; it may have been stopped (see its log)")

    def _take(self, message: object) -> None:
        match message:
            case Response(msgid, error, result):
                self._last_seen = msgid
                self._unanswered.pop(msgid, None)
                call = self._calls.get(msgid)
                if call is not None:
                    call.settle(result, None if error is None else error_from_map(error))
            case Notification("event", untrusted_params):
                self._take_event(untrusted_params)
            case Notification("dropped", [{"reason": str(reason), "expected": str(expected)}]):
                self._lose(RemoteProtocolError(f"{self._where} ended the connection: {reason}", expected))
            case Notification():
                pass  # a newer daemon may send notifications that this client does not know
            case _:
                raise RemoteProtocolError(f"an unexpected {type(message).__name__}", "an answer or an event")

    def _take_event(self, untrusted_params: object) -> None:
        match untrusted_params:
            case [dict() as event] if isinstance(event.get("number"), int):
                if len(self.events_waiting) >= EVENTS_QUEUED:
                    self.events_missed = True
                else:
                    self.events_waiting.append(event)
                self._new_events.set()
            case _:
                raise RemoteProtocolError(f"an event {untrusted_params!r:.80}", "[{number, event, ...}]")

    async def wait_for_events(self) -> None:
        """Wait until events were received, or some were missed. Raises the error that ended the connection."""
        if self._lost is not None:
            raise self._lost
        self._new_events = trio.Event()
        await self._new_events.wait()

    def _lose(self, error: XbdError) -> None:
        """Mark the connection as lost and fail all calls in flight; the first error is kept."""
        self._lost = self._lost or error
        for call in self._calls.values():
            if not call.answered.is_set():
                call.settle(None, self._lost)
        self._new_events.set()

    # -- after a loss

    async def _resume(self, resumption: Resumption, lost: XbdError) -> XbdError | None:
        """Resume the session on a new connection; returns None, or the error if it cannot be resumed."""
        backoff = Backoff()

        def passes(error: Exception) -> bool:
            # Not up yet; or the daemon has not noticed yet that the last connection is gone; or lost again.
            return isinstance(error, NoHypervisor | PeerLost | Busy | trio.BrokenResourceError)

        with trio.move_on_after(RESUME_WITHIN_S):
            await trio.aclose_forcefully(self.stream)
            await trio.sleep(backoff.next_s())
            try:
                if await retry(lambda: self._connect_again(resumption), backoff, passes):
                    return None
            except (HypercallError, RemoteProtocolError) as error:
                return PeerLost(f"{lost}; its session cannot be resumed: {error}")
            return PeerLost(f"{lost}; it came back as another host, whose state is not the one of before")
        return lost

    async def _connect_again(self, resumption: Resumption) -> bool:
        """Connect, and send again what has no answer; False: it is another host. Raises as `_hello_again` does."""
        self.stream = await resumption.connect()
        try:
            self._decoder = Decoder(ANSWER_LIMITS)
            resumed = await self._hello_again()
            if resumed:
                await self.stream.send_all(b"".join(self._unanswered.values()))
        except BaseException:
            await trio.aclose_forcefully(self.stream)
            raise
        return resumed

    async def _hello_again(self) -> bool:
        """Say hello on a new connection; returns whether the session was resumed. Raises HypercallError, PeerLost."""
        await self.stream.send_all(encode_request(_HELLO_MSGID, "hello", self._hello_params()))
        while (message := self._decoder.next_message()) is None:
            received = await self.stream.receive_some(RECEIVE_BYTES)
            if not received:
                raise PeerLost(f"{self._where} closed the connection")
            self._decoder.feed(received)
        match message:
            case Response(_, None, {"resumed": bool(resumed)}):
                return resumed
            case Response(_, dict() as error, _):
                raise error_from_map(error)
        raise RemoteProtocolError(f"an answer {message!r:.80} to hello", "{resumed, ...}")
