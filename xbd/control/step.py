"""A step of a host: the only thing that changes it, done whole or not at all."""

from types import TracebackType
from typing import Protocol, TypeGuard

from xbd.errors import OutOfResources
from xbd.machine import Machine
from xbd.replaceable import replaceable


@replaceable
def is_lack(error: Exception) -> TypeGuard[MemoryError | OSError]:
    """Tell whether the system gives no more, which is no bug, and answered when the step is undone."""
    return isinstance(error, MemoryError | OSError)


class Undoable(Protocol):
    """What has steps: *machine*, whose undo log they write."""

    machine: Machine

    def undo(self, error: Exception) -> bool:
        """Make everything as it was at the last commit, where that can be and is needed; tells whether it was."""


class Step:
    """`with host.step():` commits what the block did, on the way out, or undoes it if the block raises an exception.

    A step begins when all before it is committed: what was changed outside of steps is an AssertionError here. An error
    that says that nothing has changed (any `XbdError`, with an empty undo log) passes through. What is raised after a
    change is undone, where the state is saved; a lack of memory, or of what else the system gives, then becomes
    OutOfResources, which is answered, and all else is a bug and passes through. Where nothing is saved there
    is no undo log: whatever is not an `XbdError` passes through and ends the daemon, whose host would be half changed.
    What is no `Exception` ends the process: the next one finds the log, and undoes the step.
    """

    __slots__ = ("_host",)

    def __init__(self, host: Undoable) -> None:
        self._host = host

    def __enter__(self) -> None:
        """Begin."""
        assert self._host.machine.image.is_at_rest, "the host was changed outside of a step"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Commit, or undo. Raises OutOfResources: it is undone."""
        if error is None:
            self._host.machine.commit()
        elif isinstance(error, Exception) and self._host.undo(error) and is_lack(error):
            raise OutOfResources.because("it is undone", error) from error
