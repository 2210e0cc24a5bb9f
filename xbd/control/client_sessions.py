"""Sessions of toolstack clients: a client that says hello with a session's name may resume it after a lost connection.

A session's answers are kept like a guest's, with two differences. Only answers to calls that change something
are kept; a call that only reads is executed again when it is sent again. And there may be many sessions: when
all places are taken, the one that has been without a connection for longest is dropped.
"""

from typing import Final

from xbd.control.saved import CLIENT_WINDOW, SavedDaemon, SavedSession
from xbd.errors import Busy, DamagedState
from xbd.protocol.session import Action, Session, State

# Kept in place of the answer to a call that may be executed again, or of one that is too long (none is known).
EXECUTE_AGAIN: Final = b""
_KEPT_MOST_BYTES: Final = 160


class ClientSessions:
    """The sessions of a daemon's clients, by name.

    Args:
        saved: where sessions are saved; None: they are not.
        most: how many there are at most.
    """

    def __init__(self, saved: SavedDaemon | None, most: int) -> None:
        self._saved = saved
        self._most = most
        # In the order in which they were last connected.
        self._sessions: dict[str, Session] = {}
        self._free_rows = list(range(most))[::-1]
        self._rows: dict[str, int] = {}

    def restore(self) -> None:
        """Load what is saved: by an earlier daemon, or before a step that is undone. Raises DamagedState."""
        present = {self._rows[name]: session for name, session in self._sessions.items()}
        self._sessions, self._rows, self._free_rows = {}, {}, list(range(self._most))[::-1]
        for row in tuple(self._free_rows):
            session = present.get(row) or self._make(row)
            if isinstance(session, SavedSession) and session.reload(is_live=session.state is State.LIVE):
                if session.name in self._sessions:
                    raise DamagedState(f"two clients have the session {session.name!r}")
                self._register(session, row)

    def hello(self, msgid: int, name: str, last_seen: int | None) -> tuple[Session, bool]:
        """Open a session, or resume it; returns it, and whether it was resumed.

        Raises:
            HypercallError: it is in use by another connection, or cannot be resumed.
        """
        session = self._sessions.get(name)
        if session is not None:
            resumed = session.hello(msgid, name, last_seen) is Action.RESUME
            self._sessions[name] = self._sessions.pop(name)
            return session, resumed
        row = self._free_row()
        if self._saved is not None:
            self._saved.allocate_client(row)
        session = self._make(row)
        session.hello(msgid, name, last_seen)
        self._register(session, row)
        return session, False

    def _make(self, row: int) -> Session:
        if self._saved is None:
            return Session(CLIENT_WINDOW)
        first_slot = row * 2 * CLIENT_WINDOW
        return SavedSession(self._saved.clients, row, self._saved.answers, first_slot, CLIENT_WINDOW)

    def _register(self, session: Session, row: int) -> None:
        self._free_rows.remove(row)
        self._sessions[session.name] = session
        self._rows[session.name] = row

    def _free_row(self) -> int:
        """Find a free place, if need be that of the session that was lost longest ago. Raises Busy."""
        if not self._free_rows:
            stale = next((name for name, session in self._sessions.items() if session.state is State.LOST), None)
            if stale is None:
                raise Busy(f"{self._most} clients are connected", "a client less")
            session = self._sessions.pop(stale)
            if isinstance(session, SavedSession):
                session.forget()
            self._free_rows.append(self._rows.pop(stale))
        return self._free_rows[-1]


def answer_to_keep(answer: bytes, *, changing: bool) -> bytes:
    """Return what is kept of an answer: all of it, if the call may have changed something; long ones are refusals, which did not."""
    return answer if changing and len(answer) <= _KEPT_MOST_BYTES else EXECUTE_AGAIN
