"""Queues of the balloon's pages, by size and purpose.

A queue holds extents (their bases) and says what they are for: memory that is *withheld*, which
deflation returns in the queue's own order, or *slots*, gfns that are handed out so that something
else is mapped there. Another size or purpose is one more class and one more line in `QUEUES`: the
balloon finds its queues by what they say of themselves.
"""

from abc import ABC, abstractmethod
from enum import StrEnum
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from xbd.abi import Frames
from xbd.arrays import repeats
from xbd.frames import FrameAllocator, sparse_zeros
from xbd.guest.zone import PageState
from xbd.units import SUPER_ORDER

_NOTHING: Final[Frames] = np.zeros(0, dtype=np.int64)
_STACK_FIRST: Final = 1024


class Purpose(StrEnum):
    """What a queue's extents are for."""

    # Memory that the guest does without; deflation gets it back.
    WITHHELD = "withheld"
    # Handed out, to map something else there; only the holder gives them back.
    SLOTS = "slots"


class BalloonQueue(ABC):
    """One kind of the balloon's extents. Extents are named by the gfn of their base, (n,) int64.

    Args:
        gfn_count: gfns of the guest.

    Attributes: *purpose*, *order*, *state*: what its extents are. *migrates*: its pages may be migrated, and are
    merged into the queue of 2 MiB pages.
    """

    purpose: ClassVar[Purpose] = Purpose.WITHHELD
    order: ClassVar[int] = 0
    state: ClassVar[PageState] = PageState.BALLOON_4K
    migrates: ClassVar[bool] = False

    @abstractmethod
    def __init__(self, gfn_count: int) -> None: ...

    @property
    @abstractmethod
    def extents(self) -> int:
        """Count the extents in the queue."""

    @abstractmethod
    def put(self, gfns: Frames) -> None:
        """Add extents, none of them in the queue."""

    @abstractmethod
    def take(self, count: int) -> Frames:
        """Remove up to *count* extents, in the order in which they should come back."""

    @abstractmethod
    def remove(self, gfns: Frames) -> None:
        """Remove just these extents, all of them in the queue."""

    @abstractmethod
    def members(self) -> Frames:
        """List the extents in the queue, in no order."""

    @abstractmethod
    def check(self) -> list[str]:
        """Say what is wrong inside; empty when all is well."""


class MarkedQueue(BalloonQueue):
    """A mark per extent; the lowest comes back first."""

    def __init__(self, gfn_count: int) -> None:
        self._marked: NDArray[np.bool_] = sparse_zeros(-(-gfn_count >> self.order), np.bool_)
        self._count = 0

    @property
    def extents(self) -> int:
        """Count the extents in the queue."""
        return self._count

    def put(self, gfns: Frames) -> None:
        """Add extents."""
        indexes = gfns >> self.order
        marked = np.count_nonzero(self._marked[indexes])
        assert not marked, f"{marked} of extents {gfns} are in the queue of {self.state.name} already"
        self._marked[indexes] = True
        self._count += gfns.size

    def take(self, count: int) -> Frames:
        """Remove up to *count* extents, the lowest first."""
        if not self._count or count <= 0:
            return _NOTHING
        indexes = np.flatnonzero(self._marked)[:count]
        self._marked[indexes] = False
        self._count -= indexes.size
        return indexes << self.order

    def remove(self, gfns: Frames) -> None:
        """Remove just these extents."""
        indexes = gfns >> self.order
        marked = np.count_nonzero(self._marked[indexes])
        assert marked == gfns.size, f"{gfns.size - marked} of extents {gfns} are not in the queue of {self.state.name}"
        self._marked[indexes] = False
        self._count -= gfns.size

    def members(self) -> Frames:
        """List the extents in the queue."""
        return np.flatnonzero(self._marked) << self.order

    def check(self) -> list[str]:
        """Recount."""
        marked = int(np.count_nonzero(self._marked))
        if marked == self._count:
            return []
        return [f"queue of {self.state.name}: {self._count} extents counted, {marked} are there"]


