"""Checking in: how a daemon's long-lived tasks show that they get on, each by itself.

A loop that turns shows only that it turns: a task that waits for what never comes does not hold it up. So each task
that matters says how often it comes by, for as long as it lives (`CheckIn.watched`), and says so when it does. One that
waits with good reason for as long as it takes says that it is idle. Who looks at them is whoever began a list
(`watch_from_here`) in the task that started them, or above: a daemon's `Service`.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, Self

import trio

_watched: ContextVar["set[CheckIn]"] = ContextVar("watched tasks")
# For a task that has nothing to wait for but a short pause, or what has its own limits well below.
SOON_S: Final = 20.0


def watch_from_here() -> "set[CheckIn]":
    """Begin a list of the tasks that are watched, of all that this task does and starts from here on."""
    watched: set[CheckIn] = set()
    _watched.set(watched)
    return watched


class CheckIn:
    """One task's: while it is watched it comes by `here` at least every so often, or is `idle`.

    Args:
        task: what it does, for people.
        at_least_every_s: the longest between two times; infinite: it need not come by at all.
    """

    def __init__(self, task: str, at_least_every_s: float = SOON_S) -> None:
        self.task = task
        self._every_s = at_least_every_s
        self._due_s = math.inf

    @contextmanager
    def watched(self) -> Iterator[Self]:
        """Be on the list that was begun above this task, if there is one, for the length of a block."""
        watched = _watched.get(set())
        watched.add(self)
        self.here()
        try:
            yield self
        finally:
            watched.discard(self)

    def here(self) -> None:
        """Say that the task gets on."""
        self._due_s = trio.current_time() + self._every_s

    @contextmanager
    def idle(self) -> Iterator[None]:
        """Say that the task may wait for as long as it takes, for the length of a block."""
        self._due_s = math.inf
        try:
            yield
        finally:
            self.here()

    def is_late(self, now_s: float) -> bool:
        """Tell whether it has not come by for too long."""
        return now_s > self._due_s
