"""Time and chance of a simulation: one seed, and everything that happens follows from it."""

import heapq
import math
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import TypeVar

import numpy as np

_T = TypeVar("_T")
# What an event did, for the trace; None: it had been overtaken, and did not happen.
Action = Callable[[], str | None]


class Part(IntEnum):
    """Who draws lots. Each has a stream of its own, so that one who draws more does not change the others'."""

    PLAN = 0
    LINKS = 1
    FAULTS = 2
    OPERATOR = 3
    GUESTS = 4
    WILD = 5


class Lots:
    """One stream of chance."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._random = rng.random

    def chance(self, share: float) -> bool:
        """Say yes in this share of all cases."""
        return self._random() < share

    def below(self, count: int) -> int:
        """Draw a whole number from 0 to *count* - 1."""
        return int(self._random() * count)

    def between(self, least: float, most: float) -> float:
        """Draw a number, evenly spread."""
        return least + (most - least) * self._random()

    def spread(self, mean: float) -> float:
        """Draw a number above 0, mostly small and sometimes several times its *mean*."""
        return -math.log(1.0 - self._random()) * mean

    def pick(self, options: Sequence[_T]) -> _T:
        """Draw one of several."""
        return options[self.below(len(options))]


def streams(seed: int) -> dict[Part, Lots]:
    """Make the streams of one seed."""
    spawned = np.random.SeedSequence(seed).spawn(len(Part))
    return {part: Lots(np.random.default_rng(spawned[part])) for part in Part}


class Schedule:
    """What is to happen, in the order of time; what is due at one time, in the order in which it was arranged.

    Attributes: *now*: seconds since the begin.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, str, Action]] = []
        self._order = 0

    def after(self, delay_s: float, label: str, action: Action) -> None:
        """Arrange something."""
        heapq.heappush(self._heap, (self.now + delay_s, self._order, label, action))
        self._order += 1

    def take(self) -> tuple[str, Action]:
        """Move time on to what is next, and hand it out."""
        assert self._heap, "nothing is ever to happen any more"
        self.now, _, label, action = heapq.heappop(self._heap)
        return label, action
