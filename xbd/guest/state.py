"""What the parts of a guest share: the time of the step, and what the toolstack wants."""

from dataclasses import dataclass

from xbd.guest.mode import GuestMode


@dataclass(slots=True)
class Wishes:
    """What the toolstack wants of a guest, and how the guest behaves; written by the kernel alone."""

    target_pages: int
    limit_pages: int
    mode: GuestMode
    # The guest is shutting down: nothing new is begun.
    stopping: bool = False


class Clock:
    """The time of the step that is running: a procedure that waited reads it anew."""

    def __init__(self) -> None:
        self.now = 0.0