class BlockQueue(MarkedQueue):
    """Whole 2 MiB blocks; the lowest comes back first, so that the balloon stays at the top."""

    order = SUPER_ORDER
    state = PageState.BALLOON_2M


class ForeignQueue(MarkedQueue):
    """Slots where other domains' frames are mapped, while they are out."""

    purpose = Purpose.SLOTS
    state = PageState.SLOT


class PageQueue(BalloonQueue):
    """Single pages by block; those of the block that is nearest to having no ballooned page come back first."""

    migrates = True

    def __init__(self, gfn_count: int) -> None:
        self._pages = FrameAllocator(gfn_count, free=False)

    @property
    def extents(self) -> int:
        """Count the pages in the queue."""
        return self._pages.free_frames

    def put(self, gfns: Frames) -> None:
        """Add pages."""
        self._pages.give(gfns)

    def take(self, count: int) -> Frames:
        """Remove up to *count* pages, those of the blocks that miss the fewest first."""
        return self._pages.take(count) if count > 0 else _NOTHING

    def remove(self, gfns: Frames) -> None:
        """Remove just these pages."""
        self._pages.take_exactly(gfns)

    def members(self) -> Frames:
        """List the pages in the queue."""
        blocks = np.flatnonzero(self._pages.free_count)
        return np.concatenate([_NOTHING, *(self._pages.free_in(block) for block in blocks.tolist())])

    def check(self) -> list[str]:
        """Check the counters."""
        return [f"4 KiB queue: {line}" for line in self._pages.check()]


class StackQueue(BalloonQueue):
    """Single pages, last ballooned, first returned: Linux's list."""

    def __init__(self, gfn_count: int) -> None:
        # Sparse: as much as the guest has pages, touched only as deep as the stack was.
        self._stack: Frames = sparse_zeros(max(gfn_count, _STACK_FIRST), np.int64)
        self._depth = 0

    @property
    def extents(self) -> int:
        """Count the pages on the stack."""
        return self._depth

    def put(self, gfns: Frames) -> None:
        """Push pages, the last one on top."""
        self._stack[self._depth : self._depth + gfns.size] = gfns
        self._depth += gfns.size

    def take(self, count: int) -> Frames:
        """Pop up to *count* pages, the top first."""
        taken = min(max(count, 0), self._depth)
        self._depth -= taken
        return self._stack[self._depth : self._depth + taken][::-1].copy()

    def remove(self, gfns: Frames) -> None:
        """Remove just these pages, wherever they lie."""
        kept = self.members()
        kept = kept[~np.isin(kept, gfns)]
        assert kept.size == self._depth - gfns.size, f"not all of pages {gfns} are on the stack"
        self._depth = kept.size
        self._stack[: self._depth] = kept

    def members(self) -> Frames:
        """List the pages on the stack."""
        return self._stack[: self._depth].copy()

    def check(self) -> list[str]:
        """Say whether a page is on the stack twice."""
        return ["stack: a page is on it twice"] if repeats(self.members()).size else []


class MovableStackQueue(StackQueue):
    """Such a list of pages that migrate: one that has moved is on top."""

    migrates = True


QUEUES: Final[dict[str, type[BalloonQueue]]] = {
    "2m": BlockQueue,
    "4k": PageQueue,
    "stack": StackQueue,
    "movable-stack": MovableStackQueue,
    "foreign": ForeignQueue,
}


def can_serve(names: tuple[str, ...]) -> bool:
    """Tell whether a balloon can be made of these queues.

    They are known, each is there once, and of those that withhold memory just one is of 4 KiB pages and at most one of
    any other size. Of slots there may be any number of queues, or none.
    """
    if len(set(names)) != len(names) or not set(names) <= set(QUEUES):
        return False
    orders = [QUEUES[name].order for name in names if QUEUES[name].purpose is Purpose.WITHHELD]
    return len(set(orders)) == len(orders) and 0 in orders
