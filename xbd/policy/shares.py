"""Share a host out among domains whose demand is known.

Demand has two grades: what a guest cannot do without, and what it could give up (page cache). If all
fits, every domain gets its demand, and the rest stays with the host. If not, the page caches shrink
first, all by the same fraction, then what is needed. Targets are multiples of the
granularity and their sum never exceeds the host: memory is never promised twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from xbd.units import round_down, round_up


@dataclass(frozen=True, slots=True)
class Share:
    """What one domain would have: all in pages. *needed* cannot be given up, *wanted* could; *least* and *most* bound it."""

    needed: int
    wanted: int
    least: int
    most: int


def share_out(host_pages: int, shares: Sequence[Share], granularity_pages: int = 1) -> list[int]:
    """Set a target for each domain.

    Args:
        host_pages: what there is to share out.
        shares: one for each domain.
        granularity_pages: each target is a multiple of it (where its *most* is one too).

    Returns:
        Target pages, one for each share, between *least* and *most*; their sum is at most
        *host_pages* unless the *least* alone exceed it.
    """
    least = [round_up(min(s.least, s.most), granularity_pages) for s in shares]
    needed = [max(min(s.needed, s.most), low) for s, low in zip(shares, least, strict=True)]
    full = [max(min(s.needed + s.wanted, s.most), low) for s, low in zip(shares, least, strict=True)]
    if sum(full) <= host_pages:
        exact = full
    elif sum(needed) <= host_pages:
        exact = _interpolate(needed, full, host_pages)
    else:
        exact = _interpolate(least, needed, host_pages)
    return [max(round_down(target, granularity_pages), low) for target, low in zip(exact, least, strict=True)]


def _interpolate(low: list[int], high: list[int], total: int) -> list[int]:
    """Move all from *low* towards *high* by the same fraction, as far as *total* goes; never below *low*."""
    room, spare = max(sum(high) - sum(low), 1), max(total - sum(low), 0)
    return [a + (b - a) * spare // room for a, b in zip(low, high, strict=True)]
