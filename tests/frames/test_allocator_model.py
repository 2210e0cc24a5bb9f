"""The frame allocator against a set, operation by operation."""

from itertools import product

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.frames.model import NaiveFrames, assert_same, indexes
from xbd.frames import DEFAULT_SOURCES, WHOLE, FrameAllocator, Source
from xbd.frames.layout import Indexes
from xbd.units import SUPER_PAGES

SIZES = (1, 511, 512, 513, 1023, 1025, 2048, 2348)
COUNTS = st.sampled_from((1, 2, 7, 100, 256, 511, 512, 513, 1025))
SEEDS = st.integers(0, 2**16)
BELOW = st.sampled_from((None, None, 0, 1, 2, 3))
SOURCES = st.sampled_from(
    (
        DEFAULT_SOURCES,
        (Source(0), WHOLE),
        (Source(1), WHOLE, Source(0, fewest_free_first=False)),
        (WHOLE, Source(1, fewest_free_first=False), Source(0)),
        (Source(1),),
        (WHOLE,),
    )
)
STYLES = st.sampled_from(("run", "backwards", "scattered"))


def pick(frames: set[int], count: int, seed: int, style: str) -> Indexes:
    """Choose up to *count* of *frames*: neighbours up, neighbours down, or a random mixture in random order."""
    ordered = np.array(sorted(frames), dtype=np.int64)
    rng = np.random.default_rng(seed)
    count = min(count, ordered.size)
    if style == "scattered":
        return rng.permutation(ordered)[:count]
    first = int(rng.integers(0, ordered.size - count + 1))
    run = ordered[first : first + count]
    return run if style == "run" else run[::-1].copy()


class AllocatorMachine(RuleBasedStateMachine):
    """Does the same to an allocator and to a set; what `take` chose is checked against the policy.

    The allocator keeps a map of its own, or reads the states that this owner notes.
    """

    @initialize(
        frame_count=st.sampled_from(SIZES), free=st.booleans(), high_first=st.booleans(), is_owned=st.booleans()
    )
    def begin(self, frame_count: int, *, free: bool, high_first: bool, is_owned: bool) -> None:
        """Make a pool."""
        self.model = NaiveFrames(frame_count, free=free, high_first=high_first)
        self.states = np.ones(self.model.superframes * SUPER_PAGES, dtype=np.uint8)
        self.states[:frame_count] = not free
        self.real = FrameAllocator(
            frame_count,
            free=free,
            shelf_of=self._shelf_of,
            high_first=high_first,
            states=self.states if is_owned else None,
        )

    def _note(self, frames: set[int], *, is_used: bool) -> None:
        """Note the state of frames, as their owner does."""
        self.states[list(frames)] = is_used

    def _shelf_of(self, supers: Indexes) -> Indexes:
        return indexes(*(self.model.shelf[superframe] for superframe in supers.tolist()))

    @rule(count=COUNTS, sources=SOURCES, below=BELOW)
    def take(self, count: int, sources: tuple[Source, ...], below: int | None) -> None:
        """Take what the policy finds."""
        taken = self.real.take(count, sources, below).tolist()
        self._note(set(taken), is_used=True)
        self.model.check_take(taken, count, sources, below)

    @rule(count=st.integers(0, 3), below=BELOW, highest=st.booleans())
    def take_superframes(self, count: int, below: int | None, *, highest: bool) -> None:
        """Take whole superframes, from one end."""
        whole = [superframe for superframe in self.model.whole() if below is None or superframe < below]
        expected = (whole[::-1] if highest or self.model.high_first else whole)[:count]
        assert self.real.take_superframes(count, below=below, highest=highest).tolist() == expected
        for superframe in expected:
            self._note(self.model.frames_of(superframe), is_used=True)
            self.model.free -= self.model.frames_of(superframe)

    @precondition(lambda self: self.model.free)
    @rule(count=COUNTS, seed=SEEDS, style=STYLES)
    def take_exactly(self, count: int, seed: int, style: str) -> None:
        """Take named frames."""
        frames = pick(self.model.free, count, seed, style)
        self.real.take_exactly(frames)
        self._note(set(frames.tolist()), is_used=True)
        self.model.free -= set(frames.tolist())

    @precondition(lambda self: self.model.whole())
    @rule(data=st.data())
    def take_superframes_exactly(self, data: st.DataObject) -> None:
        """Take named superframes."""
        supers = data.draw(st.lists(st.sampled_from(self.model.whole()), unique=True))
        self.real.take_superframes_exactly(indexes(*supers))
        for superframe in supers:
            self._note(self.model.frames_of(superframe), is_used=True)
            self.model.free -= self.model.frames_of(superframe)

    @precondition(lambda self: len(self.model.free) < self.model.frame_count)
    @rule(count=COUNTS, seed=SEEDS, style=STYLES)
    def give(self, count: int, seed: int, style: str) -> None:
        """Give frames back, in any order."""
        frames = pick(set(range(self.model.frame_count)) - self.model.free, count, seed, style)
        self._note(set(frames.tolist()), is_used=False)
        self.real.give(frames)
        self.model.free |= set(frames.tolist())

    @precondition(lambda self: self.model.used_up())
    @rule(data=st.data())
    def give_superframes(self, data: st.DataObject) -> None:
        """Give superframes back."""
        supers = data.draw(st.lists(st.sampled_from(self.model.used_up()), unique=True))
        self.real.give_superframes(indexes(*supers))
        for superframe in supers:
            self._note(self.model.frames_of(superframe), is_used=False)
            self.model.free |= self.model.frames_of(superframe)

    @rule(superframe=st.integers(0, 4))
    def reshelve(self, superframe: int) -> None:
        """Change the owner's opinion of a superframe."""
        superframe %= self.model.superframes
        self.model.shelf[superframe] ^= 1
        self.real.reshelve(indexes(superframe))

    @invariant()
    def same(self) -> None:
        """Both answer the same."""
        if hasattr(self, "real"):
            assert_same(self.real, self.model)


