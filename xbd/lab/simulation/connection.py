"""A connection between a client and one of the daemon's endpoints, and the faults that it can suffer."""

from collections import deque
from typing import Final, Protocol

from xbd.control.endpoint import Endpoint
from xbd.lab.simulation.rng import Rng, Schedule
from xbd.lab.simulation.stream import Stream

# From the arrival of bytes until the daemon handles them, and between two turns.
_TURN_S: Final = 0.00002
# Only these recent notices are repeated. Of the calls only the last one is: its answer is certainly still kept.
_NOTICES_KEPT: Final = 4


class Client(Protocol):
    """The client's end of a connection."""

    def received(self, connection: "Connection", piece: bytes) -> None:
        """Handle received bytes."""

    def lost(self, connection: "Connection") -> None:
        """Handle the end of the connection."""


class Connection:
    """A pair of streams, one for each direction, and the daemon's end of them.

    Args:
        name: of the client, for the trace.
        client: called with the bytes that the daemon sent, and when the connection ends.

    Attributes: *name*; *endpoint*: the daemon's end; set before anything is sent. *call_repeated*: a call was sent a second
    time, so that an answer may come that the client does not expect.
    """

    endpoint: Endpoint

    def __init__(
        self, schedule: Schedule, rng: Rng, name: str, client: Client, *, latency_s: float, in_pieces: bool
    ) -> None:
        self._schedule = schedule
        self.name = name
        self._client = client
        self._turn_scheduled = False
        self._notices_scheduled = False
        self._at_daemon = True
        self._closing = False
        self._at_client = True
        self._recent_notices: deque[bytes] = deque(maxlen=_NOTICES_KEPT)
        self._last_call = b""
        self.call_repeated = False
        self._up = Stream(
            schedule,
            rng,
            f"{name} up",
            latency_s=latency_s,
            in_pieces=in_pieces,
            arrived=self._deliver_to_daemon,
            ended=self.close_at_daemon,
        )
        self._down = Stream(
            schedule,
            rng,
            f"{name} down",
            latency_s=latency_s,
            in_pieces=in_pieces,
            arrived=self._deliver_to_client,
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
        """Whether both ends are open, and nothing is in transit or about to be sent."""
        there = self._at_client and self._at_daemon and not self._closing
        return there and self._up.idle and self._down.idle and not (self._turn_scheduled or self._notices_scheduled)

    def send(self, message: bytes) -> None:
        """Send whole messages to the daemon."""
        if message:
            self._last_call = message
            self._up.send(message)

    def close(self) -> None:
        """Close it at the client: what it sent still arrives, what it has not read is lost."""
        self._at_client = False
        self._up.end()
        self._down.lose()

    def _deliver_to_client(self, piece: bytes) -> None:
        if self._at_client:
            self._client.received(self, piece)

    def _end_at_client(self) -> None:
        if self._at_client:
            self._at_client = False
            self._up.end()
            self._client.lost(self)

    # -- the daemon's end

    def wake(self) -> None:
        """Schedule the sending of pending notices; the daemon's core calls this."""
        if not self._notices_scheduled and self._at_daemon:
            self._notices_scheduled = True
            self._schedule.after(_TURN_S, f"{self.name} tell", self._send_notices)

    def _deliver_to_daemon(self, piece: bytes) -> None:
        if self._at_daemon and not self._closing:
            self.endpoint.feed(piece)
            self._schedule_turn()

    def _schedule_turn(self) -> None:
        if not self._turn_scheduled:
            self._turn_scheduled = True
            self._schedule.after(_TURN_S, f"{self.name} turn", self._turn)

    def _turn(self) -> str | None:
        self._turn_scheduled = False
        if not self._at_daemon or self._closing:
            return None
        answers = self.endpoint.turn()
        self._down.send(answers)
        if self.endpoint.dropped is not None:
            dropped = str(self.endpoint.dropped)
            self._down.end()
            self.close_at_daemon()
            return f"dropped: {dropped}"
        if self.endpoint.more:
            self._schedule_turn()
        return f"{len(answers)}"

    def _send_notices(self) -> str | None:
        self._notices_scheduled = False
        if not self._at_daemon or self._closing:
            return None
        notices = self.endpoint.take_pending()
        if notices:
            self._recent_notices.append(notices)
        self._down.send(notices)
        if self.endpoint.more:
            self._schedule_turn()
        return f"{len(notices)}"

    def close_at_daemon(self) -> None:
        """Close it at the daemon."""
        if self._at_daemon:
            self._at_daemon = False
            self._down.end()
            self.endpoint.closed()

    def close_soon(self) -> None:
        """Cancel it at the daemon: no more input is handled, and it is closed after the current step."""
        if self._at_daemon and not self._closing:
            self._closing = True
            self._schedule.after(0.0, f"{self.name} cancelled", self._cancelled)

    def _cancelled(self) -> str | None:
        if not self._at_daemon:
            return None
        self.close_at_daemon()
        return ""

    def forget_at_daemon(self) -> None:
        """Drop the daemon's end without telling its core: the daemon was killed."""
        self._at_daemon = False
        self._down.lose()
        self._up.lose()

    # -- faults

    def cut(self, *, keep_part: bool = False) -> None:
        """Break it and lose what is in transit both ways; *keep_part*: a part of the next message still arrives."""
        self._up.lose(keep_part=keep_part)
        self._down.lose(keep_part=keep_part)

    def lose_at_client(self) -> None:
        """Break the client's end: the daemon notices after all that was sent has arrived."""
        self._up.end()
        self._down.lose()

    def lose_at_daemon(self) -> None:
        """Break the daemon's end: the client notices after all that was sent has arrived."""
        self._up.lose()
        self._down.end()

    def stall(self, seconds: float, *, upward: bool) -> None:
        """Let one end read nothing for a while: the daemon's if *upward*, else the client's."""
        (self._up if upward else self._down).stall(seconds)

    def repeat_notice(self, rng: Rng) -> bool:
        """Send an earlier notice again; returns whether there was one."""
        if not self._recent_notices or not self._at_daemon:
            return False
        self._down.send(rng.choice(self._recent_notices))
        return True

    def repeat_call(self) -> bool:
        """Send the client's last message again; returns whether there was one."""
        if not self._last_call or not self._at_client:
            return False
        self.call_repeated = True
        self._up.send(self._last_call)
        return True
