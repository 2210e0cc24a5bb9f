"""The free memory of a zone as its buddy allocator sees it: aligned pieces of 1, 2, 4, ... 256 pages.

Theory of operation. A buddy allocator serves a page from the smallest free piece that there is, and knows nothing of the
2 MiB block around it: scattered holes are filled before a larger piece, or a whole block, is broken. Of every block that is
neither wholly free nor used up a row says how many of its free pages lie in pieces of each order, a piece being the
largest aligned run of free pages around them. Rows are counted anew when they are asked for, and only where something
changed, so a tick pays for the blocks that it touched.

Source: Linux mm/page_alloc.c, __rmqueue_smallest and __free_one_page.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from xbd.abi import Frames
from xbd.units import SUPER_ORDER, SUPER_PAGES

_NO_PAGES: Final[Frames] = np.zeros(0, dtype=np.int64)
# The pages of a piece of each order, below that of a whole block.
_PIECE_PAGES: Final = np.int64(1) << np.arange(SUPER_ORDER, dtype=np.int64)
# Two free halves, as numpy sees two bools at once.
_BOTH: Final = np.uint16(0x0101)


def _pieces_of(free: NDArray[np.bool_], orders: int = SUPER_ORDER) -> list[NDArray[np.bool_]]:
    """Find the free aligned pieces of (n, 512) pages, for so many *orders*: for order k (n, 512 >> k) bool."""
    levels = [free]
    for _ in range(1, orders):
        levels.append(levels[-1].view(np.uint16) == _BOTH)
    return levels


def _count_rows(level: NDArray[np.bool_]) -> Frames:
    """Count what is true in each row; numpy adds up eight bools at once where there are as many."""
    if level.shape[1] >= np.dtype(np.uint64).itemsize:
        level = np.add.reduce(level.view(np.uint64), axis=1).view(np.bool_).reshape(level.shape[0], -1)
    counts: Frames = np.add.reduce(level.view(np.uint8), axis=1, dtype=np.int64)
    return counts


class FreePieces:
    """The free pages of mixed blocks, by the order of the piece that they lie in.

    Args:
        states: (blocks, 512) uint8, 0 for a free page; meaningful in mixed blocks only.

    Attributes: *pages* (blocks, 9) uint16, to be read after `count`.
    """

    def __init__(self, states: NDArray[np.uint8]) -> None:
        self._states = states
        self.pages: NDArray[np.uint16] = np.zeros((states.shape[0], SUPER_ORDER), dtype=np.uint16)
        self._changed: NDArray[np.bool_] = np.zeros(states.shape[0], dtype=np.bool_)

    def note(self, blocks: Frames) -> None:
        """Note that free pages of these blocks came or went."""
        self._changed[blocks] = True

    def count(self, is_mixed: NDArray[np.bool_]) -> None:
        """Count anew what changed; (blocks,) bool says which blocks have free pages and are not wholly free."""
        changed = np.flatnonzero(self._changed)
        self._changed[changed] = False
        self.pages[changed] = 0
        blocks = changed[is_mixed[changed]]
        if not blocks.size:
            return
        counts = np.zeros((SUPER_ORDER + 1, blocks.size), dtype=np.int64)
        for order, level in enumerate(_pieces_of(self._states[blocks] == 0)):
            counts[order] = _count_rows(level)
        self.pages[blocks] = ((counts[:-1] - 2 * counts[1:]) * _PIECE_PAGES[:, None]).T

    def find(self, count: int, blocks: Frames, rng: np.random.Generator) -> Frames:
        """Choose up to *count* free pages of these mixed blocks, those of the smallest pieces first.

        Of the pieces of the largest order that is needed some are taken, of blocks drawn by *rng*. Returns (<= count,) gfns.
        """
        pages = self.pages[blocks]
        reached = np.cumsum(pages.sum(axis=0, dtype=np.int64))
        order = int(np.searchsorted(reached, count))
        if order == SUPER_ORDER:
            return self._pages_below(order, blocks)
        smaller = blocks[pages[:, :order].any(axis=1)] if order else blocks[:0]
        parts = [self._pages_below(order, smaller)] if smaller.size else []
        left = count - (int(reached[order - 1]) if order else 0)
        having = np.flatnonzero(pages[:, order])
        drawn = having[rng.permutation(having.size)]
        used = int(np.searchsorted(np.cumsum(pages[drawn, order], dtype=np.int64), left)) + 1
        parts.append(self._pages_of(order, blocks[drawn[:used]])[:left])
        return np.concatenate(parts)

    def _pages_below(self, order: int, blocks: Frames) -> Frames:
        """List the free pages of these blocks that lie in pieces smaller than *order*."""
        free = self._states[blocks] == 0
        if order < SUPER_ORDER:
            free &= ~np.repeat(_pieces_of(free, order + 1)[order], 1 << order, axis=1)
        return _gfns(free, blocks)

    def _pages_of(self, order: int, blocks: Frames) -> Frames:
        """List the free pages of these blocks that lie in pieces of just this *order*, block by block as given."""
        larger = min(order + 1, SUPER_ORDER - 1)
        levels = _pieces_of(self._states[blocks] == 0, larger + 1)
        pieces = levels[order]
        if larger > order:
            pieces = pieces & ~np.repeat(levels[larger], 2, axis=1)
        return _gfns(np.repeat(pieces, 1 << order, axis=1), blocks)

    def check(self, is_mixed: NDArray[np.bool_], free_count: NDArray[np.uint16]) -> list[str]:
        """Say where the rows and the blocks' free counts disagree."""
        self.count(is_mixed)
        wrong = np.flatnonzero(self.pages.sum(axis=1) != np.where(is_mixed, free_count, 0))
        return [
            f"zone: the pieces of block {block:#x} hold {self.pages[block].sum()} pages" for block in wrong.tolist()
        ]


def _gfns(mask: NDArray[np.bool_], blocks: Frames) -> Frames:
    """Name the pages of a (n, 512) *mask* over these blocks."""
    flat = np.flatnonzero(mask)
    return (blocks << SUPER_ORDER)[flat >> SUPER_ORDER] + (flat & (SUPER_PAGES - 1)) if flat.size else _NO_PAGES
