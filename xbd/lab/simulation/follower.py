"""A client that follows the host's events through every restart, and checks that no event is repeated or left out."""

from typing import Any, Final

from xbd.lab.simulation.connection import Connection
from xbd.lab.simulation.context import Context
from xbd.lab.simulation.oracle import Violation
from xbd.protocol.codec import ANSWER_LIMITS, Decoder, Notification, encode_request
from xbd.protocol.methods import VERSION

_PAUSE_S: Final = 0.2
_HELLO: Final = 0
_EVENTS: Final = 1


class Follower:
    """A client that follows the events. Raises Violation when a number is repeated or left out.

    Attributes: *last_number*: the number of the last event received.
    """

    def __init__(self, world: Context) -> None:
        self._world = world
        self._connection: Connection | None = None
        self._decoder = Decoder(ANSWER_LIMITS)
        self._next: int | None = None
        self.last_number = 0
        self._reconnect()

    def _reconnect(self) -> None:
        self._world.schedule.after(_PAUSE_S, "follower connect", self._connect)

    def _connect(self) -> str:
        if not self._world.daemon_up:
            self._reconnect()
            return "no daemon"
        self._connection = self._world.open_toolstack("follower", self)
        self._decoder = Decoder(ANSWER_LIMITS)
        self._next = None
        since: dict[str, object] = {"since": self.last_number + 1}
        hello = encode_request(_HELLO, "hello", {"version": VERSION})
        self._connection.send(hello + encode_request(_EVENTS, "events", since))
        return "hello"

    def received(self, connection: Connection, piece: bytes) -> None:
        """Handle bytes from the daemon."""
        if connection is not self._connection:
            return
        self._decoder.feed(piece)
        while (message := self._decoder.next_message()) is not None:
            match message:
                case Notification("event", raw):
                    self._handle_event(raw if isinstance(raw, dict) else raw[0])  # type: ignore[index]  # the daemon's own
                case Notification(method, raw):
                    raise Violation(f"the follower of events received {method} {raw!r:.200}, expected events only")
                case _ if message.msgid == _EVENTS:
                    self._handle_answer(message.untrusted_result)  # type: ignore[union-attr]  # no requests come from there

    def _handle_answer(self, answer: Any) -> None:  # noqa: ANN401 - as it comes
        # A restarted daemon has lost the events that were kept in memory; the numbers continue.
        events = answer["events"]
        self._next = events[0]["number"] if events else answer["next"]
        for event in events:
            self._handle_event(event)
        if self._next != answer["next"]:
            raise Violation(
                f"events up to {self.last_number} were received, the next one announced is {answer['next']}"
            )

    def _handle_event(self, event: dict[str, Any]) -> None:
        number = event["number"]
        if number <= self.last_number or number != self._next:
            raise Violation(f"event {number} comes after {self.last_number}, due is {self._next}: {event}")
        self.last_number, self._next = number, number + 1

    def lost(self, connection: Connection) -> None:
        """Reconnect after the connection was lost."""
        if connection is self._connection:
            self._connection = None
            connection.close()
            self._reconnect()
