"""A client of the toolstack's socket: one call at a time, in one session over any number of connections."""

from collections.abc import Callable
from typing import Any, Final

from xbd.errors import Busy, HypercallError
from xbd.lab.simulation.connection import Connection
from xbd.lab.simulation.context import Context
from xbd.lab.simulation.oracle import Violation
from xbd.protocol.codec import ANSWER_LIMITS, Decoder, Response, encode_request
from xbd.protocol.fields import error_from_map
from xbd.protocol.methods import VERSION

_PAUSE_S: Final = 0.05
_HELLO: Final = 0
# The result of a call, or its refusal.
CallResult = dict[str, Any] | HypercallError
Done = Callable[[CallResult], None]


class Caller:
    """A client that makes calls; each is answered once, however often the connection is lost.

    Attributes: *name*, for the trace.
    """

    def __init__(self, world: Context, name: str) -> None:
        self._world = world
        self.name = name
        self._connection: Connection | None = None
        self._decoder = Decoder(ANSWER_LIMITS)
        self._session = world.new_session()
        self._last_seen: int | None = None
        self._msgid = _HELLO
        self._greeted = False
        self._call = b""
        self._done: Done | None = None
        self._reconnect()

    @property
    def idle(self) -> bool:
        """Whether a call can be made now."""
        return self._greeted and self._done is None

    def call(self, method: str, params: dict[str, object], done: Done) -> None:
        """Make a call; *done* is called with its result or its refusal."""
        assert self.idle, f"{self.name} has a call in flight already"
        assert self._connection is not None, "a client without a connection cannot call"
        self._msgid += 1
        self._done = done
        self._call = encode_request(self._msgid, method, params)
        self._connection.send(self._call)

    # -- connecting

    def _reconnect(self) -> None:
        self._greeted = False
        self._world.schedule.after(_PAUSE_S, f"{self.name} connect", self._connect)

    def _connect(self) -> str | None:
        if self._connection is not None:
            return None
        if not self._world.daemon_up:
            self._reconnect()
            return "no daemon"
        self._connection = self._world.open_toolstack(self.name, self)
        self._decoder = Decoder(ANSWER_LIMITS)
        hello: dict[str, object] = {"version": VERSION, "session": self._session, "last_seen": self._last_seen}
        self._connection.send(encode_request(_HELLO, "hello", hello))
        return "hello"

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        self._reconnect()

    # -- the connection's client

    def received(self, connection: Connection, piece: bytes) -> None:
        """Handle bytes from the daemon."""
        if connection is not self._connection:
            return
        self._decoder.feed(piece)
        while self._connection is connection and (message := self._decoder.next_message()) is not None:
            if type(message) is not Response:
                raise Violation(f"{self.name} received {message!r:.200}, expected answers only")
            if self._greeted:
                self._handle_answer(message)
            else:
                self._handle_hello(message, connection)

    def lost(self, connection: Connection) -> None:
        """Reconnect after the connection was lost."""
        if connection is self._connection:
            self._drop()

    def _handle_hello(self, response: Response, connection: Connection) -> None:
        if response.untrusted_error is not None:
            error = error_from_map(response.untrusted_error)
            if not isinstance(error, Busy):
                raise Violation(f"{self.name}: hello was refused: {error}")
            # The daemon may not have noticed yet that the last connection is gone.
            self._drop()
            return
        assert isinstance(response.untrusted_result, dict), "hello is answered with a map"
        if self._last_seen is not None and not response.untrusted_result["resumed"]:
            raise Violation(f"{self.name}: the daemon has lost its session")
        self._greeted = True
        if self._last_seen is None:
            self._last_seen = _HELLO
        if self._done is not None:
            connection.send(self._call)

    def _handle_answer(self, response: Response) -> None:
        if response.msgid != self._msgid or self._done is None:
            raise Violation(f"{self.name} got answer {response.msgid}, it waits for {self._msgid}")
        done, self._done = self._done, None
        self._last_seen = response.msgid
        if response.untrusted_error is not None:
            done(error_from_map(response.untrusted_error))
        else:
            assert isinstance(response.untrusted_result, dict), "calls are answered with maps"
            done(response.untrusted_result)
