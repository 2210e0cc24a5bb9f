"""Virtual time and random numbers of a simulation; both follow from one seed."""

import heapq
import math
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import TypeVar

import numpy as np

_T = TypeVar("_T")
# Does an event and returns its text for the trace; None: it was superseded, and did not happen.
Action = Callable[[], str | None]


class Purpose(IntEnum):
    """What random numbers are for. Each purpose has a generator of its own, so that drawing more for one changes no other."""

    PLAN = 0
    LINKS = 1
    FAULTS = 2
    OPERATOR = 3
    GUESTS = 4
    HOSTILE = 5
    POLICY = 6


class Rng:
    """A random number generator with the few distributions that the simulation needs."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._random = generator.random

    def bernoulli(self, probability: float) -> bool:
        """Return True with this probability."""
        return self._random() < probability

    def below(self, count: int) -> int:
        """Draw an integer from 0 to *count* - 1, uniformly."""
        return int(self._random() * count)

    def uniform(self, low: float, high: float) -> float:
        """Draw a number from *low* up to *high*, uniformly."""
        return low + (high - low) * self._random()

    def exponential(self, mean: float) -> float:
        """Draw a number from the exponential distribution with this *mean*."""
        return -math.log(1.0 - self._random()) * mean

    def choice(self, options: Sequence[_T]) -> _T:
        """Draw one of *options*, uniformly."""
        return options[self.below(len(options))]


def make_rngs(seed: int) -> dict[Purpose, Rng]:
    """Make the generators of one seed, by purpose."""
    spawned = np.random.SeedSequence(seed).spawn(len(Purpose))
    return {purpose: Rng(np.random.default_rng(spawned[purpose])) for purpose in Purpose}


class Schedule:
    """A queue of events in the order of their times; events of the same time keep the order in which they were added.

    Attributes: *now*: virtual seconds since the start.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, str, Action]] = []
        self._order = 0

    def after(self, delay_s: float, label: str, action: Action) -> None:
        """Add an event: *action* is to be done *delay_s* seconds from now; *label* names it in the trace."""
        heapq.heappush(self._heap, (self.now + delay_s, self._order, label, action))
        self._order += 1

    def take(self) -> tuple[str, Action]:
        """Advance time to the next event and return its label and action."""
        assert self._heap, "the schedule is empty"
        self.now, _, label, action = heapq.heappop(self._heap)
        return label, action
