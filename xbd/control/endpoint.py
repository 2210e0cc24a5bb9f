"""The server's end of one connection, without the connection: received bytes go in, bytes to send come out.

A shell feeds what it received, then takes turns: each `turn` handles complete messages until their cost
reaches a turn's budget, and returns the answers in one piece. `take_pending` returns notifications for the
peer, after which turns may be due, too. When `dropped` is set, the connection is to be closed once the bytes returned last are sent.
"""

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from xbd.abi import MAX_IN_FLIGHT, MULTICALL_EXTENTS, TURN_EXTENTS
from xbd.control.client_sessions import answer_to_keep
from xbd.control.controller import ANY_CLIENT, Controller
from xbd.control.guest_call import answer_call
from xbd.errors import BadArgument, Busy, HypercallError, NoSuchDomain, OutOfResources, RemoteProtocolError
from xbd.machine.reboot import Reboot
from xbd.protocol import fields
from xbd.protocol.autoballoon_methods import AUTOBALLOON_METHODS
from xbd.protocol.codec import (
    CALL_LIMITS,
    HELLO_LIMITS,
    VERSION,
    Decoder,
    Notification,
    Request,
    Response,
    encode_error,
    encode_notification,
    encode_packed_response,
    encode_response,
)
from xbd.protocol.guest_methods import DOMAIN_METHODS, GUEST_NOTIFICATIONS
from xbd.protocol.methods import CHANGING_METHODS, TOOLSTACK_METHODS, check_version
from xbd.protocol.session import Session

# What any message costs of a turn, in extents: some 20 us of decoding, checking and answering. So a turn takes as many
# small calls as an agent has in flight, and one that sends them without end holds up others no longer than a batch does.
MESSAGE_COST: Final = TURN_EXTENTS // MAX_IN_FLIGHT
# What a toolstack's call costs: a turn. They are rare, and some read every domain.
CALL_COST: Final = TURN_EXTENTS
# Hellos that a connection may have refused; an agent tries again on a new one, when that is let in.
MAX_REFUSED_HELLOS: Final = 8
# Events in one piece to one subscriber; it gets the next ones when it has taken these.
EVENTS_AT_ONCE: Final = 256


class Endpoint(ABC):
    """The part that all endpoints share: decoding, turns, dropping a peer."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._decoder = Decoder(HELLO_LIMITS)
        self.admitted = False
        self.dropped: RemoteProtocolError | None = None
        self.more = False
        # How many batches the last turn did, at most: two where it did a multicall of more than one.
        self.batches = 1
        self._lacks_memory = False
        # A call that goes on in the next turn.
        self._unfinished: Request | None = None

    def feed(self, received: bytes | bytearray) -> None:
        """Take bytes as they came, at most `codec.RECEIVE_BYTES`; then take turns while `more` is set."""
        self.more = True
        # The decoder raises the same error again at next_message, in a turn, where it can be answered.
        try:
            with suppress(RemoteProtocolError):
                self._decoder.feed(received)
        except MemoryError:
            # Of what came in nothing was done yet: it goes with this peer, and others are served.
            self._lacks_memory = True

    def turn(self) -> bytes:
        """Handle messages up to a turn's cost; returns their answers. `more` tells whether another turn is needed."""
        answers: list[bytes] = []
        spent = 0
        self.more, self.batches = False, 1
        if self.dropped is not None:
            return b""
        try:
            while (message := self._next_message()) is not None:
                cost, answer = self._handle(message)
                spent += cost
                answers.append(answer)
                if spent >= TURN_EXTENTS:
                    self.more = self._has_more()
                    break
        except RemoteProtocolError as error:
            answers.append(self.drop(error))
        except OutOfResources as error:
            # The step was undone: a peer that resumes its session sends the call again, and others are served.
            answers.append(self.drop(RemoteProtocolError(error.message, error.expected)))
        return answers[0] if len(answers) == 1 else b"".join(answers)

    def _has_more(self) -> bool:
        return self._unfinished is not None or self._decoder.unread_bytes > 0

    def _next_message(self) -> Request | Response | Notification | None:
        """Decode the next message. Raises RemoteProtocolError, also where the daemon has no memory for it."""
        if self._unfinished is not None:
            return self._unfinished
        try:
            if not self._lacks_memory:
                return self._decoder.next_message()
        except MemoryError:
            self._lacks_memory = True
        raise RemoteProtocolError("no memory is left to the daemon for this message", "the same later, or less at once")

    def drop(self, error: RemoteProtocolError) -> bytes:
        """Drop the peer; returns the last notification to send."""
        # Its tracebacks lead here: they would keep this endpoint, and files of a domain that is gone, for the garbage collector.
        error.__cause__ = error.__context__ = None
        self.dropped = error.with_traceback(None)
        return encode_notification("dropped", {"reason": str(error), "expected": error.hint})

    def _admit(self) -> None:
        """Admit the peer, whose hello was accepted: longer messages are taken from now on."""
        if not self.admitted:
            self.admitted = True
            self._decoder = self._decoder.with_limits(CALL_LIMITS)

    @property
    def keeps_place(self) -> bool:
        """Whether something of it is kept here: it may be idle, and gives its place up last, if at all (`Listener.yields`)."""
        return self.admitted

    @abstractmethod
    def take_pending(self) -> bytes:
        """Return notifications for the peer; empty when there are none."""

    @abstractmethod
    def closed(self) -> None:
        """Handle the end of the connection."""

    @abstractmethod
    def _handle(self, message: Request | Response | Notification) -> tuple[int, bytes]:
        """Handle one message; returns its cost, in extents, and its answer."""


