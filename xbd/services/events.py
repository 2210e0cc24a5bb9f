"""The host's event log: numbered, bounded, followed by any number of readers at their own pace."""

from collections import deque
from itertools import islice
from typing import Final

# Three events for each of a thousand domains (created, target, settled), three times over; some 5 MB.
KEPT_EVENTS: Final = 10_000


class EventLog:
    """The last `KEPT_EVENTS` events, each a map with `number` (from *first_number*, without gaps) and `event`."""

    def __init__(self, kept: int = KEPT_EVENTS, *, first_number: int = 1) -> None:
        self._events: deque[dict[str, object]] = deque(maxlen=kept)
        self.next_number = first_number

    @property
    def first_number(self) -> int:
        """Number of the oldest event that is kept (of the next one, when none is)."""
        return self.next_number - len(self._events)

    def add(self, event: str, **details: object) -> dict[str, object]:
        """Number an event and keep it; the oldest may go."""
        entry: dict[str, object] = {"number": self.next_number, "event": event, **details}
        self._events.append(entry)
        self.next_number += 1
        return entry

    def since(self, number: int, at_most: int | None = None) -> list[dict[str, object]]:
        """List the kept events from *number* on, oldest first, at most *at_most* of them."""
        start = max(number - self.first_number, 0)
        end = None if at_most is None else start + at_most
        return list(islice(self._events, start, end))
