"""What a frame allocator must do, said with a set."""

from itertools import groupby

import numpy as np

from xbd.frames import WHOLE, FrameAllocator, Source
from xbd.frames.layout import Indexes
from xbd.units import SUPER_PAGES


def indexes(*numbers: int) -> Indexes:
    """Write an index array."""
    return np.array(numbers, dtype=np.int64)


class NaiveFrames:
    """The free frames as a set, the shelves as a dict; its policy is a sort."""

    def __init__(self, frame_count: int, *, free: bool, high_first: bool = False) -> None:
        self.frame_count = frame_count
        self.high_first = high_first
        self.superframes = -(-frame_count // SUPER_PAGES)
        self.free: set[int] = set(range(frame_count)) if free else set()
        self.shelf = dict.fromkeys(range(self.superframes), 0)

    def frames_of(self, superframe: int) -> set[int]:
        """All frames that a superframe has; fewer than 512 in an odd last one."""
        first = superframe * SUPER_PAGES
        return set(range(first, min(first + SUPER_PAGES, self.frame_count)))

    def free_in(self, superframe: int) -> list[int]:
        """The free frames of a superframe, ascending."""
        return sorted(self.frames_of(superframe) & self.free)

    def counts(self) -> list[int]:
        """Free frames by superframe."""
        return [len(self.free_in(superframe)) for superframe in range(self.superframes)]

    def whole(self) -> list[int]:
        """Wholly free superframes, ascending."""
        return [superframe for superframe, count in enumerate(self.counts()) if count == SUPER_PAGES]

    def used_up(self) -> list[int]:
        """Complete superframes with nothing free, ascending."""
        last = self.frame_count // SUPER_PAGES
        return [superframe for superframe, count in enumerate(self.counts()[:last]) if count == 0]

    def plan(self, count: int, sources: tuple[Source, ...], below: int | None) -> list[tuple[int, int, int]]:
        """Say what the policy takes: (shelf or -1, free before, taken) for each superframe, in sequence."""
        counts = self.counts()
        steps = []
        for source in sources:
            for free, superframe in sorted(
                ((free, superframe) for superframe, free in enumerate(counts[:below])),
                reverse=not source.fewest_free_first,
            ):
                shattered = 0 < free < SUPER_PAGES
                fits = free == SUPER_PAGES if source is WHOLE else shattered and self.shelf[superframe] == source.shelf
                if fits and count > 0:
                    steps.append((source.shelf, free, min(free, count)))
                    count -= min(free, count)
        return steps

    def check_take(self, taken: list[int], count: int, sources: tuple[Source, ...], below: int | None) -> None:
        """Hold an answer of `take` against the policy, then follow it."""
        counts = self.counts()
        whole = [superframe for superframe in self.whole() if below is None or superframe < below]
        steps = []
        for superframe, group in groupby(taken, key=lambda frame: frame // SUPER_PAGES):
            free, frames = counts[superframe], list(group)
            shelf = -1 if free == SUPER_PAGES else self.shelf[superframe]
            steps.append((shelf, free, len(frames)))
            assert frames == sorted(self.free_in(superframe), reverse=self.high_first)[: len(frames)]
            assert shelf != -1 or superframe == whole.pop(-1 if self.high_first else 0)
        assert steps == self.plan(count, sources, below)
        assert set(taken) <= self.free
        assert len(set(taken)) == len(taken)
        self.free -= set(taken)


def assert_same(real: FrameAllocator, model: NaiveFrames) -> None:
    """Compare all that can be asked of an allocator."""
    counts = model.counts()
    everything = np.arange(model.frame_count, dtype=np.int64)
    assert set(np.flatnonzero(real.is_free(everything)).tolist()) == model.free
    assert real.free_count.tolist() == counts
    assert real.free_frames == len(model.free)
    assert real.free_superframes == len(model.whole())
    for superframe in range(model.superframes):
        assert real.free_in(superframe).tolist() == model.free_in(superframe)
    statistics = real.statistics()
    assert statistics.shattered_superframes == sum(0 < count < SUPER_PAGES for count in counts)
    assert (statistics.free_frames, statistics.frames) == (len(model.free), model.frame_count)
    assert real.check() == []
