"""Single promises of the frame allocator."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.frames.model import indexes
from xbd.frames import WHOLE, FrameAllocator, Source
from xbd.frames.layout import Indexes, expand_supers
from xbd.units import SUPER_PAGES

AWKWARD = (1, 511, 512, 513, 1023, 1025)


@pytest.mark.parametrize("count", AWKWARD)
@pytest.mark.parametrize("pool", AWKWARD)
def test_gives_all_it_has_and_no_more(pool: int, count: int) -> None:
    """Each frame of a pool of any size can be had once, however many are asked for."""
    frames = FrameAllocator(pool)
    taken = frames.take(count)
    rest = frames.take(2 * pool)

    assert taken.size == min(count, pool)
    assert sorted(np.concatenate((taken, rest)).tolist()) == list(range(pool))
    assert (frames.free_frames, frames.free_superframes) == (0, 0)
    assert frames.take(1).size == frames.take_superframes(1).size == 0
    assert frames.check() == []


@pytest.mark.parametrize("pool", AWKWARD)
def test_what_is_given_back_merges(pool: int) -> None:
    """Frames given back one by one, from both ends, become whole superframes again."""
    frames = FrameAllocator(pool)
    taken = frames.take(pool)
    for frame in sorted(taken.tolist(), key=lambda frame: abs(frame - pool // 2), reverse=True):
        frames.give(indexes(frame))

    assert (frames.free_frames, frames.free_superframes) == (pool, pool // SUPER_PAGES)
    assert frames.check() == []


@given(st.integers(1, 1100), st.randoms(use_true_random=False).map(lambda r: r.getrandbits(32)))
def test_giving_undoes_taking(count: int, seed: int) -> None:
    """Whatever is taken from a fragmented pool and given back in another order leaves the pool as it was."""
    rng = np.random.default_rng(seed)
    frames = FrameAllocator(1500)
    frames.take_exactly(rng.permutation(1500)[:400])
    before = frames.is_free(np.arange(1500))
    counts = frames.free_count.copy()

    frames.give(rng.permutation(frames.take(count)))

    assert (frames.is_free(np.arange(1500)) == before).all()
    assert (frames.free_count == counts).all()
    assert frames.check() == []


def test_takes_the_fewest_free_first() -> None:
    """Single frames come from the superframe with the fewest free ones, then the next, then a whole one."""
    frames = FrameAllocator(4 * SUPER_PAGES)
    frames.take_exactly(np.arange(512, 512 + 500))
    frames.take_exactly(np.arange(1024, 1024 + 510))

    assert (frames.take(15) >> 9).tolist() == [2] * 2 + [1] * 12 + [0]


def test_the_second_shelf_comes_last_and_most_free_first() -> None:
    """Superframes on shelf 1 are spared while others, or whole ones, have a frame."""
    frames = FrameAllocator(4 * SUPER_PAGES, shelf_of=lambda supers: (supers > 0).astype(np.int64))
    for superframe, used in ((0, 10), (1, 300), (2, 200)):
        frames.take_exactly(np.arange(used, dtype=np.int64) + superframe * SUPER_PAGES)

    assert set((frames.take(502) >> 9).tolist()) == {0}
    assert set((frames.take(512) >> 9).tolist()) == {3}
    assert (frames.take(313) >> 9).tolist() == [2] * 312 + [1]


def test_sources_are_what_the_caller_names() -> None:
    """A request takes from nothing but the named sources, below the named superframe."""
    frames = FrameAllocator(3 * SUPER_PAGES)
    frames.take_exactly(np.arange(1024, 1030))

    assert frames.take(5, (Source(0),), below=2).size == 0
    assert frames.take(1200, (WHOLE,), below=2).size == 1024
    assert frames.take(1000, (Source(1), Source(0))).size == 506


def test_superframes_come_from_either_end() -> None:
    """Whole superframes are handed out lowest first, or highest first, across the 1 GiB regions."""
    frames = FrameAllocator(1300 * SUPER_PAGES + 5)
    frames.take_exactly(indexes(0, 512 * SUPER_PAGES, 1299 * SUPER_PAGES))

    assert frames.take_superframes(600).tolist() == [*range(1, 512), *range(513, 602)]
    assert frames.take_superframes(280, highest=True).tolist() == [*range(1298, 1018, -1)]
    assert frames.take_superframes(1000, below=1000).tolist() == [*range(602, 1000)]
    assert frames.take_superframes(1).tolist() == [1000]
    frames.give_superframes(indexes(700, 3))
    assert frames.take_superframes(1).tolist() == [3]
    assert frames.take_superframes(1, highest=True).tolist() == [1018]
    assert frames.check() == []


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 400), st.booleans()), max_size=12))
def test_superframes_of_many_regions_against_a_set(steps: list[tuple[bool, int, bool]]) -> None:
    """Order-9 takes and gives over three regions answer as a sorted set does."""
    frames = FrameAllocator(1100 * SUPER_PAGES)
    free = set(range(1100))
    for giving, count, highest in steps:
        if giving:
            back = sorted(set(range(1100)) - free, reverse=highest)[:count]
            frames.give_superframes(indexes(*back))
            free |= set(back)
        else:
            expected = sorted(free, reverse=highest)[:count]
            assert frames.take_superframes(count, highest=highest).tolist() == expected
            free -= set(expected)

    assert np.flatnonzero(frames.free_count == SUPER_PAGES).tolist() == sorted(free)
    assert frames.check() == []


@pytest.mark.parametrize(
    "misuse",
    [
        lambda frames: frames.give(indexes(600)),
        lambda frames: frames.give(indexes(3, 4, 5)),
        lambda frames: frames.give(np.arange(512)),
        lambda frames: frames.give_superframes(indexes(0)),
        lambda frames: frames.give_superframes(indexes(1)),
        lambda frames: frames.take_exactly(indexes(3)),
        lambda frames: frames.take_exactly(indexes(1024)),
        lambda frames: frames.take_exactly(indexes(4, 3)),
        lambda frames: frames.take_superframes_exactly(indexes(0)),
        lambda frames: frames.take_superframes_exactly(indexes(1, 2)),
    ],
)
def test_misuse_is_an_assertion(misuse: Callable[[FrameAllocator], None]) -> None:
    """Freeing what is free, or taking what is used, is a bug of the caller and is never carried out quietly."""
    frames = FrameAllocator(3 * SUPER_PAGES)
    frames.take_exactly(np.arange(4))
    frames.take_superframes_exactly(indexes(2))
    with pytest.raises(AssertionError):
        misuse(frames)


def test_nothing_asked_is_nothing_done() -> None:
    """Empty requests change nothing."""
    frames = FrameAllocator(600)
    nothing: Indexes = np.zeros(0, dtype=np.int64)
    frames.give(nothing)
    frames.give_superframes(nothing)
    frames.take_exactly(nothing)
    frames.take_superframes_exactly(nothing)

    assert frames.take(0).size == frames.take_superframes(0).size == frames.take_superframes(0, highest=True).size == 0
    assert frames.free_frames == 600
    assert frames.check() == []


def test_an_empty_pool_answers() -> None:
    """A pool without frames has nothing to give and nothing to complain about."""
    frames = FrameAllocator(0)

    assert frames.take(3).size == frames.take_superframes(3).size == 0
    assert frames.check() == []


def test_counters_are_python_numbers() -> None:
    """What leaves the allocator by its counters can go on the wire as it is."""
    frames = FrameAllocator(1025)
    frames.give(frames.take(700)[:50])
    statistics = frames.statistics()

    assert {type(frames.free_frames), type(frames.free_superframes), type(statistics.shattered_superframes)} == {int}


def test_many_moves_between_requests_are_filed() -> None:
    """Hundreds of changes with no request between them are all known to the next one."""
    frames = FrameAllocator(8 * SUPER_PAGES)
    frames.take(8 * SUPER_PAGES)
    for frame in range(0, 8 * SUPER_PAGES, 5):
        frames.give(indexes(frame))
        assert len(frames._notes) <= 257

    assert frames.check() == []
    assert frames.take(10_000).size == 820


def _corrupt_shelf(frames: FrameAllocator) -> None:
    frames._shelves.filed[0] = 0


def _corrupt_bucket(frames: FrameAllocator) -> None:
    frames._shelves._buckets[508].pop(0)


def _corrupt_mask(frames: FrameAllocator) -> None:
    frames._shelves._masks[0] ^= 1 << 7


def _corrupt_detail(frames: FrameAllocator) -> None:
    frames._map[0] = True


def _corrupt_count(frames: FrameAllocator) -> None:
    frames.free_count[1] = 0


def _corrupt_shattered_count(frames: FrameAllocator) -> None:
    frames.free_count[0] += 1


def _corrupt_free_frames(frames: FrameAllocator) -> None:
    frames.free_frames -= 1


def _corrupt_free_superframes(frames: FrameAllocator) -> None:
    frames.free_superframes += 1


def _corrupt_region(frames: FrameAllocator) -> None:
    frames._region_whole[0] -= 1


def _corrupt_lowest(frames: FrameAllocator) -> None:
    frames._lowest_whole = 2


def _corrupt_tail(frames: FrameAllocator) -> None:
    frames._rows[-1, 77] = True


def _corrupt_tail_count(frames: FrameAllocator) -> None:
    frames.free_count[-1] = 512
    frames.free_frames += 502
    frames._count_whole(indexes(2), 1)


@pytest.mark.parametrize(
    "corrupt",
    [
        _corrupt_shelf,
        _corrupt_bucket,
        _corrupt_mask,
        _corrupt_detail,
        _corrupt_count,
        _corrupt_shattered_count,
        _corrupt_free_frames,
        _corrupt_free_superframes,
        _corrupt_region,
        _corrupt_lowest,
        _corrupt_tail,
        _corrupt_tail_count,
    ],
)
def test_check_sees_each_corruption(corrupt: Callable[[FrameAllocator], None]) -> None:
    """Every array and counter of the allocator is recomputed by `check`."""
    frames = FrameAllocator(2 * SUPER_PAGES + 10)
    frames.take_exactly(np.arange(4))
    assert frames.check() == []

    corrupt(frames)

    assert frames.check() != []


def test_a_big_pool_costs_nothing_until_touched() -> None:
    """A pool of 16 TiB is made and used without memory for each of its frames."""
    frames = FrameAllocator(1 << 32)
    taken = frames.take_superframes(3)
    frames.give(expand_supers(taken)[5:])

    assert frames.free_frames == (1 << 32) - 5
    assert frames.take(2).tolist() == [5, 6]
