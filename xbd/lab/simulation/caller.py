"""A client of the toolstack's socket: one call at a time, in one session over any number of connections."""

from collections.abc import Callable
from typing import Final

from xbd.errors import Busy, PeerLost, XbdError
from xbd.lab.simulation.connection import Connection
from xbd.lab.simulation.context import Context
from xbd.protocol.backoff import FIRST_PAUSE_S
from xbd.protocol.client_session import Answered, Greeted, HelloAgain
from xbd.protocol.codec import Notification
from xbd.protocol.toolstack_session import Outcome, ToolstackSession
from xbd.testing.oracle import Violation

Done = Callable[[Outcome], None]
_NO_DAEMON: Final = PeerLost("no daemon runs")


class Caller:
    """A client that makes calls; each is answered once, however often the connection is lost.

    Attributes: *name*, for the trace.
    """

    def __init__(self, world: Context, name: str) -> None:
        self._world = world
        self.name = name
        self._connection: Connection | None = None
        self._session: ToolstackSession[Done] = ToolstackSession("the daemon", world.new_session())
        self._connect_after(FIRST_PAUSE_S)

    @property
    def idle(self) -> bool:
        """Whether a call can be made now."""
        return self._session.is_greeted and not self._session.in_flight

    def call(self, method: str, params: dict[str, object], done: Done) -> None:
        """Make a call; *done* is called with its result or its refusal."""
        assert self.idle, f"{self.name} has a call in flight already"
        assert self._connection is not None, "a client without a connection cannot call"
        self._connection.send(self._session.make_call(method, params, done))

    # -- connecting

    def _connect_after(self, pause_s: float) -> None:
        self._world.schedule.after(pause_s, f"{self.name} connect", self._connect)

    def _connect(self) -> str | None:
        if self._connection is not None:
            return None
        if not self._world.daemon_up:
            self._lose(_NO_DAEMON)
            return "no daemon"
        self._connection = self._world.open_toolstack(self.name, self)
        self._connection.send(self._session.connected())
        return "hello"

    def _lose(self, error: XbdError) -> None:
        """Close the connection, if there is one, and connect again after a pause. Raises Violation: the session is over."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        if self._session.last_seen is None:
            # A session that was never opened cannot be lost.
            pause_s = FIRST_PAUSE_S
        else:
            try:
                pause_s = self._session.lost(error, self._world.schedule.now)
            except XbdError as final:
                raise Violation(f"{self.name} has lost its session: {final}") from final
        self._connect_after(pause_s)

    # -- the connection's client

    def received(self, connection: Connection, piece: bytes) -> None:
        """Handle bytes from the daemon."""
        if connection is not self._connection:
            return
        try:
            for message in self._session.receive(piece):
                self._handle(message, connection)
        except Busy as error:
            # The daemon may not have noticed yet that the last connection is gone.
            self._lose(error)
        except XbdError as error:
            raise Violation(f"{self.name}: {error}") from error

    def lost(self, connection: Connection) -> None:
        """Reconnect after the connection was lost."""
        if connection is self._connection:
            self._lose(PeerLost("the connection ended"))

    def _handle(
        self, message: Greeted | HelloAgain | Answered[Done, Outcome] | Notification, connection: Connection
    ) -> None:
        match message:
            case Greeted(_, resumed=True):
                connection.send(self._session.resend())
            case HelloAgain(packed):
                connection.send(packed)
            case Answered(done, outcome):
                done(outcome)
            case Notification():
                raise Violation(f"{self.name} received {message!r:.200}, expected answers only")
