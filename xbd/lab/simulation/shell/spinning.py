"""Sees tasks that go round and round while no time passes: under a mock clock such a run would never end."""

from typing import Final

import trio

from xbd.testing.oracle import Violation

# Steps of tasks at one moment. The busiest moments have some thousands: all guests boot, and everybody asks.
MOST_STEPS: Final = 30_000


class SpinGuard(trio.abc.Instrument):
    """Cancels *scope* when too many steps are done at one moment; `check` then says so."""

    def __init__(self, most_steps: int = MOST_STEPS) -> None:
        self.scope = trio.CancelScope()
        self._most_steps = most_steps
        self._at_s = -1.0
        self._steps = 0
        self._last: str | None = None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Count a step."""
        now_s = trio.current_time()
        if now_s != self._at_s:
            self._at_s, self._steps = now_s, 0
        self._steps += 1
        if self._steps == self._most_steps:
            self._last = task.name.rpartition(".")[2]
            self.scope.cancel()

    def check(self) -> None:
        """Raise Violation if there were too many."""
        if self._last is not None:
            raise Violation(f"tasks go on and on while no time passes, {self._last} among them")
