"""The rules about targets, one home for all who follow them: command line, XenStore, controller, policy, virtual host.

A target lies between a domain's minimum and its limit, a limit between its minimum and its static maximum, as asked for: what is beyond a bound is refused even
where rounding would make it fit, for who asks would believe to have got it. What is within is rounded down to whole
superpages, never to nothing (`xbd.units.round_to_superpages`). A driver, or a test, may set any number of pages: only
people and their tools have theirs rounded. A domain has reached its target when it holds just that.

Progress toward a target is judged here, too (`Approach`): what brings a domain nearer than ever is progress, and without
any it is stuck. Two things differ for a reason. The policy tolerates less than a superpage below an aim, since it moves
whole ones. And it counts refusal from the last progress, for a domain that is slow is no refusal, where a command that
waits counts it from when the target was set, for its user has given it a deadline.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from xbd.units import MIB_PAGES, round_up

# A guest that backs off tries again after 2 s, then 4 s: 5 s without a page is more than bad luck.
STUCK_AFTER_S: Final = 5.0
# Four back-offs of a Linux driver; after that it has given up.
REFUSED_AFTER_S: Final = 20.0
# What xl lets a domain have beyond its target: 1 MiB (libxl's LIBXL_MAXMEM_CONSTANT).
XL_BEYOND_PAGES: Final = MIB_PAGES


class Bound(Enum):
    """The bound of a domain that a target breaks."""

    MINIMUM = "minimum"
    MOST = "most"


def broken_bound(pages: int, min_pages: int, most_pages: int) -> Bound | None:
    """Tell which bound a target or a limit breaks, if any.

    *most_pages* is the limit, or the static maximum for a limit and where the limit follows the target.

    All three may be counted in another unit than pages, the same one.
    """
    if pages > most_pages:
        return Bound.MOST
    return Bound.MINIMUM if pages < max(min_pages, 1) else None


def static_max_pages(gfn_count: int) -> int:
    """Compute the most that a domain may ever have: its gfn space, in whole superpages (xl's static-max)."""
    return round_up(gfn_count)


def limit_comes_first(pages: int, max_pages: int) -> bool:
    """Whether a domain's limit is to be set before its target, to this many pages both, so that it is never the lower one."""
    return pages > max_pages


def limit_of(target_pages: int, beyond_pages: int = 0) -> int:
    """Compute the limit that goes with a target: in whole superpages, or, as xl sets it, just so many pages beyond it."""
    return target_pages + beyond_pages if beyond_pages else round_up(target_pages)


def is_reached(tot_pages: int, target_pages: int) -> bool:
    """Whether a domain that holds so much has reached its target."""
    return tot_pages == target_pages


@dataclass(frozen=True, slots=True)
class Approach:
    """The nearest that a domain has come to its target, and since when it has come no nearer."""

    nearest_pages: int
    since_s: float

    def seen(self, distance_pages: int, now_s: float) -> "Approach":
        """Note how far it is at *now_s*; at its target the clock stands, and begins when it leaves that."""
        if 0 < self.nearest_pages <= distance_pages or distance_pages == self.nearest_pages == 0:
            return self
        return Approach(distance_pages, now_s)

    def is_stuck(self, now_s: float, stuck_after_s: float = STUCK_AFTER_S) -> bool:
        """Whether it is away from its target, and has come no nearer for so long."""
        return self.nearest_pages > 0 and now_s - self.since_s >= stuck_after_s


def used_pages(untrusted_report: Mapping[str, object]) -> int | None:
    """Read from a guest's report what its programs and kernel hold, without the page cache; None: it does not say."""
    counts = [untrusted_report.get(name) for name in ("movable_pages", "unmovable_pages", "cache_pages")]
    movable, unmovable, cache = (count if type(count) is int else None for count in counts)
    if movable is None or unmovable is None or cache is None:
        return None
    return max(movable + unmovable - cache, 0)
