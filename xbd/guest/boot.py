"""The first state of each page, from the map that a booting guest gets.

Populated pages are free, the others are the balloon. Only arithmetic on runs; a fragmented guest
may have many runs, so nothing here loops over them.
"""

from dataclasses import dataclass

import numpy as np

from xbd.abi import Frames
from xbd.units import SUPER_ORDER, SUPER_PAGES

_EMPTY: Frames = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class BootMap:
    """A guest's gfns by what they are at boot: whole blocks (block indexes) and single pages (gfns)."""

    populated_blocks: Frames
    populated_pages: Frames
    balloon_blocks: Frames
    balloon_pages: Frames

    @property
    def populated(self) -> int:
        """Count the populated pages."""
        return self.populated_blocks.size * SUPER_PAGES + self.populated_pages.size


def lay_out(runs: Frames, gfn_count: int) -> BootMap:
    """Split populated *runs*, (n, 2) half-open and ascending, and what is between them into blocks and pages."""
    populated = np.asarray(runs, dtype=np.int64).reshape(-1, 2)
    assert populated.size == 0 or int(populated.max()) <= gfn_count, "a populated run ends beyond the last gfn"
    edges = np.concatenate(([0], populated.reshape(-1), [gfn_count])).astype(np.int64)
    gaps = edges.reshape(-1, 2)
    return BootMap(*_split(populated), *_split(gaps[gaps[:, 0] < gaps[:, 1]]))


def _split(runs: Frames) -> tuple[Frames, Frames]:
    """Split disjoint runs into the whole blocks and the single pages that they cover."""
    first, end = runs[:, 0], runs[:, 1]
    first_whole = -(-first >> SUPER_ORDER)
    end_whole = np.maximum(end >> SUPER_ORDER, first_whole)
    whole = _expand(first_whole, end_whole)
    head_end = np.minimum(end, first_whole << SUPER_ORDER)
    tail_first = np.maximum(end_whole << SUPER_ORDER, head_end)
    pages = np.concatenate((_expand(first, head_end), _expand(np.minimum(tail_first, end), end)))
    pages.sort()
    return whole, pages


def _expand(first: Frames, end: Frames) -> Frames:
    """List the members of half-open ranges, one range after the other."""
    lengths = end - first
    total = int(lengths.sum())
    if total == 0:
        return _EMPTY
    starts = np.cumsum(lengths) - lengths
    spelt_out: Frames = np.arange(total, dtype=np.int64) + np.repeat(first - starts, lengths)
    return spelt_out
