"""How long domains took to reach their targets, counted in classes; pure.

Kept in memory: a daemon that is started again begins at 0, as a counter of Prometheus may, and does not count the waits
that it found begun. A target that is set while an earlier one is not reached begins a new wait, and the earlier one is not counted.
"""

from bisect import bisect_left
from typing import Final

# Upper bounds of the classes; a longer wait is in the last one. Drivers' back-off is between 1 and 32 s.
BOUNDS_S: Final = (0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_BEYOND: Final = "inf"


class TargetWaits:
    """The waits of one host's domains: each begins when a target is set, and ends when that is reached."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS_S) + 1)
        self._sum_s = 0.0
        # Each domid once: no more than there can be domains.
        self._since_s: dict[int, float] = {}

    def begin(self, domid: int, now_s: float) -> None:
        """Note that a domain has a new target."""
        self._since_s[domid] = now_s

    def end(self, domid: int, now_s: float) -> None:
        """Note that a domain has reached its target; a wait whose begin is not known is not counted."""
        since_s = self._since_s.pop(domid, None)
        if since_s is not None:
            wait_s = max(now_s - since_s, 0.0)
            self._counts[bisect_left(BOUNDS_S, wait_s)] += 1
            self._sum_s += wait_s

    def told(self) -> dict[str, object]:
        """Say how many waits were as long as each bound at most and longer than the one before, and how long all took."""
        bounds = [*(f"{bound:g}" for bound in BOUNDS_S), _BEYOND]
        return {"target_waits": dict(zip(bounds, self._counts, strict=True)), "target_waits_s": self._sum_s}
