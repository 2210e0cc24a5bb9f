"""Checking in: how a daemon's long-lived tasks show that they get on, each by itself.

A loop that turns shows only that it turns: a task that waits for what never comes does not hold it up. So each task
that matters says how often it comes by, and says so when it does. One that waits with good reason for as long as it
takes says that it is idle.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import trio


class CheckIn:
    """One task's: it comes by `here` at least every so often, or is `idle`.

    Args:
        task: what it does, for people.
        at_least_every_s: the longest between two times; by default it need not come by at all.
    """

    def __init__(self, task: str, at_least_every_s: float = math.inf) -> None:
        self.task = task
        self._every_s = at_least_every_s
        self._due_s = math.inf if math.isinf(at_least_every_s) else trio.current_time() + at_least_every_s

    def here(self) -> None:
        """Say that the task gets on."""
        self._due_s = math.inf if math.isinf(self._every_s) else trio.current_time() + self._every_s

    @contextmanager
    def idle(self) -> Iterator[None]:
        """Say that the task may wait for as long as it takes, for the length of a block."""
        self._due_s = math.inf
        try:
            yield
        finally:
            self.here()

    def end(self) -> None:
        """Say that the task has ended: nobody waits for it."""
        self._due_s = self._every_s = math.inf

    def is_late(self, now_s: float) -> bool:
        """Tell whether it has not come by for too long."""
        return now_s > self._due_s
