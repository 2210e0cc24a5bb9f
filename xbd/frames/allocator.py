"""The two-level page-frame allocator.

Theory of operation. Frames come in superframes of 512. One counter per superframe says how many of
its frames are free: 512 is whole, 0 is used up, anything between is *shattered*. Only for shattered
superframes does the 4 KiB detail (a byte per frame, in a flat sparse array) mean anything, so an
operation on 2 MiB writes one counter and merging is nothing but a counter that reaches 512.

Order-0 requests are served from the smallest sufficient block: from shattered superframes, fewest
free frames first, then from a whole one. An owner can keep two *shelves* of shattered superframes
(the host: plain and kept; a guest: movable and unmovable) and name the sequence of sources itself.
Superframes whose counters changed are only noted; they are filed under their new count when the next
request looks for one. One whose frames are taken and given back in between is not filed again.

It deliberately knows no owner, no content and no order but 0 and 9. Callers validate their input;
misuse (freeing a free frame) is an assertion.
Source: the two levels follow LLFree (Wrenger et al., USENIX ATC 2023), the policy is xbd's own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic

import numpy as np
from numpy.typing import NDArray

from xbd.frames.layout import Groups, Indexes, expand_supers, group_by_super, sparse_zeros
from xbd.frames.shelves import DEFAULT_SOURCES, WHOLE, Shelves, Source
from xbd.units import SUPER_ORDER, SUPER_PAGES

# Superframes of 1 GiB regions are counted together, so that a whole one is found without reading every counter.
_REGION_ORDER: Final = 9
_REGION_SUPERS: Final = 1 << _REGION_ORDER
_NEAR_SUPERS: Final = 64
# Notes of moved counters that may pile up while nobody asks for a frame.
_NOTES_MAX: Final = 32
_NOTHING: Final[NDArray[Any]] = np.zeros(0, dtype=np.int64)

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    # The kinds of numbers of frames and of superframes, for whoever says them.
    FrameT = TypeVar("FrameT", bound=np.int64, default=Any)
    SuperT = TypeVar("SuperT", bound=np.int64, default=Any)
else:
    from typing import TypeVar

    FrameT, SuperT = TypeVar("FrameT"), TypeVar("SuperT")


ShelfOf = Callable[[Indexes], Indexes]


@dataclass(frozen=True, slots=True)
class FrameStatistics:
    """Counts of frames and of superframes by state."""

    frames: int
    free_frames: int
    superframes: int
    free_superframes: int
    shattered_superframes: int


class FrameAllocator(Generic[FrameT, SuperT]):
    """Frames 0..frame_count, all free or all used at first; indexes are (n,) int64 throughout, of its owner's kinds.

    Args:
        frame_count: frames; need not fill the last superframe (the missing ones are never free).
        free: whether all frames are free at first.
        shelf_of: for (n,) superframes, the shelf (0 or 1) of each; None: all on shelf 0. It is asked
            again whenever a superframe's counter moved, or `reshelve` named it.
        high_first: whether whole superframes, and the frames of one, are taken from the highest down.
        states: (superframes * 512,) uint8 of an owner who notes each frame's state anyway, 0 if free (and beyond the last
            frame another): the detail is read there. The owner writes it when it has taken or given frames.

    Attributes: *free_count* (superframes,) uint16, to be read only.
    """

    def __init__(
        self, frame_count: int, *, free: bool = True, shelf_of: ShelfOf | None = None, high_first: bool = False,
        states: NDArray[np.uint8] | None = None,
    ) -> None:  # fmt: skip
        self.frame_count = frame_count
        self.superframe_count = -(-frame_count // SUPER_PAGES)
        self.free_frames = 0
        self.free_superframes = 0
        regions = -(-self.superframe_count // _REGION_SUPERS)
        # Padded to whole regions; the padding stays 0, "used up".
        self._counts: NDArray[np.uint16] = sparse_zeros(regions * _REGION_SUPERS, np.uint16)
        self.free_count = self._counts[: self.superframe_count]
        self._keeps_map = states is None
        self._map: NDArray[Any] = (
            sparse_zeros(self.superframe_count * SUPER_PAGES, np.bool_) if states is None else states
        )
        self._rows = self._map.reshape(-1, SUPER_PAGES)
        self._high_first = high_first
        # The same, with the frames of each superframe in the order in which they are taken.
        self._taken_rows = self._rows[:, ::-1] if high_first else self._rows
        self._region_whole: Indexes = np.zeros(regions, dtype=np.int64)
        self._shelves = Shelves(self.superframe_count)
        self._shelf_of = shelf_of
        self._notes: list[Indexes] = []
        # No superframe below this one is whole.
        self._lowest_whole = 0
        if free and frame_count:
            self._free_everything()

    def _free_everything(self) -> None:
        whole, tail = divmod(self.frame_count, SUPER_PAGES)
        self.free_count[:whole] = SUPER_PAGES
        self.free_frames, self.free_superframes = self.frame_count, whole
        self._region_whole[:] = (self._counts.reshape(-1, _REGION_SUPERS) == SUPER_PAGES).sum(axis=1)
        if tail:
            self._rows[whole, :tail] = self._keeps_map
            self.free_count[whole] = tail
            self._note(np.array([whole]))

    # -- queries

    def is_free(self, frames: NDArray[FrameT]) -> NDArray[np.bool_]:
        """Say for each frame whether it is free: (n,) bool."""
        counts = self.free_count[frames >> SUPER_ORDER]
        free: NDArray[np.bool_] = (counts == SUPER_PAGES) | ((counts > 0) & self._says_free(self._map[frames]))
        return free

    def _says_free(self, detail: NDArray[Any]) -> NDArray[np.bool_]:
        """Read a part of the detail: for each frame whether it is free."""
        return detail if self._keeps_map else detail == 0

    def free_in(self, superframe: int) -> NDArray[FrameT]:
        """List the free frames of one superframe, ascending."""
        count = int(self.free_count[superframe])
        base = superframe << SUPER_ORDER
        if count == SUPER_PAGES:
            whole: NDArray[Any] = np.arange(base, base + SUPER_PAGES, dtype=np.int64)
            return whole
        free: NDArray[Any] = self._says_free(self._rows[superframe]).nonzero()[0] + base if count else _NOTHING
        return free

    def serves_whole(self) -> bool:
        """Say whether a request for single frames would be served from a whole superframe (default sources)."""
        self._file_noted()
        return self.free_superframes > 0 and self._shelves.is_empty(DEFAULT_SOURCES[0].shelf)

    # -- taking

    def take(
        self, count: int, sources: tuple[Source, ...] = DEFAULT_SOURCES, below: int | None = None
    ) -> NDArray[FrameT]:
        """Take up to *count* single frames, from the *sources* in sequence.

        Only superframes below *below* are used. Returns (<= count,) frames, in the order chosen.
        """
        parts: list[NDArray[Any]] = []
        left = count
        for source in sources:
            if left <= 0:
                break
            part = self._take_whole(left, below) if source is WHOLE else self._take_shelved(source, left, below)
            if part.size:
                parts.append(part)
                left -= part.size
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else _NOTHING

    def take_superframes(self, count: int, *, below: int | None = None, highest: bool = False) -> NDArray[SuperT]:
        """Take up to *count* whole superframes, lowest (or *highest*, or all are) first; returns superframe indexes."""
        supers = self._find_whole(count, below, highest=highest or self._high_first)
        if supers.size:
            self._use_whole(supers)
        return supers

    def take_exactly(self, frames: NDArray[FrameT], groups: Groups[SuperT] | None = None) -> None:
        """Take just these frames, each free and named once; *groups*, if known, are `group_by_super` of them."""
        if frames.size == 0:
            return
        supers, counts = groups or group_by_super(frames, of=self.superframe_count)
        before = self.free_count[supers]
        whole = supers[before == SUPER_PAGES]
        if whole.size:
            if self._keeps_map:
                self._rows[whole] = True
            self._count_whole(whole, -1)
        free = np.count_nonzero(self._says_free(self._map[frames]))
        assert free == frames.size, f"{frames.size - free} of {frames.size} frames are not free"
        assert np.count_nonzero(before) == before.size, f"not all of superframes {supers} have free frames"
        if self._keeps_map:
            self._map[frames] = False
        self.free_count[supers] = before - counts
        self.free_frames -= frames.size
        self._note(supers)

    def take_superframes_exactly(self, supers: NDArray[SuperT]) -> None:
        """Take just these superframes, each wholly free and named once."""
        whole = np.count_nonzero(self.free_count[supers] == SUPER_PAGES)
        assert whole == supers.size, f"{supers.size - whole} of superframes {supers} are not whole"
        if supers.size:
            self._use_whole(supers)

    def _take_shelved(self, source: Source, count: int, below: int | None) -> NDArray[Any]:
        self._file_noted()
        picked = self._shelves.pick(source, count, below=below)
        if not picked:
            return _NOTHING
        supers: Indexes = np.array(picked, dtype=np.int64)
        frames: Indexes
        if supers.size == 1:
            frames = self._says_free(self._taken_rows[picked[0]]).nonzero()[0] + (picked[0] << SUPER_ORDER)
        else:
            rows = self._says_free(self._rows.take(supers, axis=0))
            flat = (rows[:, ::-1] if self._high_first else rows).reshape(-1).nonzero()[0]
            frames = (supers << SUPER_ORDER)[flat >> SUPER_ORDER] + (flat & (SUPER_PAGES - 1))
        if self._high_first:
            frames ^= SUPER_PAGES - 1
        leftover = max(frames.size - count, 0)
        if leftover:
            frames = frames[:count]
        if self._keeps_map:
            self._map[frames] = False
        self.free_count[supers] = 0
        self.free_count[picked[-1]] = leftover
        self.free_frames -= frames.size
        self._note(supers)
        return frames

    def _take_whole(self, count: int, below: int | None) -> NDArray[Any]:
        supers = self._find_whole(-(-count // SUPER_PAGES), below, highest=self._high_first)
        if supers.size == 0:
            return _NOTHING
        self._use_whole(supers)
        frames = expand_supers(supers)
        if self._high_first:
            frames ^= SUPER_PAGES - 1
        leftover = frames.size - count
        if leftover > 0:
            last = int(supers[-1])
            if self._keeps_map:
                self._taken_rows[last, :-leftover] = False
                self._taken_rows[last, -leftover:] = True
            self.free_count[last] = leftover
            self.free_frames += leftover
            self._note(supers[-1:])
            frames = frames[:count]
        return frames

    def _find_whole(self, count: int, below: int | None, *, highest: bool) -> NDArray[Any]:
        if count == 1 and below is None and not highest and self.free_superframes:
            return np.array([self._find_lowest_whole()], dtype=np.int64)
        return self._search_whole(count, below, highest=highest)

    def _find_lowest_whole(self) -> int:
        lowest = self._lowest_whole
        if self._counts[lowest] != SUPER_PAGES:
            # When the frames of one are taken the next is often whole, too, and seldom far away.
            is_whole = self._counts[lowest : lowest + _NEAR_SUPERS] == SUPER_PAGES
            near = int(is_whole.argmax())
            lowest = lowest + near if is_whole[near] else int(self._search_whole(1, None, highest=False)[0])
            self._lowest_whole = lowest
        return lowest

    def _search_whole(self, count: int, below: int | None, *, highest: bool) -> NDArray[Any]:
        regions = np.flatnonzero(self._region_whole)
        if highest:
            regions = regions[::-1]
        if below is None and regions.size > 1:
            reached = np.cumsum(self._region_whole[regions])
            regions = regions[: int(np.searchsorted(reached, count)) + 1]
        if regions.size == 1:
            first = int(regions[0]) << _REGION_ORDER
            supers = np.flatnonzero(self._counts[first : first + _REGION_SUPERS] == SUPER_PAGES) + first
        else:
            regions = np.sort(regions)
            flat = np.flatnonzero(self._counts.reshape(-1, _REGION_SUPERS)[regions] == SUPER_PAGES)
            supers = (regions << _REGION_ORDER)[flat >> _REGION_ORDER] + (flat & (_REGION_SUPERS - 1))
        if below is not None:
            supers = supers[: int(np.searchsorted(supers, below))]
        return supers[max(supers.size - count, 0) :][::-1] if highest else supers[:count]

    def _use_whole(self, supers: Indexes) -> None:
        self.free_count[supers] = 0
        self.free_frames -= supers.size << SUPER_ORDER
        self._count_whole(supers, -1)

    # -- giving back

    def give(self, frames: NDArray[FrameT], groups: Groups[SuperT] | None = None) -> None:
        """Free these frames, in any order, each used and named once; whole superframes merge.

        *groups*, if known, are `group_by_super` of them.
        """
        if frames.size == 0:
            return
        supers, counts = groups or group_by_super(frames, of=self.superframe_count)
        if supers.size == 1 and frames.size == SUPER_PAGES:
            self.give_superframes(supers)
            return
        before = self.free_count[supers]
        after = before + counts
        most = int(np.maximum.reduce(after))
        assert most <= SUPER_PAGES, f"more frames than there are in one of superframes {supers}"
        if self._keeps_map:
            if np.count_nonzero(before) < before.size:
                # Of superframes that were used up the map said nothing so far.
                self._rows[supers[before == 0]] = False
            free = np.count_nonzero(self._map[frames])
            assert free == 0, f"{free} of {frames.size} frames are free already"
            self._map[frames] = True
        self.free_count[supers] = after
        self.free_frames += frames.size
        if most == SUPER_PAGES:
            self._count_whole(supers[after == SUPER_PAGES], 1)
        self._note(supers)

    def give_superframes(self, supers: NDArray[SuperT]) -> None:
        """Free whole superframes, each wholly used and named once."""
        if supers.size == 0:
            return
        used = supers.size - np.count_nonzero(self.free_count[supers])
        assert used == supers.size, f"{supers.size - used} of superframes {supers} are not wholly used"
        self.free_count[supers] = SUPER_PAGES
        self.free_frames += supers.size << SUPER_ORDER
        self._count_whole(supers, 1)

    # -- bookkeeping

    def _count_whole(self, supers: Indexes, sign: int) -> None:
        self.free_superframes += sign * supers.size
        if supers.size == 1:
            lowest = int(supers[0])
            self._region_whole[lowest >> _REGION_ORDER] += sign
        else:
            lowest = int(np.minimum.reduce(supers))
            self._region_whole += sign * np.bincount(supers >> _REGION_ORDER, minlength=self._region_whole.size)
        if sign > 0:
            self._lowest_whole = min(self._lowest_whole, lowest)

    def reshelve(self, supers: NDArray[SuperT]) -> None:
        """Note that `shelf_of` may answer otherwise than before for these superframes."""
        self._note(supers)

    def _note(self, supers: Indexes) -> None:
        self._notes.append(supers if supers.base is None else supers.copy())  # without the batch that it is a part of
        if len(self._notes) > _NOTES_MAX:
            self._file_noted()

    def _file_noted(self) -> None:
        if not self._notes:
            return
        supers = self._notes[0] if len(self._notes) == 1 else np.concatenate(self._notes)
        self._notes.clear()
        if supers.size > self.superframe_count:  # many notes are of the same ones
            is_noted = np.zeros(self.superframe_count, dtype=np.bool_)
            is_noted[supers] = True
            supers = np.flatnonzero(is_noted)
        # Modulo 512: a whole superframe is, like a used-up one, on no shelf.
        buckets = (self.free_count[supers] & (SUPER_PAGES - 1)).astype(np.int64)
        if self._shelf_of is not None:
            buckets += np.where(buckets > 0, self._shelf_of(supers) << SUPER_ORDER, 0)
        self._shelves.file(supers, buckets)

    def statistics(self) -> FrameStatistics:
        """Count frames and superframes by state."""
        shattered = np.count_nonzero((self.free_count > 0) & (self.free_count < SUPER_PAGES))
        return FrameStatistics(
            self.frame_count, self.free_frames, self.superframe_count, self.free_superframes, int(shattered)
        )

    def check(self) -> list[str]:
        """Recompute every counter from the detail and say what disagrees; empty when all is well."""
        self._file_noted()
        counts = self.free_count.astype(np.int64)
        shattered = np.flatnonzero((counts > 0) & (counts < SUPER_PAGES))
        detail = self._says_free(self._rows[shattered])
        wrong = [
            f"superframe {s:#x} counts {c} free frames, its detail {d}"
            for s, c, d in zip(shattered, counts[shattered], detail.sum(axis=1), strict=True)
            if c != d
        ]
        whole = self._counts.reshape(-1, _REGION_SUPERS) == SUPER_PAGES
        if int(counts.sum()) != self.free_frames:
            wrong.append(f"{self.free_frames} frames counted free, {int(counts.sum())} are")
        if int(whole.sum()) != self.free_superframes or (whole.sum(axis=1) != self._region_whole).any():
            wrong.append(f"{self.free_superframes} superframes counted whole, {int(whole.sum())} are")
        if whole.reshape(-1)[: self._lowest_whole].any():
            wrong.append(f"a superframe below {self._lowest_whole:#x} is whole")
        tail = self.frame_count % SUPER_PAGES
        if tail and (counts[-1] > tail or (counts[-1] and self._says_free(self._rows[-1, tail:]).any())):
            wrong.append("a frame beyond the last one is free")
        shelved = counts % SUPER_PAGES
        if self._shelf_of is not None:
            everything = np.arange(self.superframe_count, dtype=np.int64)
            shelved += np.where(shelved > 0, self._shelf_of(everything) << SUPER_ORDER, 0)
        if (shelved != self._shelves.filed).any():
            wrong.append(f"superframe {int((shelved != self._shelves.filed).argmax()):#x} is on the wrong shelf")
        return wrong + self._shelves.check()
