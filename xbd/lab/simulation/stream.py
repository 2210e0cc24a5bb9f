"""Bytes on their way: a stream that delays them, cuts them into pieces, and can be lost."""

from collections import deque
from collections.abc import Callable
from itertools import pairwise
from typing import Final
from zlib import crc32

from xbd.lab.simulation.rng import Lots, Schedule

_PIECES_MOST: Final = 3
_PIECES_SHARE: Final = 0.15


class Stream:
    """One direction of a connection: in order, or not at all.

    Args:
        label: what its events are called in the trace.
        latency_s: how long a piece takes, on average.
        in_pieces: whether what is sent may arrive in several.
        arrived: is called with each piece.
        ended: is called once, when the receiver notices the end.
    """

    def __init__(
        self,
        schedule: Schedule,
        lots: Lots,
        label: str,
        *,
        latency_s: float,
        in_pieces: bool,
        arrived: Callable[[bytes], None],
        ended: Callable[[], None],
    ) -> None:
        self._schedule = schedule
        self._lots = lots
        self._label = label
        self._latency_s = latency_s
        self._in_pieces = in_pieces
        self._arrived = arrived
        self._ended = ended
        # None: the end.
        self._under_way: deque[bytes | None] = deque()
        self._generation = 0
        self._last_due = 0.0
        self.open = True

    @property
    def idle(self) -> bool:
        """Whether nothing is under way."""
        return not self._under_way

    def send(self, message: bytes) -> None:
        """Send whole messages. When the stream has ended they go nowhere."""
        if not self.open or not message:
            return
        for piece in self._cut(message):
            self._put(piece)

    def end(self) -> None:
        """Let what is under way arrive, and then the end."""
        if self.open:
            self.open = False
            self._put(None)

    def lose(self, *, but_a_part: bool = False) -> None:
        """End now, with all that is under way; *but_a_part*: a part of the next piece still arrives."""
        lost, self._under_way = self._under_way, deque()
        self._generation += 1
        already_over = not self.open and not lost
        self.open = False
        first = lost[0] if lost else None
        if but_a_part and first is not None and len(first) > 1:
            self._put(first[: 1 + self._lots.below(len(first) - 1)])
        if not already_over:
            self._put(None)

    def stall(self, seconds: float) -> None:
        """Let nothing more arrive for a while, other than what is under way."""
        self._last_due = max(self._last_due, self._schedule.now + seconds)

    def _cut(self, message: bytes) -> list[bytes]:
        if not self._in_pieces or len(message) < 2 or not self._lots.chance(_PIECES_SHARE):
            return [message]
        count = 1 + self._lots.below(min(_PIECES_MOST, len(message) - 1))
        ends = sorted(1 + self._lots.below(len(message) - 1) for _ in range(count))
        bounds = [0, *ends, len(message)]
        return [message[first:end] for first, end in pairwise(bounds) if first < end]

    def _put(self, piece: bytes | None) -> None:
        self._under_way.append(piece)
        due = max(self._last_due, self._schedule.now + self._lots.spread(self._latency_s))
        self._last_due = due
        generation = self._generation
        self._schedule.after(due - self._schedule.now, self._label, lambda: self._arrive(generation))

    def _arrive(self, generation: int) -> str | None:
        if generation != self._generation:
            return None
        piece = self._under_way.popleft()
        if piece is None:
            self._ended()
            return "end"
        self._arrived(piece)
        return f"{len(piece)} {crc32(piece):08x}"
