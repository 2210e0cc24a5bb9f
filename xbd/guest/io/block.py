"""A guest's part in block I/O: its front end, its back end, and the inbox that both share.

One receive procedure at a time empties the inbox when the hypervisor says that there are messages; if more
come while it runs, it is started again.
"""

from collections.abc import Generator
from typing import Final

import numpy as np

from xbd.abi import BootInfo, Frames, LoadResult, Receive, Result, Stop, split_messages
from xbd.guest.balloon.foreign import ForeignSlots
from xbd.guest.io.back_end import DiskBackEnd
from xbd.guest.io.front_end import BACK_END_DOMID, FrontEnd
from xbd.guest.procedures import Procedure
from xbd.guest.procedures import Request as Yielded
from xbd.guest.settings import BlockBackEnd
from xbd.guest.state import Clock, Directives
from xbd.guest.zone import Zone

_NO_PAGES: Final[Frames] = np.zeros(0, dtype=np.int64)


class BlockIo:
    """The block I/O of one guest; *front* and *back* are None where it has none."""

    def __init__(self, front: FrontEnd | None, back: DiskBackEnd | None, directives: Directives) -> None:
        self._front = front
        self._back = back
        self._directives = directives
        # Messages may have come before this guest booted, and no event says so.
        self._messages_waiting = front is not None or back is not None
        self._receiving = False

    @classmethod
    def of(
        cls,
        boot: BootInfo,
        block_back_end: BlockBackEnd | None,
        zone: Zone,
        slots: ForeignSlots,
        *,
        pages_s: float,
        seed: int,
        rng: np.random.Generator,
        directives: Directives,
        clock: Clock,
    ) -> "BlockIo":
        """Build what a guest needs: a front end where it does *pages_s* pages of I/O a second, a back end if asked for."""
        front = None
        if pages_s > 0 and boot.domid != BACK_END_DOMID:
            front = FrontEnd(zone, pages_s, seed=seed, rng=rng, directives=directives, clock=clock)
        return cls(front, None if block_back_end is None else DiskBackEnd(block_back_end, slots, clock), directives)

    def messages_waiting(self) -> None:
        """Note that there are messages in the inbox."""
        self._messages_waiting = True

    def start_due(self) -> list[Procedure]:
        """List the procedures that are to be started now, in a fixed order."""
        started: list[Procedure] = []
        if self._messages_waiting and not self._receiving:
            self._receiving = True
            started.append(self._receive())
        if self._front is not None and self._front.due():
            self._front.running = True
            started.append(self._front.run())
        if self._back is not None:
            started += self._back.start_due()
        return started

    def deadline(self) -> float | None:
        """Say when to look again though nothing happens."""
        times = [end.deadline() for end in (self._front, self._back) if end is not None]
        return min((time for time in times if time is not None), default=None)

    def _receive(self) -> Generator[Yielded, list[Result], None]:
        """Empty the inbox."""
        while self._messages_waiting and not self._directives.stopping:
            self._messages_waiting = False
            (result,) = yield [Receive()]
            if not isinstance(result, LoadResult):
                break
            for sender, words in split_messages(result.words):
                if self._front is not None and sender == BACK_END_DOMID:
                    self._front.received(words)
                elif self._back is not None:
                    self._back.received(sender, words)
            self._messages_waiting |= result.stop is Stop.BUDGET
        self._receiving = False

    # -- queries

    @property
    def mismatches(self) -> int:
        """Count the mismatches at both ends."""
        return sum(end.mismatches for end in (self._front, self._back) if end is not None)

    def counts(self) -> dict[str, int]:
        """Return the counts of both ends together."""
        ends = [end for end in (self._front, self._back) if end is not None]
        return {
            "io_requests": sum(end.requests for end in ends),
            "io_pages_written": sum(end.pages_written for end in ends),
            "io_pages_read": sum(end.pages_read for end in ends),
            "io_errors": sum(end.errors for end in ends),
            "io_mismatches": self.mismatches,
            "io_mapped_pages": 0 if self._back is None else self._back.mapped_pages,
            "io_deferred_pages": 0 if self._front is None else self._front.deferred_pages,
        }

    def held(self) -> tuple[Frames, Frames]:
        """List the front end's pages, (n,) gfns, and their grants, -1 for none; for when nothing is in flight."""
        return self._front.held() if self._front is not None else (_NO_PAGES, _NO_PAGES)

    def check(self) -> list[str]:
        """Say what does not add up; for when nothing is in flight."""
        return [line for end in (self._front, self._back) if end is not None for line in end.check()]
