"""A client that follows the host's events through every restart, and checks that no event is repeated or left out."""

from typing import Any

from xbd.lab.simulation.connection import Connection
from xbd.lab.simulation.context import Context
from xbd.protocol.backoff import Backoff
from xbd.protocol.client_session import Answered, Greeted
from xbd.protocol.codec import Notification
from xbd.protocol.toolstack_session import EventQueue, ToolstackSession
from xbd.testing.oracle import Violation


class Follower:
    """A client that follows the events. Raises Violation when a number is repeated or left out.

    Attributes: *last_number*: the number of the last event received.
    """

    def __init__(self, world: Context) -> None:
        self._world = world
        self._connection: Connection | None = None
        self._session: ToolstackSession[None] = ToolstackSession("the daemon")
        self._backoff = Backoff()
        self._queue = EventQueue()
        self._next: int | None = None
        self.last_number = 0
        self._reconnect()

    def _reconnect(self) -> None:
        self._world.schedule.after(self._backoff.next_s(), "follower connect", self._connect)

    def _connect(self) -> str:
        if not self._world.daemon_up:
            self._reconnect()
            return "no daemon"
        self._connection = self._world.open_toolstack("follower", self)
        self._next = None
        self._connection.send(self._session.connected())
        return "hello"

    def received(self, connection: Connection, piece: bytes) -> None:
        """Handle bytes from the daemon."""
        if connection is not self._connection:
            return
        for message in self._session.receive(piece):
            match message:
                case Greeted():
                    self._backoff.reset()
                    connection.send(self._session.make_call("events", self._queue.ask(), None))
                case Answered(_, dict() as answer):
                    self._handle_answer(answer)
                case Notification("event", raw):
                    event = raw[0]  # type: ignore[index]  # the session has looked at it
                    self._queue.told(event)
                    self._handle_event(event)
                case _:
                    raise Violation(f"the follower of events received {message!r:.200}, expected events only")

    def _handle_answer(self, answer: dict[str, Any]) -> None:
        # A restarted daemon has lost the events that were kept in memory; the numbers continue.
        events = answer["events"]
        self._queue.take_answer(answer)
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
        if (read := self._queue.next()) != event:
            raise Violation(f"event {number} came, and a reader of the client gets {read}")
        self.last_number, self._next = number, number + 1

    def lost(self, connection: Connection) -> None:
        """Reconnect after the connection was lost."""
        if connection is self._connection:
            self._connection = None
            connection.close()
            self._reconnect()