class DomainEndpoint(Endpoint):
    """A guest's connection to its own domain."""

    def __init__(self, host: Controller, domid: int, wake: Callable[[], None]) -> None:
        super().__init__(wake)
        self._host = host
        self._record = host.record(domid)
        self._refused_hellos = 0
        self._reboot: Reboot | None = None
        # Calls that came while the domain was paused, in order.
        self._held: deque[Request] = deque()

    def take_pending(self) -> bytes:
        """Return the notices that were not sent to the agent yet; calls that waited for the end of a pause are due then."""
        if not self.admitted or self.dropped is not None:
            return b""
        notices = b"".join(encode_notification(kind, params) for kind, params in self._record.notices.items())
        self._record.notices.clear()
        self.more = self.more or self._has_held()
        return notices

    def _has_held(self) -> bool:
        return bool(self._held) and not self._record.is_paused

    def _has_more(self) -> bool:
        return self._has_held() or super()._has_more()

    def _next_message(self) -> Request | Response | Notification | None:
        return self._held.popleft() if self._has_held() else super()._next_message()

    def closed(self) -> None:
        """Leave the session to be resumed."""
        if self.admitted or self._unfinished is not None:
            self.admitted, self._unfinished = False, None
            # If that cannot be saved it is undone, but for the connection, which is gone.
            with suppress(OutOfResources), self._host.step():
                self._host.disconnect(self._record)

    def _handle(self, message: Request | Response | Notification) -> tuple[int, bytes]:
        if self._record.gone:
            # Messages that were received before the connection is closed are for a domain that was destroyed.
            raise RemoteProtocolError(f"d{self._record.domid} is gone", "a domain that is there")
        if type(message) is Request:
            if not self.admitted:
                return self._hello(message)
            if self._record.is_paused:
                self._hold(message)
                return MESSAGE_COST, b""
            return self._call(message)
        if type(message) is Notification and self.admitted:
            self._notified(message)
            return MESSAGE_COST, b""
        if not self.admitted:
            raise RemoteProtocolError(f"a {type(message).__name__.lower()} before hello", "a call of hello first")
        raise RemoteProtocolError("an answer, but nothing was asked", "calls and notifications")

    def _hold(self, request: Request) -> None:
        """Keep a call until its domain is unpaused. Raises RemoteProtocolError: there are more than an agent may have in flight."""
        if len(self._held) >= MAX_IN_FLIGHT:
            who = f"d{self._record.domid}"
            raise RemoteProtocolError(f"{MAX_IN_FLIGHT} calls wait while {who} is paused", "no more calls")
        self._held.append(request)

    def _hello(self, request: Request) -> tuple[int, bytes]:
        """Open a session and, in this turn and as many more as it takes, reboot the guest; then the hello is answered."""
        if request.method != "hello":
            raise RemoteProtocolError(f"a call of {request.method!r} before hello", "a call of hello first")
        try:
            params = fields.check_params("hello", DOMAIN_METHODS["hello"].params, request.untrusted_params)
            check_version(params["version"])
            self._check_meant(params["uuid"])
            asked = request.msgid, params["session"], params["last_seen"]
            with self._host.step():
                if self._unfinished is None:
                    self._reboot = self._host.open_session(self._record, *asked)
                if self._reboot is not None and not self._reboot.go_on():
                    boot = None
                else:
                    boot = self._host.connect(self._record, self._reboot, self._wake)
            if boot is None:
                self._unfinished = request
                return TURN_EXTENTS, b""
            self._record.report_every_s = params["report_every_s"] or math.inf
        except HypercallError as error:
            self.closed()
            self._refused_hellos += 1
            if self._refused_hellos > MAX_REFUSED_HELLOS:
                raise RemoteProtocolError(f"{self._refused_hellos} hellos refused", "a new connection") from error
            return MESSAGE_COST, encode_error(request.msgid, fields.error_map(error))
        self._unfinished = self._reboot = None
        self._admit()
        return MESSAGE_COST, encode_response(request.msgid, boot)

    def _check_meant(self, uuid: str | None) -> None:
        """Refuse an agent of another domain that had the same number before. Raises NoSuchDomain."""
        here = self._record
        if uuid is not None and uuid != here.uuid:
            raise NoSuchDomain(f"d{here.domid} is not {uuid}, but {here.uuid}", "an agent of this domain")

    def _call(self, request: Request) -> tuple[int, bytes]:
        session = self._record.session
        answer = session.call(request.msgid)
        if answer is not None:
            return MESSAGE_COST, answer
        with self._host.step():
            operations, spent, answer = answer_call(self._host, self._record, request)
            session.answered(answer)
        # What one call names beyond that is checked, and not done in this turn.
        if operations > 1 and TURN_EXTENTS < spent <= 2 * MULTICALL_EXTENTS:
            self.batches = 2
        return MESSAGE_COST * operations + spent, answer

    def _notified(self, notification: Notification) -> None:
        method = notification.method
        if method in ("stopped", "leaving"):
            with self._host.step():
                (self._host.stopped if method == "stopped" else self._host.leaving)(self._record)
            return
        if method == "unchanged":
            self._record.reported(None, self._host.now_s())
            return
        if method != "report":
            raise RemoteProtocolError(f"unknown notification {method!r}", f"one of {', '.join(GUEST_NOTIFICATIONS)}")
        try:
            self._host.reported(self._record, notification.untrusted_params)
        except BadArgument as error:
            # A notification has no answer, so it cannot be refused but by dropping the peer.
            raise RemoteProtocolError(error.message, error.expected) from error


