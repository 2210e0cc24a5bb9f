"""How long to wait before the next attempt: the one rule by which everybody connects again, without a clock."""

from typing import Final

from xbd.replaceable import replaceable

# Short at first, for a connection that was cut; never so long that a daemon that has restarted waits a second for anybody.
# A thousand agents that try cost a few per cent of a core.
FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 0.5


class Backoff:
    """Pauses that double up to a longest one.

    Args:
        first_s: the first pause, and the first after `reset`.
        longest_s: no pause is longer.
    """

    def __init__(self, first_s: float = FIRST_PAUSE_S, longest_s: float = LONGEST_PAUSE_S) -> None:
        self._first_s = self._next_s = first_s
        self._longest_s = longest_s

    @replaceable
    def next_s(self) -> float:
        """Return how long to wait now; the next pause is longer."""
        pause_s, self._next_s = self._next_s, min(2 * self._next_s, self._longest_s)
        return pause_s

    def reset(self) -> None:
        """Begin again with a short pause: something worked."""
        self._next_s = self._first_s
