"""The policy that shares all memory out evenly, and the one that leaves it alone."""

from dataclasses import dataclass

from xbd.policy.balance import claimants_of, fair
from xbd.policy.model import SetTarget, Snapshot


@dataclass(frozen=True, slots=True)
class Fair:
    """To each the same part of what lies between its minimum and its maximum, as xapi's squeezed does."""

    def step(self, state: None, snapshot: Snapshot, now: float) -> tuple[None, list[SetTarget]]:
        """Share all out evenly; without state."""
        del now
        pages = snapshot.usable_pages + sum(domain.tot_pages for domain in snapshot.domains)
        goals = fair(claimants_of(snapshot), pages)
        reason = "the same part of its range as all"
        return state, [
            SetTarget(each.domid, max(goal, 0), reason) for each, goal in zip(snapshot.domains, goals, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Static:
    """No ballooning: every domain keeps its target; only reservations and headroom take from it."""

    def step(self, state: None, snapshot: Snapshot, now: float) -> tuple[None, list[SetTarget]]:
        """Set nothing; without state."""
        del snapshot, now
        return state, []
