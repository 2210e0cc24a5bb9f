"""State that a guest's components share: the time of the step, and what the toolstack told the guest."""

from dataclasses import dataclass

from xbd.guest.mode import GuestMode


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