class CallEndpoint(Endpoint):
    """A connection whose peer says hello and then makes calls, each answered with a map."""

    def __init__(self, name: str, wake: Callable[[], None]) -> None:
        super().__init__(wake)
        self._name = name

    def _handle(self, message: Request | Response | Notification) -> tuple[int, bytes]:
        if type(message) is not Request:
            raise RemoteProtocolError(f"a {type(message).__name__.lower()} from a client", "calls")
        if message.method != "hello" and not self.admitted:
            raise RemoteProtocolError(f"a call of {message.method!r} before hello", "a call of hello first")
        return CALL_COST, self._answer(message)

    def _answer(self, request: Request) -> bytes:
        """Do what a call asks; returns its answer."""
        try:
            answer: object = self._hello(request) if request.method == "hello" else self._call(request)
        except HypercallError as error:
            return encode_error(request.msgid, fields.error_map(error))
        if isinstance(answer, bytes):
            return encode_packed_response(request.msgid, answer)
        return encode_response(request.msgid, answer)

    def _hello(self, request: Request) -> dict[str, object]:
        """Agree on the version. Raises HypercallError."""
        params = fields.check_params("hello", AUTOBALLOON_METHODS["hello"].params, request.untrusted_params)
        check_version(params["version"])
        self._admit()
        return {"version": VERSION, "host": self._name}

    @property
    @abstractmethod
    def keeps_place(self) -> bool:
        """Whether something of it is kept for it here."""

    @abstractmethod
    def _call(self, request: Request) -> dict[str, object] | bytes:
        """Do what a call asks; returns its answer, which may be packed. Raises HypercallError."""


