"""An index of shattered superframes by how many free frames they have.

A shelf holds a bucket per number of free frames (1 to 511) that some superframe has, and a bit mask says which buckets
there are, so "the one with the fewest free" costs one bit trick. Buckets are dicts used as
ordered sets: the oldest entry is found first. All of it is a cache of two arrays (the free counts
and the shelf that the owner chose for each superframe) and can be rebuilt from them.

The buckets follow what is filed when somebody looks into them: of superframes that move again and again meanwhile,
as when frames are freed in random order, only the first bucket and the last matter. What is found is the same.
"""

from itertools import islice
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xbd.frames.layout import Indexes, sparse_zeros
from xbd.units import SUPER_PAGES

SHELVES = 2
# Moves that the buckets do not know yet are joined when there are so many, or twice as many as were left the last time.
_BEHIND_MAX: Final = 32_768


class Source(NamedTuple):
    """Where order-0 frames may come from: a *shelf* of shattered superframes, in this order."""

    shelf: int
    fewest_free_first: bool = True


WHOLE: Final = Source(-1)
DEFAULT_SOURCES: Final = (Source(0), WHOLE, Source(1, fewest_free_first=False))


class Shelves:
    """Buckets of superframes by (shelf, free frames).

    Attributes: *filed* (superframes,) int16: the bucket that each superframe is in, 0 for none;
    bucket = shelf * 512 + free frames.
    """

    def __init__(self, superframe_count: int) -> None:
        self.filed: NDArray[np.int16] = sparse_zeros(superframe_count, np.int16)
        self._buckets: dict[int, dict[int, None]] = {}
        self._masks = [0] * SHELVES
        # What the buckets do not know yet: superframes that leave one, with the bucket, in the order in which they left
        # first; and those that were filed, each batch in the order in which it came.
        self._left: list[tuple[Indexes, NDArray[np.int16]]] = []
        self._came: list[Indexes] = []
        self._behind, self._behind_max = 0, _BEHIND_MAX
        # A place for each superframe, for `_first_named`; what is in it means nothing.
        self._places: NDArray[np.int32] = sparse_zeros(superframe_count, np.int32)

    def file(self, supers: Indexes, buckets: Indexes) -> None:
        """Move superframes to the *buckets* (n,) given; 0 takes one off; naming one twice is harmless."""
        old = self.filed[supers]
        changed = np.flatnonzero(old != buckets)
        if changed.size == 0:
            return
        moved = supers[changed]
        self.filed[moved] = buckets[changed]
        self._left.append((moved, old[changed]))
        self._came.append(moved)
        self._behind += moved.size
        if self._behind > self._behind_max:
            self._join()
            self._behind = self._came[0].size
            self._behind_max = max(_BEHIND_MAX, 2 * self._behind)

    def _join(self) -> None:
        """Make one batch of all: who left more than once left its first bucket, who came more than once came last."""
        left, old = (np.concatenate(parts) for parts in zip(*self._left, strict=True))
        first = self._first_named(left)
        self._left = [(left[first], old[first])]
        came = np.concatenate([batch[self._first_named(batch)] for batch in self._came])[::-1]
        self._came = [came[self._first_named(came)][::-1]]

    def _first_named(self, supers: Indexes) -> NDArray[np.bool_]:
        """Tell of each entry whether it is the first that names its superframe: (n,) bool."""
        places = np.arange(supers.size, dtype=np.int32)
        # Of entries with one index numpy assigns the last.
        self._places[supers[::-1]] = places[::-1]
        is_first: NDArray[np.bool_] = self._places[supers] == places
        return is_first

    def _catch_up(self) -> None:
        """Let the buckets know what was filed."""
        if not self._came:
            return
        if len(self._came) > 1:
            self._join()
        (supers, old), (came,) = self._left[0], self._came
        self._left, self._came, self._behind = [], [], 0
        for superframe, number in zip(supers.tolist(), old.tolist(), strict=True):
            # One that is named twice has left its bucket, and that may be gone.
            if bucket := self._buckets.get(number):
                bucket.pop(superframe, None)
                if not bucket:
                    del self._buckets[number]
                    self._masks[number // SUPER_PAGES] &= ~(1 << number % SUPER_PAGES)
        for superframe, number in zip(came.tolist(), self.filed[came].tolist(), strict=True):
            if number:
                self._buckets.setdefault(number, {})[superframe] = None
                self._masks[number // SUPER_PAGES] |= 1 << number % SUPER_PAGES

    def is_empty(self, shelf: int) -> bool:
        """Say whether a shelf holds nothing."""
        self._catch_up()
        return not self._masks[shelf]

    def pick(self, source: Source, wanted: int, *, below: int | None) -> list[int]:
        """Name superframes of the *source*'s shelf that hold *wanted* free frames together, or all that there are."""
        self._catch_up()
        shelf, fewest_first = source
        mask = self._masks[shelf]
        picked: list[int] = []
        while mask and wanted > 0:
            free = (mask & -mask if fewest_first else mask).bit_length() - 1
            mask ^= 1 << free
            bucket = self._buckets[shelf * SUPER_PAGES + free]
            usable = bucket if below is None else (s for s in bucket if s < below)
            chunk = list(islice(usable, -(-wanted // free)))
            picked += chunk
            wanted -= free * len(chunk)
        return picked

    def check(self) -> list[str]:
        """Say where buckets, masks and *filed* disagree."""
        self._catch_up()
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
