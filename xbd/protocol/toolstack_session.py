"""A toolstack's side of its session: calls that are answered with maps, events, and when to connect again.

Where the session cannot be resumed, calls in flight raise `PeerLost`: whether they were done is then unknown.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Final

from xbd.errors import Busy, HypercallError, PeerLost, RemoteProtocolError, XbdError
from xbd.protocol.backoff import Backoff
from xbd.protocol.client_session import Answered, CallT, ClientSession, Greeted, HelloAgain
from xbd.protocol.codec import Notification, Response
from xbd.protocol.fields import error_from_map
from xbd.text import quote

# A daemon that has not answered by then hangs.
ANSWER_TIMEOUT_S: Final = 60.0
# Enough to keep the daemon busy, and as many answers as it keeps; it reads one client's calls in order anyway.
CALLS_IN_FLIGHT: Final = 64
# A reader of events that is this far behind fetches what it missed instead (the daemon keeps the latest).
EVENTS_QUEUED: Final = 10_000
# A daemon that restarts is there again after a second or three; one that is not after ten, is not restarting.
RESUME_WITHIN_S: Final = 10.0
# What a daemon lacks that cannot keep one session more: room on its disk, memory, descriptors.
_NO_ROOM: Final = ("ENOSPC", "ENOMEM", "ENFILE")

Params = Mapping[str, object]
# What a call was answered with, or why it was not.
Outcome = dict[str, Any] | XbdError


class ToolstackSession(ClientSession[CallT, Outcome]):
    """A toolstack's session, or, without a name, its one connection.

    Args:
        where: what errors call the other end.
        name: of a session that is to be resumed, never used before.
        client: what it calls itself.

    Attributes:
        events: those that are followed; None: none are.
        give_up_at_s: until when it may be resumed, while it is lost.
    """

    def __init__(self, where: str, name: str | None = None, *, client: str | None = None) -> None:
        super().__init__(
            where, _outcome, name=name, window=CALLS_IN_FLIGHT, more={} if client is None else {"client": client}
        )
        self.events: EventQueue | None = None
        self.give_up_at_s: float | None = None
        self._backoff = Backoff()
        self._first_loss: XbdError | None = None

    def receive(
        self, received: bytes | bytearray
    ) -> Iterator[Greeted | HelloAgain | Answered[CallT, Outcome] | Notification]:
        """Take bytes as they came, as `ClientSession.receive`; events go to *events*, too.

        Where the daemon has no room for a new session there is none, and a connection that is lost is the end.

        Raises:
            HypercallError: hello was refused.
            RemoteProtocolError: also where another host has answered hello, which does not know the session.
        """
        try:
            for message in super().receive(received):
                match message:
                    case Greeted(_, resumed):
                        self._greeted(resumed=resumed)
                    case Notification("event", untrusted):
                        self._told(untrusted)
                yield message
        except HypercallError as error:
            if error.errno not in _NO_ROOM or self.name is None or self.last_seen is not None:
                raise
            self.name = None
            yield HelloAgain(self.connected())

    def _told(self, untrusted_params: object) -> None:
        match untrusted_params:
            case [dict() as event] if _is_numbered(event):
                if self.events is not None:
                    self.events.told(event)
            case _:
                raise RemoteProtocolError(
                    f"{self.where} sent an event {quote(untrusted_params)}", "[{number, event, ...}]"
                )

    def _greeted(self, *, resumed: bool) -> None:
        if self._first_loss is not None and not resumed:
            raise RemoteProtocolError("it came back as another host, whose state is not the one of before")
        self._first_loss = self.give_up_at_s = None
        self._backoff.reset()
        if self.events is not None:
            # What happened meanwhile has to be fetched.
            self.events.missed = True

    def lost(self, error: XbdError, now_s: float) -> float:
        """Note that the connection ended, or that there is none yet; returns how long to wait before the next attempt.

        Raises:
            XbdError: the session is over, and this is why.
        """
        self.is_greeted = False
        if self._first_loss is None:
            if self.name is None or self.last_seen is None or isinstance(error, RemoteProtocolError):
                raise error
            self._first_loss, self.give_up_at_s = error, now_s + RESUME_WITHIN_S
        elif isinstance(error, RemoteProtocolError | HypercallError) and not isinstance(error, Busy):
            raise PeerLost(f"{self._first_loss}; its session cannot be resumed: {error}") from error
        # Else it is not up yet; or has not noticed that the last connection is gone (Busy); or was lost again.
        pause_s = self._backoff.next_s()
        if self.give_up_at_s is None or now_s + pause_s >= self.give_up_at_s:
            raise self._first_loss
        return pause_s


def _outcome(_call: object, response: Response) -> Outcome:
    """Read an answer: its map, or the refusal. Raises RemoteProtocolError: the refusal is none."""
    if response.untrusted_error is not None:
        return error_from_map(response.untrusted_error)
    if isinstance(response.untrusted_result, dict):
        return response.untrusted_result
    return RemoteProtocolError(f"an answer of type {type(response.untrusted_result).__name__}", "a map")


class EventQueue:
    """Events from number *since* on, each once and in order: those that the daemon keeps, then those that it tells.

    Attributes: *missed*: some were not received; ask for them.
    """

    def __init__(self, since: int = 0) -> None:
        self._since = since
        self._waiting: deque[dict[str, Any]] = deque()
        self.missed = False

    def ask(self) -> dict[str, object]:
        """Begin anew; returns the parameters of the call of `events` to make."""
        self.missed = False
        self._waiting.clear()
        return {"since": self._since}

    def take_answer(self, answer: Mapping[str, Any]) -> None:
        """Take the answer to that call. Raises RemoteProtocolError: it has no numbered events."""
        untrusted = answer.get("events")
        if not isinstance(untrusted, list) or not all(_is_numbered(event) for event in untrusted):
            raise RemoteProtocolError(f"an answer with events {quote(untrusted)}", "[{number, event, ...}]")
        # They come before what was told while they were waited for.
        self._waiting.extendleft(reversed(untrusted))

    def told(self, event: dict[str, Any]) -> None:
        """Take an event that was told."""
        if len(self._waiting) >= EVENTS_QUEUED:
            self.missed = True
        else:
            self._waiting.append(event)

    def next(self) -> dict[str, Any] | None:
        """Return the next event; None: there is none yet."""
        while self._waiting:
            event = self._waiting.popleft()
            if event["number"] >= self._since:
                self._since = event["number"] + 1
                return event
        return None


def _is_numbered(untrusted: object) -> bool:
    return isinstance(untrusted, dict) and type(untrusted.get("number")) is int
