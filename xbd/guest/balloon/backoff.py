"""When the worker looks again: the states and delays of Linux's balloon thread.

Source: Linux drivers/xen/balloon.c, update_schedule and balloon_thread.
"""

from enum import StrEnum
from typing import Final

# While every ballooned gfn is out as a slot (in Linux: while memory hotplug is pending).
WAIT_S: Final = 1.0
# A cancelled worker looks again after an hour.
CANCELLED_S: Final = 3600.0


class WorkerState(StrEnum):
    """How the last batch ended."""

    DONE = "done"
    WAIT = "wait"
    AGAIN = "again"
    CANCELLED = "cancelled"


class Backoff:
    """The worker's state, its delay and its count of failures, as sysfs shows them.

    Args:
        delay_max_s: max_schedule_delay.
        retry_max: max_retry_count; the failure of this number in a row cancels; 0: never.
    """

    def __init__(self, delay_max_s: int, retry_max: int) -> None:
        self.delay_max_s = delay_max_s
        self.retry_max = retry_max
        self.state = WorkerState.DONE
        self.schedule_delay = 1
        self.retry_count = 1

    def note(self, outcome: WorkerState) -> WorkerState:
        """Take note of how a batch ended; returns the state that follows: AGAIN may become CANCELLED."""
        match outcome:
            case WorkerState.DONE:
                self.restart()
            case WorkerState.AGAIN:
                self.retry_count += 1
                if self.retry_max and self.retry_count > self.retry_max:
                    self.restart()
                    outcome = WorkerState.CANCELLED
                else:
                    self.schedule_delay = min(self.schedule_delay * 2, self.delay_max_s)
            case WorkerState.WAIT | WorkerState.CANCELLED:
                pass
        self.state = outcome
        return outcome

    def restart(self) -> None:
        """Count failures and delays from the beginning; the state stays."""
        self.schedule_delay = 1
        self.retry_count = 1

    @property
    def pause_s(self) -> float | None:
        """Seconds until the worker looks again whether or not the credit changed; None in DONE: nothing to look for."""
        match self.state:
            case WorkerState.DONE:
                return None
            case WorkerState.WAIT:
                return WAIT_S
            case WorkerState.AGAIN:
                return float(self.schedule_delay)
            case WorkerState.CANCELLED:
                return CANCELLED_S
