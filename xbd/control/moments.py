"""The last hour of a host, moment by moment, the finer the nearer; pure, and bounded in number and in bytes."""

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, NamedTuple


class Tier(NamedTuple):
    """So many moments, each at least so long after the one before."""

    spacing_s: float
    most: int


# Two minutes each second, ten minutes more in steps of 5 s, and the hour in steps of 20 s.
TIERS: Final = (Tier(1.0, 120), Tier(5.0, 120), Tier(20.0, 180))
# What all moments may take together; of more the oldest are gone. Those of a thousand domains take some 15 KiB each.
MAX_BYTES: Final = 64 << 20
# Looks come a little early and late; one that is almost a spacing later counts.
_EARLY_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Moment:
    """A host at one time.

    Attributes:
        t_s: seconds since the epoch.
        host: its figures, as the series names them.
        series: the host and its domains as lines of a series, compressed.
        frames: its superframes, compressed; None: nobody looked at them then.
    """

    t_s: float
    host: dict[str, Any]
    series: bytes
    frames: bytes | None = None

    @property
    def size_bytes(self) -> int:
        """What it takes, about."""
        return len(self.series) + len(self.frames or b"")


class Moments:
    """Moments in the order of time, thinned out as they age.

    Args:
        max_bytes: what they may take together.
        tiers: how many there are, from the nearest on.

    Attributes: *kept_bytes*: what they take.
    """

    def __init__(self, max_bytes: int = MAX_BYTES, tiers: Sequence[Tier] = TIERS) -> None:
        self._max_bytes = max_bytes
        self._tiers = tiers
        # From the nearest tier to the farthest, in each the oldest first.
        self._kept: list[deque[Moment]] = [deque() for _ in tiers]
        self.kept_bytes = 0

    def add(self, moment: Moment) -> None:
        """Keep a moment, the latest so far; a clock that was set back begins anew."""
        latest = self.latest
        if latest is not None and moment.t_s < latest.t_s:
            self.clear()
        self.kept_bytes += moment.size_bytes
        self._put(0, moment)
        while self.kept_bytes > self._max_bytes:
            self.kept_bytes -= next(kept for kept in reversed(self._kept) if kept).popleft().size_bytes

    def clear(self) -> None:
        """Forget all."""
        self._kept, self.kept_bytes = [deque() for _ in self._tiers], 0

    def _put(self, tier: int, moment: Moment) -> None:
        """Put a moment into a tier; its oldest one that has no place there goes to the next, or is dropped."""
        if tier == len(self._tiers):
            self.kept_bytes -= moment.size_bytes
            return
        kept, (spacing_s, most) = self._kept[tier], self._tiers[tier]
        if kept and moment.t_s - kept[-1].t_s < spacing_s - _EARLY_S:
            self.kept_bytes -= moment.size_bytes
            return
        kept.append(moment)
        if len(kept) > most:
            self._put(tier + 1, kept.popleft())

    @property
    def latest(self) -> Moment | None:
        """The last one; None: there is none."""
        return self._kept[0][-1] if self._kept[0] else None

    def all(self) -> list[Moment]:
        """List all, the oldest first."""
        return list(chain.from_iterable(reversed(self._kept)))


def found_at(moments: Sequence[Moment], t_s: float) -> Moment:
    """Find among moments, of which there is one at least, the last one that is not later than *t_s*; before all, the first."""
    return moments[max(bisect_right(moments, t_s, key=lambda one: one.t_s) - 1, 0)]
