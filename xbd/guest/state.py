"""State that a guest's components share: the time of the step, ticks, waits, and what the toolstack told the guest."""

import math
from dataclasses import dataclass
from typing import Final

from xbd.guest.mode import GuestMode

# A tick so long after its time is late: ten times what agents wake late to wake together (`daemons.guests`).
LATE_S: Final = 0.1

# What a page costs that has to be read again: a read of 4 KiB from a flash drive takes some 100 us. A stated price, not
# a measured one: `xbd arena` shows what depends on it.
REFAULT_S: Final = 100e-6
# The programs that are refused memory and end are taken to have waited so long before: a reclaim that got nothing.
REFUSED_S: Final = 1.0
# As Linux's avg10 of /proc/pressure.
_AVERAGED_S: Final = 10.0
# What is less is nothing: 0.1 %.
_NO_PRESSURE: Final = 1e-3


@dataclass(slots=True)
class Waits:
    """How long programs have waited for memory, or for files' pages that were dropped and had to be read again.

    Attributes: *total_s*: since boot; *pressure*: the share of the last ten seconds in which any program waited, an
    exponential average as Linux's.
    """

    total_s: float = 0.0
    pressure: float = 0.0
    _at_s: float = 0.0
    _owed_s: float = 0.0
    _stalled: bool = False

    def add(self, waits_s: float) -> None:
        """Let programs wait so long from now on."""
        self._owed_s += waits_s

    def stall(self, *, stalled: bool) -> None:
        """Say that programs wait for memory from now on, or no longer."""
        self._stalled = stalled

    def pass_to(self, now_s: float) -> None:
        """Let time pass."""
        elapsed_s = now_s - self._at_s
        self._at_s = now_s
        if elapsed_s <= 0 or not (self._stalled or self._owed_s or self.pressure):
            return
        read_s = min(self._owed_s, elapsed_s)
        self._owed_s -= read_s
        waited_s = elapsed_s if self._stalled else read_s
        self.total_s += waited_s
        kept = math.exp(-elapsed_s / _AVERAGED_S)
        self.pressure = self.pressure * kept + (1 - kept) * waited_s / elapsed_s
        if self.pressure < _NO_PRESSURE and not waited_s:
            self.pressure = 0.0

    def deadline(self) -> float | None:
        """Tell when to look again; None: nobody waits, and nobody has just waited."""
        return self._at_s + 1.0 if self._stalled or self._owed_s or self.pressure else None


@dataclass(slots=True)
class Directives:
    """What the toolstack told a guest: target, limit, mode, shutdown. Only the kernel writes it."""

    target_pages: int
    limit_pages: int
    mode: GuestMode
    # The guest is shutting down: nothing new is begun.
    stopping: bool = False


class Clock:
    """The time of the step that is running: a procedure that waited reads it anew."""

    def __init__(self) -> None:
        self.now = 0.0


@dataclass(slots=True)
class Ticks:
    """How many ticks the workload has had, how many of them were late, and by how much the worst was."""

    count: int = 0
    late: int = 0
    worst_s: float = 0.0

    def came(self, now_s: float, due_s: float) -> None:
        """Count one; the first, by which the guest boots, is in time."""
        late_s = now_s - due_s if self.count else 0.0
        self.count += 1
        if late_s >= LATE_S:
            self.late += 1
        self.worst_s = max(self.worst_s, late_s)
