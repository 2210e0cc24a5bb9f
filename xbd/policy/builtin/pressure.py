"""A bounded PI controller: memory goes where programs wait for it, and leaves slowly where nobody does.

Theory of operation. The pressure that a guest reports is the share of the last ten seconds in which some program waited
for memory, or for page cache that had to be read again. Its error is the distance from a goal that is small but not
nothing: a guest that never waits has more than it needs. A step moves a guest by a part of what it holds, the sum of a
proportional and an integral part; the integral is bounded, so that a long calm does not have to be unlearned, and so is
the step, downwards more than upwards, for shrinking too far costs more than shrinking late. A stall (much pressure, or
hardly anything left that programs could get) is answered at once by growth, whatever the controller says, and empties
the integral. Nothing is taken from a guest that has little left.

It needs reports: one that says nothing of pressure keeps its target.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final

from xbd.policy.model import DomainSnapshot, SetTarget, Snapshot
from xbd.settings import number

# Of what a guest holds: below the first part its programs are about to stall, and from less than the second nothing is taken.
_HARDLY_ANY: Final = 1 / 64
_LITTLE: Final = 1 / 16


@dataclass(frozen=True, slots=True)
class Integrals:
    """What it remembers: each domain's integral, by life, and when it last stepped."""

    of: Mapping[str | int, float]
    stepped_s: float


@dataclass(frozen=True, slots=True)
class Pressure:
    """By how long programs wait for memory: a bounded PI controller, which grows a guest at once that stalls."""

    goal: Annotated[float, number("the pressure that it aims at, a share of time", 0, 1)] = 0.005
    proportional: Annotated[float, number("of what a guest holds, a step for each unit of error", 0, 100)] = 2.0
    integral: Annotated[float, number("the same, for each unit of error and second", 0, 100)] = 0.1
    most_integral: Annotated[float, number("the bound of the integral part, a share of a guest", 0, 1)] = 0.02
    most_shrink: Annotated[float, number("the most that a step takes, a share of a guest", 0, 1)] = 0.02
    most_grow: Annotated[float, number("the most that a step gives, a share of a guest", 0, 1)] = 0.10
    stall: Annotated[float, number("from this pressure on a guest stalls", 0, 1)] = 0.10
    stall_grow: Annotated[float, number("what a stalled guest gets at once, a share of it", 0, 1)] = 0.25
    every_s: Annotated[float, number("how often it steps, if nobody stalls", 0, 3600, "seconds")] = 5.0

    def step(self, state: Integrals | None, snapshot: Snapshot, now: float) -> tuple[Integrals, list[SetTarget]]:
        """Grow who stalls, and once in a while let the controller move the others."""
        since = self.every_s if state is None else now - state.stepped_s
        due = since >= self.every_s
        integrals = {} if state is None else dict(state.of)
        known = {domain.life or domain.domid for domain in snapshot.domains}
        integrals = {key: kept for key, kept in integrals.items() if key in known}
        targets = []
        for domain in snapshot.domains:
            pressure, key = domain.guest.pressure, domain.life or domain.domid
            if pressure is None or not domain.moves:
                continue
            if (why := self._stalls(domain, pressure)) is not None:
                integrals[key] = 0.0
                targets.append(_move(domain, self.stall_grow, why, urgent=True))
            elif due:
                error = pressure - self.goal
                bound = self.most_integral
                integrals[key] = min(max(integrals.get(key, 0.0) + self.integral * error * since, -bound), bound)
                part = min(max(self.proportional * error + integrals[key], -self.most_shrink), self.most_grow)
                if part < 0 and _left(domain) < _LITTLE:
                    part = 0.0
                targets.append(_move(domain, part, f"pressure {pressure:.1%}, the goal is {self.goal:.1%}"))
        return Integrals(integrals, now if due or state is None else state.stepped_s), targets

    def _stalls(self, domain: DomainSnapshot, pressure: float) -> str | None:
        """Say why its programs stall; None: they do not. Growth that is still under way is not doubled."""
        if domain.target_pages > domain.tot_pages:
            return None
        if pressure >= self.stall:
            return f"it stalls: pressure {pressure:.1%}"
        return "it is about to stall: hardly anything is left" if _left(domain) < _HARDLY_ANY else None


def _left(domain: DomainSnapshot) -> float:
    """Compute what programs can still get, as a share of what the domain holds; 1 if it does not say."""
    available = domain.guest.available_pages
    return 1.0 if available is None else available / max(domain.tot_pages, 1)


def _move(domain: DomainSnapshot, part: float, why: str, *, urgent: bool = False) -> SetTarget:
    pages = domain.tot_pages + int(part * domain.tot_pages)
    return SetTarget(domain.domid, min(pages, domain.static_max_pages), why, urgent)
