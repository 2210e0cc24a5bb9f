"""A byte stream in one direction, which delays what is sent, splits it into pieces, and can be lost."""

from collections import deque
from collections.abc import Callable
from itertools import pairwise
from typing import Final
from zlib import crc32

from xbd.lab.simulation.rng import Rng, Schedule

_PIECES_MOST: Final = 3
_PIECES_SHARE: Final = 0.15


class Stream:
    """One direction of a connection: bytes arrive in order, or not at all.

    Args:
        label: the name of its events in the trace.
        latency_s: how long a piece takes, on average.
        in_pieces: whether a message may arrive in several pieces.
        arrived: called with each piece.
        ended: called once, when the receiver notices the end.
    """

    def __init__(
        self,
        schedule: Schedule,
        rng: Rng,
        label: str,
        *,
        latency_s: float,
        in_pieces: bool,
        arrived: Callable[[bytes], None],
        ended: Callable[[], None],
    ) -> None:
        self._schedule = schedule
        self._rng = rng
        self._label = label
        self._latency_s = latency_s
        self._in_pieces = in_pieces
        self._arrived = arrived
        self._ended = ended
        # None stands for the end of the stream.
        self._in_transit: deque[bytes | None] = deque()
        self._generation = 0
        self._last_due = 0.0
        self.open = True

    @property
    def idle(self) -> bool:
        """Whether nothing is in transit."""
        return not self._in_transit

    def send(self, message: bytes) -> None:
        """Send whole messages; does nothing after the end of the stream."""
        if not self.open or not message:
            return
        for piece in self._split(message):
            self._enqueue(piece)

    def end(self) -> None:
        """End the stream after what is in transit has arrived."""
        if self.open:
            self.open = False
            self._enqueue(None)

    def lose(self, *, keep_part: bool = False) -> None:
        """End the stream and lose what is in transit; *keep_part*: a part of the next piece still arrives."""
        dropped, self._in_transit = self._in_transit, deque()
        self._generation += 1
        already_over = not self.open and not dropped
        self.open = False
        first = dropped[0] if dropped else None
        if keep_part and first is not None and len(first) > 1:
            self._enqueue(first[: 1 + self._rng.below(len(first) - 1)])
        if not already_over:
            self._enqueue(None)

    def stall(self, seconds: float) -> None:
        """Delay what is sent from now on by *seconds*; what is in transit arrives in time."""
        self._last_due = max(self._last_due, self._schedule.now + seconds)

    def _split(self, message: bytes) -> list[bytes]:
        if not self._in_pieces or len(message) < 2 or not self._rng.bernoulli(_PIECES_SHARE):
            return [message]
        count = 1 + self._rng.below(min(_PIECES_MOST, len(message) - 1))
        ends = sorted(1 + self._rng.below(len(message) - 1) for _ in range(count))
        bounds = [0, *ends, len(message)]
        return [message[first:end] for first, end in pairwise(bounds) if first < end]

    def _enqueue(self, piece: bytes | None) -> None:
        self._in_transit.append(piece)
        due = max(self._last_due, self._schedule.now + self._rng.exponential(self._latency_s))
        self._last_due = due
        generation = self._generation
        self._schedule.after(due - self._schedule.now, self._label, lambda: self._arrive(generation))

    def _arrive(self, generation: int) -> str | None:
        if generation != self._generation:
            return None
        piece = self._in_transit.popleft()
        if piece is None:
            self._ended()
            return "end"
        self._arrived(piece)
        return f"{len(piece)} {crc32(piece):08x}"
