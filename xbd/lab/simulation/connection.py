"""A connection between a client and one of the daemon's endpoints, and what can happen to it."""

from collections import deque
from typing import Final, Protocol

from xbd.control.endpoint import Endpoint
from xbd.lab.simulation.rng import Lots, Schedule
from xbd.lab.simulation.stream import Stream

# What the daemon takes for a turn, and until it looks at what came in.
_TURN_S: Final = 0.00002
# A notice that came lately may come again; a call only while its answer is kept for sure.
_NOTICES_KEPT: Final = 4


class Client(Protocol):
    """Whoever is at the other end."""

    def received(self, connection: "Connection", piece: bytes) -> None:
        """Take bytes."""

    def lost(self, connection: "Connection") -> None:
        """Note the end."""


class Connection:
    """Two streams, and the daemon's end of them.

    Args:
        name: of the client, for the trace.
        client: is told what comes down, and of the end.

    Attributes: *name*; *endpoint*: the daemon's end; set before anything is sent. *tampered*: a call was repeated, so that
    an answer may come that the client does not wait for.
    """

    endpoint: Endpoint

    def __init__(
        self, schedule: Schedule, lots: Lots, name: str, client: Client, *, latency_s: float, in_pieces: bool
    ) -> None:
        self._schedule = schedule
        self.name = name
        self._client = client
        self._turning = False
        self._telling = False
        self._at_daemon = True
        self._doomed = False
        self._at_client = True
        self._notices: deque[bytes] = deque(maxlen=_NOTICES_KEPT)
        self._last_call = b""
        self.tampered = False
        self._up = Stream(
            schedule,
            lots,
            f"{name} up",
            latency_s=latency_s,
            in_pieces=in_pieces,
            arrived=self._fed,
            ended=self.close_at_daemon,
        )
        self._down = Stream(
            schedule,
            lots,
            f"{name} down",
            latency_s=latency_s,
            in_pieces=in_pieces,
            arrived=self._told,
            ended=self._end_at_client,
        )

    # -- the client's end

    @property
    def open(self) -> bool:
        """Whether the client has not noticed an end."""
        return self._at_client

    @property
    def at_daemon(self) -> bool:
        """Whether the daemon has not noticed an end."""
        return self._at_daemon

    @property
    def quiet(self) -> bool:
        """Whether both ends are there, and nothing is under way or about to be."""
        there = self._at_client and self._at_daemon and not self._doomed
        return there and self._up.idle and self._down.idle and not (self._turning or self._telling)

    def send(self, message: bytes) -> None:
        """Send whole messages to the daemon."""
        if message:
            self._last_call = message
            self._up.send(message)

    def close(self) -> None:
        """Let go of it, as the client: what was sent still arrives, what was not read never does."""
        self._at_client = False
        self._up.end()
        self._down.lose()

    def _told(self, piece: bytes) -> None:
        if self._at_client:
            self._client.received(self, piece)

    def _end_at_client(self) -> None:
        if self._at_client:
            self._at_client = False
            self._up.end()
            self._client.lost(self)

    # -- the daemon's end

    def wake(self) -> None:
        """Note, as the daemon, that there is something to tell."""
        if not self._telling and self._at_daemon:
            self._telling = True
            self._schedule.after(_TURN_S, f"{self.name} tell", self._tell)

    def _fed(self, piece: bytes) -> None:
        if self._at_daemon and not self._doomed:
            self.endpoint.feed(piece)
            self._come_again()

    def _come_again(self) -> None:
        if not self._turning:
            self._turning = True
            self._schedule.after(_TURN_S, f"{self.name} turn", self._turn)

    def _turn(self) -> str | None:
        self._turning = False
        if not self._at_daemon or self._doomed:
            return None
        answers = self.endpoint.turn()
        self._down.send(answers)
        if self.endpoint.dropped is not None:
            dropped = str(self.endpoint.dropped)
            self._down.end()
            self.close_at_daemon()
            return f"dropped: {dropped}"
        if self.endpoint.more:
            self._come_again()
        return f"{len(answers)}"

    def _tell(self) -> str | None:
        self._telling = False
        if not self._at_daemon or self._doomed:
            return None
        notices = self.endpoint.take_pending()
        if notices:
            self._notices.append(notices)
        self._down.send(notices)
        return f"{len(notices)}"

    def close_at_daemon(self) -> None:
        """End it, as the daemon."""
        if self._at_daemon:
            self._at_daemon = False
            self._down.end()
            self.endpoint.closed()

    def close_soon(self) -> None:
        """Cancel it, as the daemon: nothing more is taken, and its end is noted when the step under way is over."""
        if self._at_daemon and not self._doomed:
            self._doomed = True
            self._schedule.after(0.0, f"{self.name} cancelled", self._cancelled)

    def _cancelled(self) -> str | None:
        if not self._at_daemon:
            return None
        self.close_at_daemon()
        return ""

    def forget_at_daemon(self) -> None:
        """Lose the daemon's end without its doing: the daemon is gone."""
        self._at_daemon = False
        self._down.lose()
        self._up.lose()

    # -- faults

    def cut(self, *, but_a_part: bool = False) -> None:
        """Lose all that is on it, both ways."""
        self._up.lose(but_a_part=but_a_part)
        self._down.lose(but_a_part=but_a_part)

    def lose_at_client(self) -> None:
        """Let the client notice an end at once, and the daemon when all that was sent has arrived."""
        self._up.end()
        self._down.lose()

    def lose_at_daemon(self) -> None:
        """Let the daemon notice an end, and the client when all that was sent has arrived."""
        self._up.lose()
        self._down.end()

    def stall(self, seconds: float, *, upward: bool) -> None:
        """Let one end not read for a while."""
        (self._up if upward else self._down).stall(seconds)

    def repeat_notice(self, lots: Lots) -> bool:
        """Let an earlier notice come again; says whether there was one."""
        if not self._notices or not self._at_daemon:
            return False
        self._down.send(lots.pick(self._notices))
        return True

    def repeat_call(self) -> bool:
        """Let what was sent last come again; says whether there was anything."""
        if not self._last_call or not self._at_client:
            return False
        self.tampered = True
        self._up.send(self._last_call)
        return True
