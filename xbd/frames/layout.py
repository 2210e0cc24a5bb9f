"""Arrays and index arithmetic of the two levels: superframes of 512 frames.

Three things that every user of the two levels needs: arrays that take no memory until they are touched,
a batch of frames grouped by superframe, and superframes expanded to their single frames.
"""

import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xbd.arrays import KindT
from xbd.units import SUPER_ORDER, SUPER_PAGES

Indexes = NDArray[np.int64]
# Superframes, each once, and how many frames of a batch lie in each.
Groups = tuple[NDArray[KindT], Indexes]

_OFFSETS = np.arange(SUPER_PAGES, dtype=np.int64)
# A batch with fewer runs than a quarter of its frames is grouped without sorting: most come in ascending runs.
_RUNS_SHIFT = 2
# Up to here counting into an array of the span is quicker than sorting the batch.
_SPAN_PER_FRAME = 8
# Promise only what is touched: a 16 TiB host's arrays are larger than the memory of the machine that plays it.
_MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)


def sparse_zeros(count: int, dtype: Any) -> NDArray[Any]:  # noqa: ANN401 - as numpy's own
    """Return (count,) zeros of *dtype* whose memory exists only where it was touched, by 4 KiB.

    np.zeros will not do: numpy advises huge pages for large arrays, so that one touched entry
    costs 2 MiB, and a thousand guests touch a few entries each. Less than a page is not worth a mapping of its own.
    """
    item = np.dtype(dtype)
    if count * item.itemsize < mmap.PAGESIZE:
        return np.zeros(count, dtype=item)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    return np.frombuffer(mmap.mmap(-1, count * item.itemsize, flags=flags), dtype=item)


def expand_supers(supers: Indexes) -> NDArray[Any]:
    """Spell out superframes as frames, or blocks as gfns: (n,) int64 indexes to (512 n,) int64, in the same order."""
    if supers.size == 1:
        return (supers << SUPER_ORDER) + _OFFSETS
    return ((supers << SUPER_ORDER)[:, None] + _OFFSETS).reshape(-1)


def group_by_super(frames: Indexes, within: int | None = None, of: int | None = None) -> Groups[Any]:
    """See a batch of frames as groups of one superframe each, or of gfns as groups of one block each.

    Args:
        frames: (n,) int64, n > 0, any order.
        within: how many superframes they lie in at most, where that is known: one needs no look at them.
        of: how many superframes there are, where that is known: few need no look for the span of the batch.

    Returns:
        (k,) int64 superframes, each once, in no order; (k,) int64 how many frames of the batch lie in each.
    """
    if within == 1:
        return frames[:1] >> SUPER_ORDER, np.array([frames.size], dtype=np.int64)
    supers = frames >> SUPER_ORDER
    is_end = supers[1:] != supers[:-1]
    end_count = np.count_nonzero(is_end)
    if end_count == 0:
        return supers[:1], np.array([frames.size], dtype=np.int64)
    if end_count == 1:
        # Two runs, of the first and of the last: most batches of a guest that gives up all that it has.
        end = int(is_end.argmax()) + 1
        return supers[:: frames.size - 1], np.array([end, frames.size - end], dtype=np.int64)
    if end_count < frames.size >> _RUNS_SHIFT:
        marks = np.empty(end_count + 2, dtype=np.int64)
        marks[0], marks[-1] = -1, frames.size - 1
        marks[1:-1] = is_end.nonzero()[0]
        groups = supers[marks[1:]]
        if np.count_nonzero(groups[1:] < groups[:-1]) == 0 or len(set(groups.tolist())) == groups.size:
            return groups, marks[1:] - marks[:-1]
    lowest = 0
    if of is None or of > _SPAN_PER_FRAME * frames.size:
        lowest = int(np.minimum.reduce(supers))
        if int(np.maximum.reduce(supers)) - lowest >= _SPAN_PER_FRAME * frames.size:
            return np.unique(supers, return_counts=True)
    groups, counts = _count(supers - lowest if lowest else supers)
    return (groups + lowest if lowest else groups), counts


def _count(supers: Indexes) -> Groups[Any]:
    counts = np.bincount(supers)
    # To find what is not zero among booleans is several times as quick as among numbers.
    groups = (counts != 0).nonzero()[0]
    return groups, counts[groups]


def group_by_count(frames: Indexes) -> Groups[Any]:
    """Do as `group_by_super` where all the superframes there are are few: each is counted, without a look at the batch's order."""
    return _count(frames >> SUPER_ORDER)
