"""Queues of ballooned pages, by size and purpose.

A queue holds extents (their bases) and says which come back first when the balloon deflates.
Another size or purpose is one more class and one more line in `QUEUES`.
"""

from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from xbd.abi import Frames
from xbd.errors import BadArgument
from xbd.frames import FrameAllocator, sparse_zeros
from xbd.guest.zone import PageState
from xbd.units import SUPER_ORDER, SUPER_PAGES

_NOTHING: Final[Frames] = np.zeros(0, dtype=np.int64)
_STACK_FIRST: Final = 1024


class BalloonQueue(Protocol):
    """One kind of ballooned extents. Extents are named by the gfn of their base, (n,) int64."""

    order: int
    state: PageState
    # Whether its pages may be migrated, and merged into the queue of the next order.
    migrates: bool

    @property
    def extents(self) -> int:
        """Count the extents in the queue."""

    def put(self, gfns: Frames) -> None:
        """Add extents, none of them in the queue."""

    def take(self, count: int) -> Frames:
        """Remove up to *count* extents, in the order in which they should be populated again."""

    def members(self) -> Frames:
        """List the extents in the queue, in no order."""

    def check(self) -> list[str]:
        """Say what is wrong inside; empty when all is well."""


class BlockQueue:
    """Whole 2 MiB blocks; the lowest comes back first, so that the balloon stays at the top."""

    order = SUPER_ORDER
    state = PageState.BALLOON_2M
    migrates = False

    def __init__(self, gfn_count: int) -> None:
        self._queued: NDArray[np.bool_] = np.zeros(-(-gfn_count // SUPER_PAGES), dtype=np.bool_)
        self._count = 0

    @property
    def extents(self) -> int:
        """Count the blocks in the queue."""
        return self._count

    def put(self, gfns: Frames) -> None:
        """Add blocks by their first gfns."""
        blocks = gfns >> SUPER_ORDER
        assert not np.count_nonzero(self._queued[blocks]), f"a block of {blocks} is on the 2 MiB queue already"
        self._queued[blocks] = True
        self._count += gfns.size

    def take(self, count: int) -> Frames:
        """Remove up to *count* blocks, lowest first; returns their first gfns."""
        if not self._count or count <= 0:
            return _NOTHING
        blocks = np.flatnonzero(self._queued)[:count]
        self._queued[blocks] = False
        self._count -= blocks.size
        return blocks << SUPER_ORDER

    def members(self) -> Frames:
        """List the first gfns of the blocks in the queue."""
        return np.flatnonzero(self._queued) << SUPER_ORDER

    def check(self) -> list[str]:
        """Recount."""
        queued = int(np.count_nonzero(self._queued))
        return [] if queued == self._count else [f"2 MiB queue: {self._count} blocks counted, {queued} are there"]


class PageQueue:
    """Single pages by block; those of the block nearest to being whole again come back first."""

    order = 0
    state = PageState.BALLOON_4K
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
        """Check the counters, and that no block is whole: such a block belongs on the 2 MiB queue."""
        wrong = [f"4 KiB queue: {line}" for line in self._pages.check()]
        if self._pages.free_superframes:
            wrong.append(f"4 KiB queue: {self._pages.free_superframes} blocks are whole")
        return wrong


class StackQueue:
    """Single pages, last ballooned, first returned: Linux's list."""

    order = 0
    state = PageState.BALLOON_4K
    migrates = False

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

    def members(self) -> Frames:
        """List the pages on the stack."""
        return self._stack[: self._depth].copy()

    def check(self) -> list[str]:
        """Say whether a page is on the stack twice."""
        return [] if np.unique(self.members()).size == self._depth else ["stack: a page is on it twice"]


QUEUES: Final[dict[str, type[BlockQueue | PageQueue | StackQueue]]] = {
    "2m": BlockQueue,
    "4k": PageQueue,
    "stack": StackQueue,
}


def check_queue_names(names: tuple[str, ...]) -> None:
    """Refuse (BadArgument) what is no choice of queues: unknown names, or not just one queue of single pages."""
    unknown = [name for name in names if name not in QUEUES]
    if unknown:
        raise BadArgument(f"unknown balloon queue {unknown[0]!r}", ", ".join(QUEUES))
    if len(set(names)) != len(names) or sum(QUEUES[name].order == 0 for name in names) != 1:
        raise BadArgument(f"balloon queues {', '.join(names)}", "each once, and just one of 4 KiB pages (4k or stack)")
