"""Share memory out: every domain at the same fraction of its range, unless something bounds it.

Theory of operation. A domain at fraction f (0 to 1) would hold least + f * (most - least). Each claimant
also has a floor and a ceiling that bound it: a stuck domain has both at what it holds, one that refused to
shrink has a floor there, one that refused to grow a ceiling. The result is the one f at which the claimants
together hold exactly what there is. The sum rises with f, and is linear between the fractions at which some
claimant meets its floor or ceiling, so one sweep over these in order finds it: n log n, and exact, in integers.

Balance by demand is the same with one more bound. If all that is demanded fits, demand is a floor: each claimant
gets it, and what is left raises those at the lowest fraction. If it does not fit, demand is a ceiling: a claimant
that asks for less than the common fraction gets what it asks for, and the others share the rest evenly, however
much they ask for. So a report can only cost others what they do not ask for themselves. A claimant that reports
nothing counts as asking for exactly what a fair balance would give it.

Assumptions:
    1. least <= most, floor <= ceiling, all at least 0; demand is already within [least, most].
    2. A floor may exceed the range, and the floors together what there is: then all are at their floors, and
       the sum is above what there is. The caller must look at what is free before it acts (`autoballoon` does).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from xbd.policy.model import Snapshot, bounds_of
from xbd.units import round_down


@dataclass(frozen=True, slots=True)
class Claimant:
    """One that memory is shared out to: its range, how far it can be pushed, and what it asks for (None: nothing)."""

    least: int
    most: int
    floor: int
    ceiling: int
    demand: int | None = None

    def at(self, numerator: int, denominator: int) -> int:
        """Return what it holds at a fraction, in whole superpages unless its floor or ceiling is none."""
        point = round_down(self.least + (self.most - self.least) * numerator // denominator)
        return self.within(point)

    def within(self, pages: int) -> int:
        """Return the nearest that its floor and its ceiling allow."""
        return min(max(pages, self.floor), self.ceiling)


def claimants_of(snapshot: Snapshot) -> list[Claimant]:
    """Make a claimant of each domain that a policy is shown."""
    claimants = []
    for domain in snapshot.domains:
        bounds = bounds_of(domain)
        floor = bounds.least if domain.floor_pages is None else domain.floor_pages
        ceiling = bounds.most if domain.ceiling_pages is None else domain.ceiling_pages
        claimants.append(Claimant(bounds.least, bounds.most, floor, ceiling, domain.demand_pages))
    return claimants


def fair(claimants: Sequence[Claimant], pages: int) -> list[int]:
    """Give each claimant the same fraction of its range.

    Returns:
        Pages for each, between floor and ceiling; their sum is at most *pages*, unless the floors' alone exceeds it.
    """
    numerator, denominator = common_fraction(claimants, pages)
    return [each.at(numerator, denominator) for each in claimants]


def by_demand(claimants: Sequence[Claimant], pages: int) -> list[int]:
    """Give each claimant what it asks for if that fits; else nobody more than the common fraction. As `fair` otherwise."""
    evenly = fair(claimants, pages)
    asked = [
        each.within(even if each.demand is None else each.demand) for each, even in zip(claimants, evenly, strict=True)
    ]
    if sum(asked) <= pages:
        bounded = [replace(each, floor=goal) for each, goal in zip(claimants, asked, strict=True)]
    else:
        bounded = [replace(each, ceiling=goal) for each, goal in zip(claimants, asked, strict=True)]
    return fair(bounded, pages)


def common_fraction(claimants: Sequence[Claimant], pages: int) -> tuple[int, int]:
    """Find the largest fraction (numerator, denominator) in [0, 1] at which all together hold at most *pages*.

    Rounding aside; 0 if even the floors are more.
    """
    # Between its two bends a claimant's share rises by its range; (numerator, denominator) of f, as a float to sort by.
    bends: list[tuple[float, int, int]] = []
    held = 0
    slope = 0
    for each in claimants:
        range_pages = each.most - each.least
        if range_pages == 0 or each.floor >= each.most or each.ceiling <= each.least:
            # It does not move with f: no range, or bounded outside of it.
            held += min(max(each.least, each.floor), each.ceiling)
            continue
        start = max(each.floor - each.least, 0)
        end = min(each.ceiling, each.most) - each.least
        held += max(each.floor, each.least)
        if start < end:
            bends.append((start / range_pages, start, range_pages))
            bends.append((end / range_pages, end, -range_pages))
    bends.sort()
    spare = max(pages - held, 0)
    # The sum at f is held + slope * f - offset: each that rises does so from its own bend.
    offset = 0
    for _, bend, range_pages in bends:
        # Does the spare end before this bend, at f = bend / |range|?
        if slope and slope * bend > (spare + offset) * abs(range_pages):
            return spare + offset, slope
        slope += range_pages
        offset += bend if range_pages > 0 else -bend
    return 1, 1
