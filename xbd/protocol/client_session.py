"""A client's side of its session, without I/O: bytes in, what they say out; calls in, bytes out.

Whoever is a client of a hypervisor drives one of these: the agents (`guest_session`), the client library, in tasks and
in threads (`toolstack_session`), and both simulations. It numbers calls, matches their answers and keeps what has to
be sent again. A connection begins with `connected`; a session with a name outlives its connections: the daemon is told
with hello which answer came last, and gives again what came after it, so nothing is done twice.
"""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Final, Generic, NamedTuple, TypeVar, cast

from xbd.errors import LocalProtocolError, RemoteProtocolError
from xbd.protocol.codec import (
    ANSWER_LIMITS,
    MSGID_LIMIT,
    VERSION,
    Decoder,
    Message,
    Notification,
    Request,
    Response,
    encode_request,
)
from xbd.protocol.fields import error_from_map
from xbd.replaceable import replaceable
from xbd.text import quote

HELLO_MSGID: Final = 0

CallT = TypeVar("CallT")
ResultT = TypeVar("ResultT")


class Greeted(NamedTuple):
    """Hello was answered: calls can be made. If it *resumed* the session, send `resend()` first."""

    answer: Mapping[str, object]
    resumed: bool


class HelloAgain(NamedTuple):
    """Hello was refused, for what another one may do without: send it, as it is *packed*."""

    packed: bytes


class Answered(NamedTuple, Generic[CallT, ResultT]):
    """A call was answered."""

    call: CallT
    result: ResultT


class ClientSession(Generic[CallT, ResultT]):
    """A session over any number of connections, one after the other.

    Args:
        where: what errors call the other end.
        read: makes the result of a call from its answer; RemoteProtocolError: it is no answer to that.
        name: of the session, never used before; None: it ends with its connection.
        window: how many calls may be without an answer.
        more: further parameters of hello.

    Attributes:
        last_seen: message id of the last answer; None until hello was answered.
        is_greeted: hello was answered on the present connection.
    """

    def __init__(
        self,
        where: str,
        read: Callable[[CallT, Response], ResultT],
        *,
        name: str | None,
        window: int,
        more: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        self.where = where
        self.name = name
        self.window = window
        self.last_seen: int | None = None
        self.is_greeted = False
        self.in_flight_bytes = 0
        self._read = read
        self._more = more
        self._decoder = Decoder(ANSWER_LIMITS)
        self._next_msgid = HELLO_MSGID + 1
        self._in_flight: dict[int, tuple[CallT, bytes]] = {}

    @property
    def in_flight(self) -> int:
        """Count the calls that have no answer yet."""
        return len(self._in_flight)

    def connected(self) -> bytes:
        """Begin on a new connection; returns the hello to send."""
        self._decoder = Decoder(ANSWER_LIMITS)
        self.is_greeted = False
        session = {} if self.name is None else {"session": self.name, "last_seen": self.last_seen}
        return encode_request(HELLO_MSGID, "hello", {"version": VERSION, **session, **self._more})

    def make_call(self, method: str, params: Mapping[str, object], call: CallT) -> bytes:
        """Pack a call under the next message id; *call* comes back with its answer.

        Raises:
            LocalProtocolError: as many as may be are in flight, or it cannot be packed; nothing has changed.
        """
        if len(self._in_flight) >= self.window:
            raise LocalProtocolError(f"{len(self._in_flight)} calls in flight, at most {self.window} may be")
        packed = encode_request(self._next_msgid, method, dict(params))
        self._in_flight[self._next_msgid] = call, packed
        self._next_msgid = (self._next_msgid + 1) % MSGID_LIMIT
        self.in_flight_bytes += len(packed)
        return packed

    @replaceable
    def resend(self) -> bytes:
        """Return the calls without an answer, packed as they were, to be sent after a hello that resumed the session."""
        return b"".join(packed for _, packed in self._in_flight.values())

    def receive(
        self, received: bytes | bytearray
    ) -> Iterator[Greeted | HelloAgain | Answered[CallT, ResultT] | Notification]:
        """Take bytes as they came; iterate over what they say, to the end.

        Raises:
            HypercallError: hello was refused.
            RemoteProtocolError: the other end broke the protocol, or says why it ends the connection.
        """
        self._decoder.feed(received)
        while (message := self._next_message()) is not None:
            yield self._take(message)

    def _next_message(self) -> Message | None:
        try:
            return self._decoder.next_message()
        except RemoteProtocolError as error:
            raise RemoteProtocolError(f"{self.where} sent {error}", error.hint) from error

    def _take(self, message: Message) -> Greeted | Answered[CallT, ResultT] | Notification:
        if type(message) is Response:
            return self._answered(message) if self.is_greeted else self._hello_answered(message)
        if type(message) is Request:
            raise RemoteProtocolError(f"{self.where} sent a call", "answers and notifications")
        match message:
            case Notification("dropped", [{"reason": str(reason), "expected": str(expected)}]):
                raise RemoteProtocolError(f"{self.where} ended the connection: {reason}", expected)
            case Notification("dropped", untrusted):
                raise RemoteProtocolError(f"{self.where} ended the connection: {quote(untrusted)}")
            case Notification(method, _) if not self.is_greeted:
                raise RemoteProtocolError(f"{self.where} sent {quote(method)} before hello's answer", "that first")
        return cast(Notification, message)

    def _hello_answered(self, response: Response) -> Greeted:
        """Take the answer to hello; unless it says `resumed`, forget the calls in flight."""
        if response.untrusted_error is not None:
            raise error_from_map(response.untrusted_error)
        untrusted = response.untrusted_result
        if response.msgid != HELLO_MSGID or not isinstance(untrusted, dict):
            raise RemoteProtocolError(f"{self.where} sent an answer {quote(untrusted)} to hello", "a map")
        resumed = untrusted.get("resumed") is True
        if resumed and self.last_seen is None:
            raise RemoteProtocolError(f"{self.where} says that it resumed a session which is new", "resumed: false")
        if not resumed:
            self._in_flight.clear()
            self.in_flight_bytes = 0
            self._next_msgid = HELLO_MSGID + 1
            self.last_seen = HELLO_MSGID
        self.is_greeted = True
        return Greeted(cast(dict[str, object], untrusted), resumed)

    def _answered(self, response: Response) -> Answered[CallT, ResultT]:
        due = next(iter(self._in_flight), None)
        # A session is resumed behind the last answer, so that answers come in order; without one any order will do.
        if response.msgid not in self._in_flight or (self.name is not None and response.msgid != due):
            raise RemoteProtocolError(
                f"{self.where} sent an answer to message id {response.msgid}",
                f"answers in order; due is {'none' if due is None else due}",
            )
        call, packed = self._in_flight[response.msgid]
        # An answer that cannot be read leaves its call in flight.
        result = self._read(call, response)
        del self._in_flight[response.msgid]
        self.in_flight_bytes -= len(packed)
        self.last_seen = response.msgid
        return Answered(call, result)
