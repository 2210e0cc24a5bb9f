"""State that a guest's components share: the time of the step, its ticks, and what the toolstack told the guest."""

from dataclasses import dataclass
from typing import Final

from xbd.guest.mode import GuestMode

# A tick so long after its time is late: ten times what agents wake late to wake together (`daemons.guests`).
LATE_S: Final = 0.1


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
