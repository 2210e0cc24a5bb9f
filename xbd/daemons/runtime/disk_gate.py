"""Whether guests get their turns: while the disk of the state directory is full, their calls wait.

A page of a mapped file that finds no place on its disk would end the daemon (SIGBUS). So the shell looks
at the free space several times a second, and while there is too little no guest gets its turn: to a
guest its hypercalls take long, nothing fails and nothing is lost. The toolstack is let through, to look
and to destroy. A directory that was moved away, or whose file system is not mounted any more, counts as
full until it is back. Source: QEMU's werror=stop, which stops a guest whose disk has no room.
"""

from collections.abc import Callable
from typing import Final

import structlog
import trio

from xbd.daemons.runtime.check_in import CheckIn

_log = structlog.get_logger(__name__)

# A turn takes some 50 us: between two looks a guest can touch a few MiB, of hundreds that are kept in reserve.
LOOK_EVERY_S: Final = 0.1


class DiskGate:
    """Open while *is_full* says no; where it raises OSError, nobody can tell, and that counts as full.

    Attributes: *why_closed*: what is the matter, in words; empty while it is open.
    """

    def __init__(self, is_full: Callable[[], bool], look_every_s: float = LOOK_EVERY_S) -> None:
        self._is_full = is_full
        self._look_every_s = look_every_s
        self._open = trio.Event()
        self._open.set()
        self.why_closed = ""

    @property
    def is_open(self) -> bool:
        """Whether guests get their turns."""
        return self._open.is_set()

    async def wait(self) -> None:
        """Wait until guests get their turns."""
        while not self._open.is_set():
            await self._open.wait()

    async def watch(self) -> None:
        """Look for ever; a disk that cannot be looked at counts as full, which is said once."""
        with CheckIn("look at the disk").watched() as check_in:
            while True:
                self._look()
                check_in.here()
                await trio.sleep(self._look_every_s)

    def _look(self) -> None:
        """Open or close the gate by what is free now; a change is logged."""
        try:
            full, event, told = self._is_full(), "state_dir_full", {"expected": "free space on its disk"}
            why = "the disk of the host's state directory is full"
        except OSError as error:
            full, event, why = True, "state_dir_unreachable", f"the host's state directory cannot be reached: {error}"
            told = {"reason": str(error), "expected": "the directory where it was, or an end of the daemon"}
        if full and self.is_open:
            self._open = trio.Event()
            self.why_closed = why
            _log.error(event, effect="guests' calls wait", **told)
        elif not full and not self.is_open:
            self._open.set()
            self.why_closed = ""
            _log.info("state_dir_has_room")
