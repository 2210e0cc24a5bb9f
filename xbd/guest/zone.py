"""The guest kernel's zone: which gfn is in which state, and the page allocator over the free ones.

Theory of operation. A 2 MiB *page block* of 512 gfns is the unit that matters. Free pages are a
`FrameAllocator`; every other state has one uint16 per block. The byte per page says the state where
a block is mixed; a block that is one whole (on the 2 MiB queue, or isolated on its way there or
back) is noted in *unit* and its 512 bytes stay zero, so that whole blocks cost one entry. The allocator
reads there, too, which pages of a mixed block are free.

A block is movable or unmovable. It takes the type of the first allocation after it was wholly
free, and an allocation prefers its own type, then a wholly free block, then the other type. An
unmovable one takes the other type's blocks with the most free pages first.
Programs get the smallest free pieces first, wherever they lie (`allocate_smallest`, see `xbd.guest.pieces`).
Source: Linux mm/page_alloc.c, rmqueue_fallback and __setup_per_zone_wmarks; mm/khugepaged.c, set_recommended_min_free_kbytes.

It deliberately knows no hypervisor and no owner of a page: whether a free gfn is backed is the
balloon's business, and here every free gfn is.
"""

from enum import IntEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from xbd.abi import Frames
from xbd.frames import (
    WHOLE,
    FrameAllocator,
    Groups,
    Source,
    expand_supers,
    group_by_count,
    group_by_super,
    sparse_zeros,
)
from xbd.guest.pieces import FreePieces
from xbd.guest.watermarks import watermarks_of
from xbd.replaceable import replaceable
from xbd.units import SUPER_ORDER, SUPER_PAGES


class PageState(IntEnum):
    """What a gfn is to the guest's kernel; exactly one of these at any time."""

    FREE = 0
    MOVABLE = 1
    UNMOVABLE = 2
    BALLOON_4K = 3
    BALLOON_2M = 4
    SLOT = 5
    ISOLATED = 6


class Mobility(IntEnum):
    """The type of a page block, and of an allocation; also the allocator's shelf."""

    MOVABLE = 0
    UNMOVABLE = 1


# The states as numpy stores them: an IntEnum among arrays is looked up attribute by attribute at every use.
_BYTES: Final[NDArray[np.uint8]] = np.arange(len(PageState), dtype=np.uint8)
_NO_PAGE: Final = 255
_MOVABLE_FREE, _UNMOVABLE_FREE = Source(0), Source(1)
# Where an allocation looks, by its mobility. Filling the fullest blocks first keeps whole ones whole.
SOURCES: Final = {
    Mobility.MOVABLE: (_MOVABLE_FREE, WHOLE, Source(1, fewest_free_first=False)),
    Mobility.UNMOVABLE: (_UNMOVABLE_FREE, WHOLE, Source(0, fewest_free_first=False)),
}
# What compaction fills: blocks that can never be emptied first, whole free ones last.
FILL_SOURCES: Final = (_UNMOVABLE_FREE, _MOVABLE_FREE, WHOLE)