class ToolstackEndpoint(CallEndpoint):
    """A toolstack's connection."""

    def __init__(self, host: Controller, wake: Callable[[], None]) -> None:
        super().__init__(host.name, wake)
        self._host = host
        self._next_event: int | None = None
        self._session: Session | None = None
        self._client = ANY_CLIENT

    @property
    def keeps_place(self) -> bool:
        """Whether it has a session, or follows the events."""
        return self._session is not None or self._next_event is not None

    def take_pending(self) -> bytes:
        """Return events that were not sent to a subscriber yet, at most `EVENTS_AT_ONCE`."""
        if self._next_event is None:
            return b""
        if self._next_event < self._host.events.first_number:
            missed = self._host.events.first_number - self._next_event
            return self.drop(RemoteProtocolError(f"{missed} events were missed", "a subscriber that reads"))
        events = self._host.events.since(self._next_event, EVENTS_AT_ONCE)
        self._next_event += len(events)
        return b"".join(encode_notification("event", event) for event in events)

    def closed(self) -> None:
        """Forget the subscription; the session may be resumed."""
        self._host.subscribers.discard(self._wake)
        if self._session is not None:
            self._session.disconnect()
            self._session = None

    def _hello(self, request: Request) -> dict[str, object]:
        params = fields.check_params("hello", TOOLSTACK_METHODS["hello"].params, request.untrusted_params)
        session, last_seen, client = params.pop("session"), params.pop("last_seen"), params.pop("client")
        answer = super()._hello(request._replace(untrusted_params=params))
        self._client = client or ANY_CLIENT
        if session is None:
            return answer | {"resumed": False}
        if self._session is not None:
            raise Busy(f"this connection holds session {self._session.name!r}", "one hello with a session")
        self._session, resumed = self._host.clients.hello(request.msgid, session, last_seen)
        return answer | {"resumed": resumed}

    def _answer(self, request: Request) -> bytes:
        # Outside of sessions, and for the hello that opens one, nothing is kept.
        session = None if request.method == "hello" else self._session
        kept = None if session is None else session.call(request.msgid)
        if kept:
            return kept
        try:
            return self._answer_in_a_step(request, super()._answer, None if kept is not None else session)
        except OutOfResources as error:
            refusal = encode_error(request.msgid, fields.error_map(error))
            return self._answer_in_a_step(request, lambda _: refusal, None if kept is not None else session)

    def _answer_in_a_step(
        self, request: Request, answer_to: Callable[[Request], bytes], session: Session | None
    ) -> bytes:
        """Answer a call, and keep the answer for *session*. Raises OutOfResources: nothing has changed."""
        with self._host.step():
            answer = answer_to(request)
            if session is not None:
                session.answered(answer_to_keep(answer, changing=request.method in CHANGING_METHODS))
        return answer

    def _call(self, request: Request) -> dict[str, object] | bytes:
        if request.method == "events":
            return self._subscribe(request.untrusted_params)
        if request.method == "list":
            return self._host.list(request.untrusted_params)
        return self._host.call(request.method, request.untrusted_params, self._client)

    def _subscribe(self, untrusted: object) -> dict[str, object]:
        since = fields.check_params("events", TOOLSTACK_METHODS["events"].params, untrusted)["since"]
        events = self._host.events.since(since)
        self._next_event = self._host.events.next_number
        self._host.subscribers.add(self._wake)
        return {"events": events, "next": self._next_event}
