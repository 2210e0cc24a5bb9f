"""A bounded PI controller: memory goes where programs wait for it, and leaves slowly where nobody does.

Theory of operation. The pressure that a guest reports is the share of the last ten seconds in which some program waited
for memory, or for page cache that had to be read again. Its error is the distance from a goal that is small but not
nothing: a guest that never waits has more than it needs. A step moves a guest by a part of what it holds, the sum of a
proportional and an integral part; the integral is bounded, so that a long calm does not have to be unlearned, and so is
the step, downwards more than upwards, for shrinking too far costs more than shrinking late. A stall (much pressure, or
hardly anything left that programs could get) is answered at once by growth, whatever the controller says, and empties
the integral. Nothing is taken from a guest that has little left.

What it moves is a goal that it remembers, not what the guest holds: many small steps add up to one that is worth
sending, and a target that is under way is not taken for what the guest needs. A goal is never far from what is held, so
that it does not run away from a guest that cannot follow.

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
    """What it remembers: each domain's integral and goal in pages, by life, and when it last stepped."""

    of: Mapping[str | int, float]
    goals: Mapping[str | int, float]
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
    most_away: Annotated[float, number("how far a goal may be from what is held, a share of that", 0, 1)] = 0.25
    every_s: Annotated[float, number("how often it steps, if nobody stalls", 0, 3600, "seconds")] = 5.0

    def step(self, state: Integrals | None, snapshot: Snapshot, now: float) -> tuple[Integrals, list[SetTarget]]:
        """Grow who stalls, and once in a while let the controller move the others."""
        since = self.every_s if state is None else now - state.stepped_s
        due = since >= self.every_s
        integrals: dict[str | int, float] = {}
        goals: dict[str | int, float] = {}
        targets = []
        for domain in snapshot.domains:
            pressure, key = domain.guest.pressure, domain.life or domain.domid
            if pressure is None or not domain.moves:
                continue
            held = domain.tot_pages
            integral = 0.0 if state is None else state.of.get(key, 0.0)
            goal = float(held) if state is None else state.goals.get(key, float(held))
            goal = min(max(goal, held * (1 - self.most_away)), held * (1 + self.most_away))
            why, urgent = f"pressure {pressure:.1%}, the goal is {self.goal:.1%}", False
            if (stall := self._stalls(domain, pressure)) is not None:
                why, urgent, integral = stall, True, 0.0
                goal = held * (1 + self.stall_grow)
            elif due:
                error, bound = pressure - self.goal, self.most_integral
                integral = min(max(integral + self.integral * error * since, -bound), bound)
                part = min(max(self.proportional * error + integral, -self.most_shrink), self.most_grow)
                goal += part * held if part > 0 or _left(domain, goal) >= _LITTLE else 0.0
            integrals[key], goals[key] = integral, min(goal, domain.static_max_pages)
            targets.append(SetTarget(domain.domid, int(goals[key]), why, urgent))
        return Integrals(integrals, goals, now if due or state is None else state.stepped_s), targets

    def _stalls(self, domain: DomainSnapshot, pressure: float) -> str | None:
        """Say why its programs stall; None: they do not. Growth that is still under way is not doubled."""
        if domain.target_pages > domain.tot_pages:
            return None
        if pressure >= self.stall:
            return f"it stalls: pressure {pressure:.1%}"
        return (
            "it is about to stall: hardly anything is left" if _left(domain, domain.tot_pages) < _HARDLY_ANY else None
        )


def _left(domain: DomainSnapshot, goal: float) -> float:
    """Compute what programs could still get if it held its goal, as a share of what it holds; 1 if it does not say."""
    available = domain.guest.available_pages
    return 1.0 if available is None else (available + goal - domain.tot_pages) / max(domain.tot_pages, 1)
