"""Progress of domains towards their targets: reached, moving, stuck, refused; pure.

A domain that makes no progress for 5 s is *stuck*. It may go on later and is then moving again; one
that is still stuck at its deadline (20 s after its target was set) has *refused*. A domain whose new
target the hypervisor refused has refused at once. Waiting ends when no domain is moving.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from xbd.domain import SILENT, DomainInfo
from xbd.target_rules import REFUSED_AFTER_S, STUCK_AFTER_S, is_reached
from xbd.units import counted

GETS_NO_MORE: Final = "its guest gets no more memory"
# `worker_state` of a driver that has stopped trying; and how often Linux's tries, for reports that do not say.
_CANCELLED: Final = "cancelled"
_LINUX_RETRIES: Final = 4


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

    Attributes: *life* tells the domain from all others, *start_pages* what it held when its target was set, *tot_pages* what it holds now, *nearest_pages* the
    least distance to the target so far, *progressed_at* when that was reached, *set_at* when its target was set;
    *lacks_memory*: it is stuck because it gets no more memory, so the reason should say what the host has free.
    """

    domid: int
    name: str
    life: str
    start_pages: int
    target_pages: int
    set_at: float
    tot_pages: int = field(init=False)
    nearest_pages: int = field(init=False)
    progressed_at: float = field(init=False)
    outcome: Outcome = Outcome.MOVING
    reason: str = ""
    lacks_memory: bool = False

    def __post_init__(self) -> None:
        self.tot_pages = self.start_pages
        self.nearest_pages = self.distance_pages
        self.progressed_at = self.set_at

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
        stuck_after_s: float = STUCK_AFTER_S,
        deadline_s: float = REFUSED_AFTER_S,
    ) -> None:
        """Update the outcome from the domain as listed at *now*; None: it is gone."""
        if self.settled:
            return
        if domain is None:
            self.outcome, self.reason = Outcome.GONE, "it was destroyed"
            return
        self.tot_pages = domain.tot_pages
        if is_reached(self.tot_pages, self.target_pages):
            self.outcome, self.reason = Outcome.REACHED, ""
        elif self.distance_pages < self.nearest_pages:
            self.nearest_pages, self.progressed_at = self.distance_pages, now
            self.outcome, self.reason = Outcome.MOVING, ""
        elif now - self.progressed_at >= stuck_after_s:
            late = now - self.set_at >= deadline_s
            self.outcome = Outcome.REFUSED if late else Outcome.STUCK
            self.lacks_memory = False
            self.reason = self._why(domain)

    def _lacks_agent(self, domain: DomainInfo) -> str:
        if domain.agent:
            return "its agent does not answer; is its process stopped, or its machine overloaded?"
        return f"no agent is connected (the domain is {domain.state}); start one with `xbd guest {self.name}`"

    def _why(self, domain: DomainInfo) -> str:
        """Explain why it makes no progress, as far as its listing shows."""
        if domain.state == SILENT or not domain.agent:
            return self._lacks_agent(domain)
        if domain.target_pages != self.target_pages:
            return "somebody else has set another target meanwhile"
        if domain.mode != "normal":
            return f"its guest's mode is {domain.mode!r}; `xbd guest-mode {self.name} normal` ends that"
        cancelled = cancellation(domain)
        if self.target_pages > self.tot_pages:
            self.lacks_memory = True
            return cancelled or GETS_NO_MORE
        if cancelled:
            return cancelled
        return f"its guest gives up no more; `xbd info {self.name}` tells what it holds"


def cancellation(domain: DomainInfo) -> str:
    """Explain, by the domain's report, that its balloon driver has stopped trying, and what helps; empty if it has not."""
    report = domain.reported
    if report.get("worker_state") != _CANCELLED:
        return ""
    retries = report.get("max_retry_count")
    times = retries if type(retries) is int and retries > 0 else _LINUX_RETRIES
    grows = domain.target_pages > domain.tot_pages
    refused_by = "the host had no memory for it" if grows else "it had no free memory to give"
    if report.get("wake_when_told"):
        helps = "it goes on when there is, or when it is told its target again"
    else:
        helps = "as Linux's, it tries again only for another target: neither the same one nor free memory wakes it"
    return f"its balloon was cancelled after {counted(times, 'refusal')}: {refused_by}; {helps}"


def observe_all(
    following: Iterable[Following],
    domains: Iterable[DomainInfo],
    now: float,
    *,
    stuck_after_s: float = STUCK_AFTER_S,
    deadline_s: float = REFUSED_AFTER_S,
) -> None:
    """Update all outcomes from the domains as listed at *now*."""
    by_life = {domain.life: domain for domain in domains}
    for one in following:
        one.observe(by_life.get(one.life), now, stuck_after_s=stuck_after_s, deadline_s=deadline_s)


def anything_to_wait_for(following: Sequence[Following]) -> bool:
    """Tell whether any domain is still moving."""
    return any(one.outcome is Outcome.MOVING for one in following)
