"""oVirt MoM's shipped balloon rules: the host's free memory says whether guests shrink or grow, by 5 % at a time.

Facts: every 10 s it hears the host's free memory, and of each guest its balloon and what is free in it. The host is under
pressure when less than 20 % of it is free, and it is critical below 5 %. Under pressure guests shrink, by at most 5 % of
what they hold, and not below what they use (all that is not free, page cache too) and 20 % of what they hold; when it is
critical that share is negative, so that guests have to give up what they use: here by as much as the host's free share
is below 5 %. Without pressure guests grow, by at most 5 %, to their maximum. Changes under 0.25 % are not sent. A guest
that does not say what is free in it is left alone.
"""

from dataclasses import dataclass
from typing import Annotated

from xbd.policy.model import DomainSnapshot, SetTarget, Snapshot
from xbd.settings import number


@dataclass(frozen=True, slots=True)
class Mom:
    """By the host's free memory: below 20 % guests shrink, else they grow, by 5 % every 10 s (oVirt MoM)."""

    pressure: Annotated[float, number("below this free share of the host guests shrink", 0, 1)] = 0.20
    critical: Annotated[float, number("below this one they give up what they use", 0, 1)] = 0.05
    guest_free: Annotated[float, number("the share of what it holds that a guest keeps free", 0, 1)] = 0.20
    most_change: Annotated[float, number("the most that a guest shrinks or grows at a time, a share of it", 0, 1)] = (
        0.05
    )
    least_change: Annotated[float, number("smaller changes are not sent, a share of a guest", 0, 1)] = 0.0025
    every_s: Annotated[float, number("how often it looks", 0, 3600, "seconds")] = 10.0

    def step(self, state: float | None, snapshot: Snapshot, now: float) -> tuple[float, list[SetTarget]]:
        """Shrink all or grow all, if it is time; the state is when it last did."""
        if state is not None and now - state < self.every_s:
            return state, []
        free = snapshot.free_pages / max(snapshot.total_pages, 1)
        targets = [self._of(domain, free) for domain in snapshot.domains]
        return now, [target for target in targets if target is not None]

    def _of(self, domain: DomainSnapshot, free: float) -> SetTarget | None:
        unused, held = domain.guest.unused_pages, domain.tot_pages
        if unused is None or not domain.moves:
            return None
        if free < self.pressure:
            kept = self.guest_free if free >= self.critical else free - self.critical
            least = int(held - unused + kept * held)
            # One that has less free than it is to keep is not shrunk, and not grown either.
            goal = min(max(int(held * (1 - self.most_change)), least), held)
            why = f"{free:.1%} of the host is free, less than {self.pressure:.0%}"
        else:
            goal = min(int(held * (1 + self.most_change)), domain.static_max_pages)
            why = f"{free:.1%} of the host is free"
        if abs(goal - held) < self.least_change * held:
            return None
        return SetTarget(domain.domid, goal, why)
