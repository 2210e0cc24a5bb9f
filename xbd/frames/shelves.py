"""An index of shattered superframes by how many free frames they have.

A shelf holds a bucket per number of free frames (1 to 511) that some superframe has, and a bit mask says which buckets
there are, so "the one with the fewest free" costs one bit trick. Buckets are dicts used as
ordered sets: the oldest entry is found first. All of it is a cache of two arrays (the free counts
and the shelf that the owner chose for each superframe) and can be rebuilt from them.
"""

from itertools import islice

import numpy as np
from numpy.typing import NDArray

from xbd.frames.layout import Indexes, sparse_zeros
from xbd.units import SUPER_PAGES

SHELVES = 2


class Shelves:
    """Buckets of superframes by (shelf, free frames).

    Attributes: *filed* (superframes,) int16: the bucket that each superframe is in, 0 for none;
    bucket = shelf * 512 + free frames.
    """

    def __init__(self, superframe_count: int) -> None:
        self.filed: NDArray[np.int16] = sparse_zeros(superframe_count, np.int16)
        self._buckets: dict[int, dict[int, None]] = {}
        self._masks = [0] * SHELVES

    def file(self, supers: Indexes, buckets: Indexes) -> None:
        """Move superframes to the *buckets* (n,) given; 0 takes one off; naming one twice is harmless."""
        old = self.filed[supers]
        changed = np.flatnonzero(old != buckets)
        if changed.size == 0:
            return
        moved, targets = supers[changed], buckets[changed]
        self.filed[moved] = targets
        for superframe, before, after in zip(moved.tolist(), old[changed].tolist(), targets.tolist(), strict=True):
            # One that is named twice has left its bucket, and that may be gone.
            if bucket := self._buckets.get(before):
                bucket.pop(superframe, None)
                if not bucket:
                    del self._buckets[before]
                    self._masks[before // SUPER_PAGES] &= ~(1 << before % SUPER_PAGES)
            if after:
                self._buckets.setdefault(after, {})[superframe] = None
                self._masks[after // SUPER_PAGES] |= 1 << after % SUPER_PAGES

    def is_empty(self, shelf: int) -> bool:
        """Say whether a shelf holds nothing."""
        return not self._masks[shelf]

    def pick(self, shelf: int, wanted: int, *, fewest_first: bool, below: int | None) -> list[int]:
        """Name superframes of *shelf* that hold *wanted* free frames together, or all that there are."""
        mask = self._masks[shelf]
        picked: list[int] = []
        while mask and wanted > 0:
            free = (mask & -mask if fewest_first else mask).bit_length() - 1
            mask ^= 1 << free
            bucket = self._buckets[shelf * SUPER_PAGES + free]
            source = bucket if below is None else (s for s in bucket if s < below)
            chunk = list(islice(source, -(-wanted // free)))
            picked += chunk
            wanted -= free * len(chunk)
        return picked

    def check(self) -> list[str]:
        """Say where buckets, masks and *filed* disagree."""
        wrong = []
        for number in range(SHELVES * SUPER_PAGES):
            bucket = self._buckets.get(number, {})
            if bool(self._masks[number // SUPER_PAGES] >> number % SUPER_PAGES & 1) != bool(bucket):
                wrong.append(f"shelves: mask bit of bucket {number} is wrong ({len(bucket)} superframes in it)")
            if bucket and set(bucket) != set(np.flatnonzero(self.filed == number).tolist()):
                wrong.append(f"shelves: bucket {number} holds {len(bucket)} superframes, the array says otherwise")
        if sum(map(len, self._buckets.values())) != int(np.count_nonzero(self.filed)):
            wrong.append("shelves: a superframe is filed in a bucket that does not hold it")
        return wrong
