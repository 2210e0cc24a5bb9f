"""Progress of domains towards their targets: reached, moving, stuck, refused; pure.

A domain that makes no progress for 5 s is *stuck*. It may go on later and is then moving again; one
that is still stuck at its deadline (20 s after its target was set) has *refused*. A domain whose new
target the hypervisor refused has refused at once. Waiting ends when no domain is moving.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from xbd.control.explain import why_stuck
from xbd.domain import DomainInfo
from xbd.target_rules import REFUSED_AFTER_S, STUCK_AFTER_S, Approach, is_reached

_ANOTHER: Final = "somebody else has set another target meanwhile"
_NOTHING: Final[Mapping[str, Any]] = {}


class Outcome(StrEnum):
    """The state of a domain's progress."""

    MOVING = "moving"
    REACHED = "reached"
    STUCK = "stuck"
    REFUSED = "refused"
    GONE = "gone"


@dataclass(slots=True)
class Following:
    """The progress of one domain towards its target.

    Attributes: *life* tells the domain from all others, *start_pages* what it held when its target was set,
    *tot_pages* what it holds now, *approach* how near it has
    come and when, *set_at* when its target was set.
    """

    domid: int
    name: str
    life: str
    start_pages: int
    target_pages: int
    set_at: float
    tot_pages: int = field(init=False)
    approach: Approach = field(init=False)
    outcome: Outcome = Outcome.MOVING
    reason: str = ""

    def __post_init__(self) -> None:
        self.tot_pages = self.start_pages
        self.approach = Approach(self.distance_pages, self.set_at)

    @property
    def distance_pages(self) -> int:
        """How far it is from its target."""
        return abs(self.tot_pages - self.target_pages)

    @property
    def share_done(self) -> float:
        """The share of the way that is done, 0 to 1."""
        way = abs(self.start_pages - self.target_pages)
        return 1.0 if way == 0 else min(max(1 - self.distance_pages / way, 0.0), 1.0)

    @property
    def settled(self) -> bool:
        """Whether its outcome is final: reached, refused or gone."""
        return self.outcome in (Outcome.REACHED, Outcome.REFUSED, Outcome.GONE)

    def refuse(self, reason: str) -> None:
        """Note that the hypervisor refused its new target or limit."""
        self.outcome, self.reason = Outcome.REFUSED, reason

    def observe(
        self,
        domain: DomainInfo | None,
        now: float,
        *,
        host: Mapping[str, Any] = _NOTHING,
        stuck_after_s: float = STUCK_AFTER_S,
        deadline_s: float = REFUSED_AFTER_S,
    ) -> None:
        """Update the outcome from the domain as listed at *now*, None: it is gone; *host*: as told then, for the reason."""
        if self.settled:
            return
        if domain is None:
            self.outcome, self.reason = Outcome.GONE, "it was destroyed"
            return
        self.tot_pages = domain.tot_pages
        if is_reached(self.tot_pages, self.target_pages):
            self.outcome, self.reason = Outcome.REACHED, ""
            return
        before, self.approach = self.approach, self.approach.seen(self.distance_pages, now)
        if self.approach is not before:
            self.outcome, self.reason = Outcome.MOVING, ""
        elif self.approach.is_stuck(now, stuck_after_s):
            self.outcome = Outcome.REFUSED if now - self.set_at >= deadline_s else Outcome.STUCK
            is_ours = domain.target_pages == self.target_pages
            self.reason = why_stuck(domain, host) if is_ours else _ANOTHER


def observe_all(
    following: Iterable[Following],
    domains: Iterable[DomainInfo],
    now: float,
    *,
    host: Mapping[str, Any] = _NOTHING,
    stuck_after_s: float = STUCK_AFTER_S,
    deadline_s: float = REFUSED_AFTER_S,
) -> None:
    """Update all outcomes from the domains as listed at *now*."""
    by_life = {domain.life: domain for domain in domains}
    for one in following:
        one.observe(by_life.get(one.life), now, host=host, stuck_after_s=stuck_after_s, deadline_s=deadline_s)


def still_moving(following: Sequence[Following]) -> set[str]:
    """Name the domains that are still moving, by their lives."""
    return {one.life for one in following if one.outcome is Outcome.MOVING}