class Zone:
    """All gfns of a guest, in blocks of 512; indexes are (n,) int64 throughout.

    At first no gfn has a state: `adopt_free`, `adopt` and `adopt_blocks` give each one its first (see
    `xbd.guest.boot`), and the zone can be used when all have one.

    Attributes: *state* (gfns,) uint8 `PageState`, meaningful where *unit* is 0; *unit* (blocks,)
    uint8, the state of a block that is one whole; *counts* (states, blocks) uint16, the row of FREE
    stays 0 because the allocator counts those.
    """

    def __init__(self, gfn_count: int, *, huge_pages: bool = True) -> None:
        self.gfn_count = gfn_count
        self.block_count = -(-gfn_count // SUPER_PAGES)
        self.watermarks = watermarks_of(gfn_count, huge_pages=huge_pages)
        self.mobility: NDArray[np.uint8] = np.zeros(self.block_count, dtype=np.uint8)
        self.state: NDArray[np.uint8] = sparse_zeros(self.block_count * SUPER_PAGES, np.uint8)
        # What is behind the last page is never free.
        self.state[gfn_count:] = _NO_PAGE
        self.free = FrameAllocator(gfn_count, free=False, shelf_of=self._shelf_of, states=self.state)
        self.rows = self.state.reshape(-1, SUPER_PAGES)
        self.unit: NDArray[np.uint8] = np.zeros(self.block_count, dtype=np.uint8)
        self.counts: NDArray[np.uint16] = sparse_zeros(len(PageState) * self.block_count, np.uint16).reshape(
            len(PageState), -1
        )
        self._totals = [0] * len(PageState)
        self.pieces = FreePieces(self.rows)

    def _shelf_of(self, blocks: Frames) -> Frames:
        return self.mobility[blocks].astype(np.int64)

    def _grouped(self, gfns: Frames) -> Groups[Any]:
        """See a batch of pages as groups of one block each."""
        return group_by_count(gfns) if self.block_count <= gfns.size else group_by_super(gfns)

    # -- queries

    def total(self, state: PageState) -> int:
        """Count the pages in one state."""
        return self.free.free_frames if state is PageState.FREE else self._totals[state]

    def spare_pages(self, reserve_pages: int) -> int:
        """Count the free pages above a watermark."""
        return max(self.free.free_frames - reserve_pages, 0)

    @property
    def broken_share(self) -> float:
        """Tell the share of the free memory that lies in broken blocks; 0 where nothing is free."""
        free = self.free
        return 1 - free.free_superframes * SUPER_PAGES / free.free_frames if free.free_frames else 0.0

    def pages_in(self, block: int, state: PageState) -> Frames:
        """List the pages of one mixed block that are in *state*, ascending."""
        if state is PageState.FREE:
            return self.free.free_in(block)
        return np.flatnonzero(self.rows[block] == _BYTES[state]) + block * SUPER_PAGES

    def pages_in_blocks(self, blocks: Frames, state: PageState) -> Frames:
        """List the pages of some mixed blocks that are in *state*, block by block as given."""
        if blocks.size == 1:
            return self.pages_in(int(blocks[0]), state)
        flat = np.flatnonzero(self.rows[blocks] == _BYTES[state])
        return blocks[flat // SUPER_PAGES] * SUPER_PAGES + flat % SUPER_PAGES

    # -- single pages

    def allocate(
        self,
        count: int,
        mobility: Mobility,
        to: PageState,
        *,
        sources: tuple[Source, ...] | None = None,
        below: int | None = None,
    ) -> Frames:
        """Take up to *count* free pages into state *to*, from blocks below *below*; never waits.

        The caller minds the watermarks. Returns (<= count,) gfns in the order chosen.
        """
        gfns = self.free.take(count, SOURCES[mobility] if sources is None else sources, below)
        if gfns.size == 0:
            return gfns
        blocks, counts = self._grouped(gfns)
        # A block from which a part was taken while it was whole takes the type of its first allocation.
        fresh = blocks[self.free.free_count[blocks] + counts == SUPER_PAGES]
        if fresh.size:
            self.mobility[fresh] = mobility
        self.state[gfns] = _BYTES[to]
        self._add(to, blocks, counts)
        self.pieces.note(blocks)
        return gfns

    @replaceable
    def allocate_smallest(
        self, count: int, mobility: Mobility, to: PageState, rng: np.random.Generator | None = None
    ) -> Frames:
        """Take up to *count* pages into state *to* as a buddy allocator gives them: from the smallest free pieces first.

        *rng* chooses among equal pieces; None: the highest come first, as where a program gave memory back in the order
        of its addresses, for what was freed last lies on top of the list of its order.

        The caller minds the watermarks. Returns (<= count,) gfns in the order chosen.
        """
        is_mixed = self._mixed()
        self.pieces.count(is_mixed)
        blocks = np.flatnonzero(is_mixed & (self.mobility == mobility))
        gfns = self.pieces.find(count, blocks, rng)
        self._take_exactly(gfns, to)
        if gfns.size == count:
            return gfns
        own, whole, other = SOURCES[mobility]
        others = self.allocate(count - gfns.size, mobility, to, sources=(whole, own, other))
        return np.concatenate((gfns, others))

    def allocate_for_good(self, count: int) -> int:
        """Take up to *count* pages for the kernel, which frees none of them: whole blocks, and then single pages; returns how many."""
        blocks = self.free.take_superframes(count // SUPER_PAGES)
        self.mobility[blocks] = Mobility.UNMOVABLE
        self.adopt_blocks(blocks, PageState.UNMOVABLE)
        left = count - blocks.size * SUPER_PAGES
        return count - left + self.allocate(left, Mobility.UNMOVABLE, PageState.UNMOVABLE).size

    def unmovable(self) -> Frames:
        """List the unmovable pages, those of whole blocks included."""
        blocks = np.flatnonzero(self.unit == _BYTES[PageState.UNMOVABLE])
        return np.concatenate((np.flatnonzero(self.state == _BYTES[PageState.UNMOVABLE]), expand_supers(blocks)))

    def free_by_order(self) -> Frames:
        """Count the free pages by the order of the piece that they lie in: (10,) int64, whole blocks last."""
        self.pieces.count(self._mixed())
        whole = np.array([self.free.free_superframes * SUPER_PAGES])
        return np.concatenate((self.pieces.pages.sum(axis=0, dtype=np.int64), whole))

    def _mixed(self) -> NDArray[np.bool_]:
        """Say for each block whether it has free pages and used ones: (blocks,) bool."""
        is_mixed = (self.free.free_count > 0) & (self.free.free_count < SUPER_PAGES)
        # Of a last block that is not whole, some pages do not exist.
        is_mixed[self.gfn_count // SUPER_PAGES :] = False
        return is_mixed

    def isolate_free(self, gfns: Frames) -> None:
        """Isolate just these free pages."""
        self._take_exactly(gfns, PageState.ISOLATED)

    def _take_exactly(self, gfns: Frames, to: PageState) -> None:
        """Take just these free pages into state *to*."""
        if gfns.size:
            groups = self._grouped(gfns)
            self.free.take_exactly(gfns, groups)
            self.pieces.note(groups[0])
            self.state[gfns] = _BYTES[to]
            self._add(to, *groups)

    def change(self, gfns: Frames, old: PageState, new: PageState) -> None:
        """Move pages from one state to another; *old* is asserted, either may be anything but whole-block states."""
        if gfns.size == 0:
            return
        wrong = np.count_nonzero(self.state[gfns] != _BYTES[old])
        assert wrong == 0, f"{wrong} of {gfns.size} pages are not {old.name}"
        blocks, counts = self._grouped(gfns)
        self.counts[old][blocks] -= counts.astype(np.uint16)
        self._totals[old] -= gfns.size
        self.state[gfns] = _BYTES[new]
        if new is PageState.FREE:
            self.free.give(gfns, (blocks, counts))
            self.pieces.note(blocks)
        else:
            self._add(new, blocks, counts)

    def release(self, gfns: Frames, old: PageState) -> None:
        """Free pages that are in state *old*."""
        self.change(gfns, old, PageState.FREE)

    def adopt(self, gfns: Frames, to: PageState) -> None:
        """Give pages that are in no state (booting, or just taken from the allocator) their state."""
        if gfns.size:
            self.state[gfns] = _BYTES[to]
            self._add(to, *self._grouped(gfns))

    def adopt_free(self, blocks: Frames, gfns: Frames) -> None:
        """Free whole blocks and single pages that are in no state yet."""
        self.free.give_superframes(blocks)
        self.free.give(gfns)
        self.pieces.note(gfns >> SUPER_ORDER)

    def _add(self, to: PageState, blocks: Frames, counts: Frames) -> None:
        self.counts[to][blocks] += counts.astype(np.uint16)
        self._totals[to] += int(np.add.reduce(counts))

    # -- whole blocks

    def allocate_blocks(self, count: int) -> Frames:
        """Isolate up to *count* wholly free blocks, the highest first; returns block indexes."""
        blocks = self.free.take_superframes(count, highest=True)
        self.adopt_blocks(blocks, PageState.ISOLATED)
        return blocks

    def adopt_blocks(self, blocks: Frames, to: PageState) -> None:
        """Give whole blocks that are in no state theirs, as units."""
        self.unit[blocks] = _BYTES[to]
        self.counts[to][blocks] = SUPER_PAGES
        self._totals[to] += blocks.size * SUPER_PAGES

    def change_blocks(self, blocks: Frames, old: PageState, new: PageState) -> None:
        """Move blocks that are units to another state as a whole; FREE ends the unit."""
        if blocks.size == 0:
            return
        wrong = np.count_nonzero(self.unit[blocks] != _BYTES[old])
        assert wrong == 0, f"{wrong} of blocks {blocks} are no {old.name} unit"
        self.counts[old][blocks] = 0
        self._totals[old] -= blocks.size * SUPER_PAGES
        if new is PageState.FREE:
            self.unit[blocks] = 0
            self.free.give_superframes(blocks)
        else:
            self.adopt_blocks(blocks, new)

    def split_blocks(self, blocks: Frames, old: PageState, new: PageState) -> None:
        """Make units into 512 pages each, all in state *new*."""
        self.change_blocks(blocks, old, new)
        self.unit[blocks] = 0
        self.rows[blocks] = _BYTES[new]

    def merge_blocks(self, blocks: Frames, old: PageState, new: PageState) -> None:
        """Make blocks whose 512 pages are all in state *old* units in state *new*."""
        wrong = np.count_nonzero(self.counts[old][blocks] != SUPER_PAGES)
        assert wrong == 0, f"{wrong} of blocks {blocks} are not wholly {old.name}"
        self.rows[blocks] = 0
        self.unit[blocks] = _BYTES[old]
        self.change_blocks(blocks, old, new)

    # -- bookkeeping

    def check(self) -> list[str]:
        """Recompute every counter from the detail and say what disagrees; empty when all is well."""
        wrong = [f"zone: {line}" for line in self.free.check()] + self.pieces.check(self._mixed(), self.free.free_count)
        free_pages = self.free.free_count.astype(np.int64)
        sizes = np.full(self.block_count, SUPER_PAGES)
        if self.gfn_count % SUPER_PAGES:
            sizes[-1] = self.gfn_count % SUPER_PAGES
        lost = np.flatnonzero(self.counts.sum(axis=0, dtype=np.int64) + free_pages != sizes)
        wrong += [f"zone: block {b:#x} does not add up to {sizes[b]} pages" for b in lost.tolist()]
        for state in PageState:
            total = int(self.counts[state].sum(dtype=np.int64))
            if state is not PageState.FREE and total != self._totals[state]:
                wrong.append(f"zone: {self._totals[state]} {state.name} pages counted, {total} are")
        for block in range(self.block_count):
            wrong += self._check_block(block, int(sizes[block]))
        return wrong

    def _check_block(self, block: int, size: int) -> list[str]:
        unit, row = int(self.unit[block]), self.rows[block]
        if unit or self.free.free_count[block] == size:
            whole = not unit or int(self.counts[unit, block]) == SUPER_PAGES
            return (
                []
                if whole and not row[:size].any()
                else [f"zone: block {block:#x} is one whole, its pages say otherwise"]
            )
        seen = np.bincount(row[:size], minlength=len(PageState))
        seen[PageState.FREE] = 0
        if (seen != self.counts[:, block]).any():
            return [f"zone: block {block:#x} counts {self.counts[:, block].tolist()}, its pages say {seen.tolist()}"]
        return []
