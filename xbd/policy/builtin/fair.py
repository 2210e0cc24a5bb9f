"""The policies that share all memory out, evenly or by demand, and the one that leaves it alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from xbd.policy.balance import Claimant, by_demand, fair
from xbd.policy.model import SetTarget, Snapshot, bounds_of
from xbd.units import format_pages


@dataclass(frozen=True, slots=True)
class Fair:
    """To each the same part of what lies between its minimum and its maximum, as xapi's squeezed does."""

    def step(self, state: None, snapshot: Snapshot, now: float) -> tuple[None, list[SetTarget]]:
        """Share all out evenly; without state."""
        del now
        return state, _share(snapshot, fair, "the same part of its range as all")


@dataclass(frozen=True, slots=True)
class Demand:
    """To each what its guest reports that it needs, as far as there is; what is left, evenly."""

    def step(self, state: None, snapshot: Snapshot, now: float) -> tuple[None, list[SetTarget]]:
        """Share all out by demand; without state."""
        del now
        return state, _share(snapshot, by_demand, "by what its guest asks for")


@dataclass(frozen=True, slots=True)
class Static:
    """No ballooning: every domain keeps its target; only reservations and headroom take from it."""

    def step(self, state: None, snapshot: Snapshot, now: float) -> tuple[None, list[SetTarget]]:
        """Set nothing; without state."""
        del snapshot, now
        return state, []


def _share(snapshot: Snapshot, share: Callable[[Sequence[Claimant], int], list[int]], reason: str) -> list[SetTarget]:
    """Share out what all hold and what is free."""
    claimants = []
    for domain in snapshot.domains:
        bounds = bounds_of(domain)
        floor = bounds.least if domain.floor_pages is None else domain.floor_pages
        ceiling = bounds.most if domain.ceiling_pages is None else domain.ceiling_pages
        claimants.append(Claimant(bounds.least, bounds.most, floor, ceiling, domain.demand_pages))
    pages = snapshot.usable_pages + sum(domain.tot_pages for domain in snapshot.domains)
    goals = share(claimants, pages)
    targets = []
    for domain, goal in zip(snapshot.domains, goals, strict=True):
        asked = "" if domain.demand_pages is None or share is fair else f" ({format_pages(domain.demand_pages)})"
        targets.append(SetTarget(domain.domid, max(goal, 0), reason + asked))
    return targets
