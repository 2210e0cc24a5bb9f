"""The slots that a back end maps pages at, between one batch and the next.

A few stay here so that a busy back end need not ask the balloon for every batch; when they were unused
for a while they go back to it, and the memory that was ballooned out for them returns to the guest.
Source: Linux drivers/block/xen-blkback, its free page pool (max_buffer_pages) and shrink_free_pagepool.
"""

from collections.abc import Generator
from typing import Final

import numpy as np

from xbd.abi import Frames, Result
from xbd.guest.balloon.foreign import ForeignSlots
from xbd.guest.procedures import Request as Yielded
from xbd.guest.state import Clock

# Linux: max_buffer_pages of xen-blkback.
CACHED_MOST: Final = 1024
IDLE_S: Final = 10.0
_NO_SLOTS: Final[Frames] = np.zeros(0, dtype=np.int64)


class SlotCache:
    """The cache of one back end; all slots in it are unmapped."""

    def __init__(self, foreign: ForeignSlots, clock: Clock) -> None:
        self._foreign = foreign
        self._clock = clock
        self._cached: Frames = _NO_SLOTS
        self._used_at = 0.0

    @property
    def limit_pages(self) -> int:
        """Say how many slots there can be at most."""
        return self._foreign.limit_pages

    @property
    def out(self) -> int:
        """Say how many slots the balloon has handed out."""
        return self._foreign.handed_out

    @property
    def cached(self) -> int:
        """Count the slots that wait here."""
        return int(self._cached.size)

    def take(self, count: int) -> Generator[Yielded, list[Result], Frames]:
        """Take *count* slots, of the balloon where there are not enough here: (count,) gfns, or none at all."""
        here = self._cached[:count]
        self._cached = self._cached[here.size :]
        self._used_at = self._clock.now
        if here.size == count:
            return here
        more = yield from self._foreign.request(count - here.size)
        if not more.size:
            self.give(here)
            return _NO_SLOTS
        return np.concatenate((here, more))

    def give(self, gfns: Frames) -> None:
        """Take back slots that nothing is mapped at any more."""
        slots = np.concatenate((gfns, self._cached))
        self._cached = slots[:CACHED_MOST]
        self._foreign.release(slots[CACHED_MOST:])

    def deadline(self) -> float | None:
        """Say when `shrink` has something to do; None: there is nothing here."""
        return self._used_at + IDLE_S if self._cached.size else None

    def shrink(self) -> None:
        """Give the slots back to the balloon if none was taken for a while."""
        if self._cached.size and self._clock.now >= self._used_at + IDLE_S:
            slots, self._cached = self._cached, _NO_SLOTS
            self._foreign.release(slots)