TestAllocatorMachine = AllocatorMachine.TestCase
TestAllocatorMachine.settings = settings(max_examples=120, stateful_step_count=25)


def _step(real: FrameAllocator, model: NaiveFrames, letter: str) -> None:
    """Do one letter of the exhaustive alphabet; one that cannot be done now does nothing."""
    used = sorted(set(range(model.frame_count)) - model.free)
    match letter:
        case "1" | "511" | "513":
            model.check_take(real.take(int(letter)).tolist(), int(letter), DEFAULT_SOURCES, None)
        case "whole":
            for superframe in real.take_superframes(1).tolist():
                assert superframe == model.whole()[0]
                model.free -= model.frames_of(superframe)
        case "odd":
            frames = [frame for frame in sorted(model.free) if frame % 2]
            real.take_exactly(indexes(*frames))
            model.free -= set(frames)
        case "back":
            real.give(indexes(*used))
            model.free |= set(used)
        case "even back":
            frames = [frame for frame in reversed(used) if frame % 2 == 0]
            real.give(indexes(*frames))
            model.free |= set(frames)
        case _:
            supers = model.used_up()[:1]
            real.give_superframes(indexes(*supers))
            for superframe in supers:
                model.free |= model.frames_of(superframe)


@pytest.mark.parametrize(("frame_count", "depth"), [(512, 3), (700, 3), (1024, 4)])
def test_every_short_sequence_of_operations(frame_count: int, depth: int) -> None:
    """All sequences of a few operations on one or two superframes leave what the set says."""
    letters = ("1", "511", "513", "whole", "odd", "back", "even back", "whole back")
    for sequence in product(letters, repeat=depth):
        model, real = NaiveFrames(frame_count, free=True), FrameAllocator(frame_count)
        for letter in sequence:
            _step(real, model, letter)
        assert_same(real, model)
