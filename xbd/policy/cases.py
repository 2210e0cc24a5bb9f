"""One domain within one step of the policy: its snapshot, its verdict, and what is decided about it so far."""

from dataclasses import dataclass, field, replace

from xbd.policy.balance import Claimant
from xbd.policy.model import (
    Action,
    Bounds,
    DomainSnapshot,
    Kept,
    Progress,
    Safety,
    SetMax,
    SetTarget,
    Settings,
    Verdict,
)
from xbd.policy.progress import aimed, retry_due
from xbd.replaceable import replaceable
from xbd.units import SUPER_PAGES, round_down, round_up


@dataclass(slots=True)
class Case:
    """A domain while it is decided about; *target* and *limit* (max_pages) are as they will be, *actions* as to be sent.

    *reason* and *urgent*: as the policy says of its goal.
    """

    domain: DomainSnapshot
    bounds: Bounds
    progress: Progress
    settings: Settings
    now: float
    target: int
    limit: int
    goal: int = 0
    shrunk: bool = False
    held: bool = False
    reason: str = ""
    urgent: bool = False
    actions: list[Action] = field(default_factory=list)

    @property
    def takes_part(self) -> bool:
        """Whether it is asked to move: it can balloon, is neither stuck nor just held, and has a whole superpage."""
        return self.progress.able and not self.progress.stuck and not self.held and self.bounds.most > 0

    @property
    def willing(self) -> bool:
        """Whether the policy waits for it to move: it takes part, and has refused nothing."""
        return self.progress.verdict is Verdict.WILLING and self.bounds.most > 0

    @property
    def room(self) -> int:
        """Pages that it may take without another action: up to its max_pages, and never beyond its static maximum."""
        return max(min(self.limit, self.domain.static_max_pages) - self.domain.tot_pages, 0)

    @property
    def owing(self) -> int:
        """Pages that it still has to give up, and is willing to."""
        return max(self.domain.tot_pages - self.target, 0) if self.takes_part else 0

    @property
    def allowed(self) -> int:
        """The most that it can come to hold without another action."""
        return min(self.target, self.limit)

    @property
    def rested(self) -> bool:
        """Whether its target was left unchanged for long enough."""
        moved_s = self.progress.moved_s
        patient = self.settings.on(Safety.MIN_INTERVAL) and not (self.urgent and self.goal > self.target)
        return not patient or moved_s is None or self.now - moved_s >= self.settings.min_interval_s

    def significant(self, pages: int) -> bool:
        """Whether a target of *pages* is worth sending: a large change, a way back into its bounds, or a new try."""
        threshold = max(self.settings.threshold_pages, 1) if self.settings.on(Safety.THRESHOLD) else 1
        from_pages = self.target if pages < self.target else self.allowed
        # A cap left over from when it was stuck, or set by hand.
        held_back = self.limit < self.target <= pages
        outside = self.bounds.clamp(self.target) != self.target
        return abs(pages - from_pages) >= threshold or held_back or outside or self.tries(pages)

    def tries(self, pages: int) -> bool:
        """Whether *pages* is beyond what it refused, so that this is a new try."""
        least, most = self.progress.least_pages, self.progress.most_pages
        return (least is not None and pages < least) or (most is not None and pages > most)

    @replaceable
    def claimant(self) -> Claimant:
        """Describe it for `balance`."""
        tot = self.domain.tot_pages
        if not self.takes_part:
            fixed = max(tot, self.limit)
            return Claimant(fixed, fixed, fixed, fixed)
        least, most = self.bounds.least, self.bounds.most
        slack = SUPER_PAGES if retry_due(self.progress, self.settings, self.now) else 0
        refused_least, refused_most = self.progress.least_pages, self.progress.most_pages
        floor = least if refused_least is None else self.bounds.clamp(refused_least - slack)
        ceiling = most if refused_most is None else self.bounds.clamp(refused_most + slack)
        demand = self.domain.demand_pages
        if demand is not None and self.settings.on(Safety.BOUND_DEMAND):
            demand = self.bounds.clamp(round_up(min(max(demand, 0), most)))
        elif demand is not None:
            floor, ceiling = min(floor, demand), max(ceiling, demand)
        return Claimant(least, most, floor, max(floor, ceiling), demand)

    def seen(self) -> DomainSnapshot:
        """Show it to the policy."""
        claimant = self.claimant()
        return replace(
            self.domain,
            target_pages=self.target,
            max_pages=self.limit,
            demand_pages=claimant.demand,
            floor_pages=claimant.floor,
            ceiling_pages=claimant.ceiling,
        )

    def cap(self) -> None:
        """Take away room that it has beyond its target; of one that takes no part, beyond what it holds."""
        if self.bounds.most == 0 or self.held or not self.settings.on(Safety.CAP_MAX):
            return
        held = round_up(self.target) if self.takes_part else round_down(min(self.target, self.domain.tot_pages))
        if self.limit > self.bounds.clamp(held):
            self._set_max(self.bounds.clamp(held))

    def shrink(self) -> None:
        """Shrink it to its goal: target, then max_pages."""
        self._move(self.goal)
        self.shrunk = True
        if self.limit > self.goal and self.settings.on(Safety.CAP_MAX):
            self._set_max(self.goal)

    def grow(self, pages: int) -> None:
        """Grow it: max_pages, then target."""
        if self.limit < pages or (self.limit > pages and self.settings.on(Safety.CAP_MAX)):
            self._set_max(pages)
        if self.target != pages:
            self._move(pages)

    def hold(self, pages: int) -> None:
        """Set an unreachable target, and max_pages, to what it holds; it gets no more actions in this step."""
        self.held = pages != self.target
        if self.held:
            self.reason = "it made no progress toward its target: it keeps what it holds"
            # It counts as a move: a domain that was just told to stay is not told to move at once.
            self.progress = replace(self.progress, moved_s=self.now)
        if pages > self.target:
            if self.limit != pages:
                self._set_max(pages)
            self._set_target(pages)
        elif pages < self.target:
            self._set_target(pages)
            if self.limit != pages:
                self._set_max(pages)

    def kept(self, *, waits: bool) -> Kept:
        """Say why its target was left alone in this step, if it was; *waits*: growing waits for others."""
        if self.actions or not self.progress.able:
            return Kept.MOVED if self.progress.able else Kept.UNABLE
        if not self.takes_part:
            return Kept.STUCK
        if self.goal == self.target or self.target < self.goal <= self.allowed:
            return Kept.AT_GOAL
        if not self.rested:
            return Kept.INTERVAL
        if not self.significant(self.goal):
            return Kept.THRESHOLD
        return Kept.TWO_PHASES if waits else Kept.HEADROOM

    def _move(self, pages: int) -> None:
        tried = self.tries(pages)
        self._set_target(pages)
        self.progress = replace(self.progress, moved_s=self.now)
        if tried:
            self.progress = replace(self.progress, refused_s=self.now)

    def _set_target(self, pages: int) -> None:
        self.target = pages
        self.actions.append(SetTarget(self.domain.domid, pages, self.reason, self.urgent))

    def _set_max(self, pages: int) -> None:
        self.limit = pages
        # One cap is enough: a later decision of the same step replaces it.
        self.actions = [each for each in self.actions if not isinstance(each, SetMax)]
        self.actions.append(SetMax(self.domain.domid, pages))

    def settled(self) -> Progress:
        """Return what is to be remembered of it, judged from now on by what was decided."""
        if not self.actions or self.progress.stuck:
            return self.progress
        return aimed(self.progress, self.domain.tot_pages, self.allowed, self.now)
