"""A server's side of a session: the state by which calls go on after a lost connection, each executed exactly once.

It decides for each hello and each call whether it is new, a repeat or out of order; it keeps the last answers, so that
a repeated call is answered from them and not executed again. It is plain state; sending and receiving is the callers'
part. The client's side is `xbd.protocol.client_session`.
"""

from collections import deque
from enum import Enum, auto
from typing import Final

from xbd.abi import MAX_IN_FLIGHT
from xbd.errors import BadArgument, Busy, LocalProtocolError, RemoteProtocolError
from xbd.protocol.codec import MSGID_LIMIT
from xbd.replaceable import replaceable

# As many answers as calls may be in flight: whatever a lost connection swallowed is among them.
WINDOW_ANSWERS: Final = MAX_IN_FLIGHT


class State(Enum):
    """The state of a session: never opened, on a live connection, or waiting to be resumed."""

    NONE = auto()
    LIVE = auto()
    LOST = auto()


class Event(Enum):
    """What can happen to a session."""

    HELLO_NEW = auto()
    HELLO_SAME = auto()
    HELLO_BEYOND_WINDOW = auto()
    CALL_NEXT = auto()
    CALL_REPEATED = auto()
    CALL_OUT_OF_TURN = auto()
    DISCONNECT = auto()


class Action(Enum):
    """What the server does about an event."""

    BOOT = auto()
    RESUME = auto()
    EXECUTE = auto()
    ANSWER_AGAIN = auto()
    NOTHING = auto()
    REFUSE_BUSY = auto()
    REFUSE_BEYOND_WINDOW = auto()
    REFUSE_TURN = auto()


TABLE: Final[dict[tuple[State, Event], tuple[Action, State]]] = {
    (State.NONE, Event.HELLO_NEW): (Action.BOOT, State.LIVE),
    (State.LIVE, Event.HELLO_NEW): (Action.REFUSE_BUSY, State.LIVE),
    (State.LIVE, Event.HELLO_SAME): (Action.REFUSE_BUSY, State.LIVE),
    (State.LIVE, Event.HELLO_BEYOND_WINDOW): (Action.REFUSE_BUSY, State.LIVE),
    (State.LIVE, Event.CALL_NEXT): (Action.EXECUTE, State.LIVE),
    (State.LIVE, Event.CALL_REPEATED): (Action.ANSWER_AGAIN, State.LIVE),
    (State.LIVE, Event.CALL_OUT_OF_TURN): (Action.REFUSE_TURN, State.LIVE),
    (State.LIVE, Event.DISCONNECT): (Action.NOTHING, State.LOST),
    (State.LOST, Event.HELLO_NEW): (Action.BOOT, State.LIVE),
    (State.LOST, Event.HELLO_SAME): (Action.RESUME, State.LIVE),
    (State.LOST, Event.HELLO_BEYOND_WINDOW): (Action.REFUSE_BEYOND_WINDOW, State.LOST),
}


@replaceable
def transition(state: State, event: Event) -> tuple[Action, State]:
    """Tell what is done about an event, and the state that follows. Raises KeyError: this cannot happen in that state."""
    return TABLE[state, event]


class Session:
    """A session as the daemon keeps it; it outlives its connections, and is restored after a restart.

    Args:
        window: how many answers are kept.
    """

    def __init__(self, window: int = WINDOW_ANSWERS) -> None:
        self.state = State.NONE
        self.name = ""
        self.hello_msgid = 0
        self.next_msgid = 0
        # `last_seen` of the hello that opened it; not None where the client meant to resume a session that was lost.
        self.opened_with: int | None = None
        self.window = window
        # How many of the last answers are kept; and these answers, unless a subclass overrides `keep` and `kept`.
        self._kept = 0
        self._answers: deque[bytes] = deque(maxlen=window)

    def restore(self, name: str, hello_msgid: int, next_msgid: int, opened_with: int | None, kept: int) -> None:
        """Take the saved values of an earlier daemon's session, which has *kept* answers; it waits to be resumed."""
        self.state = State.LOST
        self.name, self.hello_msgid, self.next_msgid, self.opened_with = name, hello_msgid, next_msgid, opened_with
        self._kept = kept

    def keep(self, answer: bytes) -> None:
        """Keep the answer to the call with the next message id."""
        self._answers.append(answer)

    def kept(self, msgid: int) -> bytes:
        """Return the kept answer to call *msgid*."""
        return self._answers[-((self.next_msgid - msgid) % MSGID_LIMIT)]

    def hello(self, msgid: int, name: str, last_seen: int | None) -> Action:
        """Decide what a hello does: BOOT (a new session: reboot the guest) or RESUME.

        Raises:
            Busy: another connection holds a session here.
            BadArgument: answers after *last_seen* are not kept any more.
        """
        action = self._apply(self._classify_hello(name, last_seen))
        if action is Action.REFUSE_BUSY:
            raise Busy(
                "another connection holds this domain's session", "one agent at a time; try again when it is gone"
            )
        if action is Action.REFUSE_BEYOND_WINDOW:
            raise BadArgument(
                f"session {name!r} cannot be resumed after answer {last_seen}",
                f"one of the last {self._kept} before message id {self.next_msgid}, or a new session",
            )
        if action is Action.BOOT:
            self.name = name
            self.hello_msgid = msgid
            self.next_msgid = (msgid + 1) % MSGID_LIMIT
            self.opened_with = last_seen
            self._kept = 0
            self._answers.clear()
        return action

    def call(self, msgid: int) -> bytes | None:
        """Decide what a call does: None when it is to be executed now, else the answer that was kept of it.

        Raises:
            RemoteProtocolError: its message id is neither the next nor that of a kept answer.
        """
        if self.state is State.LIVE and msgid == self.next_msgid:  # the usual case, without the table, for speed
            return None
        return self.answer_again(msgid)

    @replaceable
    def answer_again(self, msgid: int) -> bytes:
        """Return the answer to a call that was executed. Raises RemoteProtocolError, as `call` does."""
        age = (self.next_msgid - msgid) % MSGID_LIMIT
        repeated = 0 < age <= self._kept
        action = self._apply(Event.CALL_REPEATED if repeated else Event.CALL_OUT_OF_TURN)
        if action is Action.REFUSE_TURN:
            raise RemoteProtocolError(f"message id {msgid} out of turn", f"{self.next_msgid}, rising by one")
        return self.kept(msgid)

    def answered(self, answer: bytes) -> None:
        """Keep the answer to the call that was executed, and expect the next message id."""
        self.keep(answer)
        self._kept = min(self._kept + 1, self.window)
        self.next_msgid = (self.next_msgid + 1) % MSGID_LIMIT

    def disconnect(self) -> None:
        """Note that the connection is lost; the session may be resumed."""
        self._apply(Event.DISCONNECT)

    def _classify_hello(self, name: str, last_seen: int | None) -> Event:
        if self.state is State.NONE or name != self.name:
            return Event.HELLO_NEW
        called = self.next_msgid != (self.hello_msgid + 1) % MSGID_LIMIT
        if not called and last_seen == self.opened_with:
            # The same hello again, and no call in between: the client never received the answer to the first one.
            return Event.HELLO_NEW
        seen = self.hello_msgid if last_seen is None else last_seen
        unseen = (self.next_msgid - 1 - seen) % MSGID_LIMIT
        return Event.HELLO_SAME if unseen <= self._kept else Event.HELLO_BEYOND_WINDOW

    def _apply(self, event: Event) -> Action:
        try:
            action, self.state = transition(self.state, event)
        except KeyError:
            raise LocalProtocolError(f"a session in state {self.state.name} cannot take {event.name}") from None
        return action
