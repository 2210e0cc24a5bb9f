"""The host's event log: numbered, bounded, followed by any number of readers at their own pace.

Events are kept as they travel, in less than a third of what the maps would take: most are never asked for again.
"""

from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Final

import msgpack  # type: ignore[import-untyped]  # it has no annotations

# Three events for each of a thousand domains (created, target, settled), three times over; some 1 MB.
KEPT_EVENTS: Final = 10_000


class EventLog:
    """The last *kept* events, each a map with `number` (from *first_number*, without gaps), `time` and `event`.

    Args:
        clock: tells the time, in seconds since the epoch.
        kept: how many.
        first_number: of the first one.
    """

    def __init__(self, clock: Callable[[], float], kept: int = KEPT_EVENTS, *, first_number: int = 1) -> None:
        self._clock = clock
        self._events: deque[bytes] = deque(maxlen=kept)
        self.next_number = first_number

    @property
    def first_number(self) -> int:
        """Number of the oldest event that is kept (of the next one, when none is)."""
        return self.next_number - len(self._events)

    def add(self, event: str, **details: object) -> None:
        """Number an event and keep it; the oldest may go."""
        told = {"number": self.next_number, "time": self._clock(), "event": event, **details}
        self._events.append(msgpack.packb(told))
        self.next_number += 1

    def forget_from(self, number: int) -> None:
        """Forget the events from *number* on: what they tell was undone, and their numbers are given again."""
        while self.next_number > number:
            self._events.pop()
            self.next_number -= 1

    def since(self, number: int, at_most: int | None = None) -> list[dict[str, object]]:
        """List the kept events from *number* on, oldest first, at most *at_most* of them."""
        start = max(number - self.first_number, 0)
        end = None if at_most is None else start + at_most
        return [msgpack.unpackb(event) for event in islice(self._events, start, end)]
