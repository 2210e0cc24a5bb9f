"""The frame allocator against its floor: numpy writing the same arrays once.

A pair is one frame taken and given back. "In order" takes from an untouched pool; "churned" from
one in which batches of 1 to 512 frames came and went in random order; "random" gives every frame of
a full pool back in random order, so that each batch is scattered over the whole pool, and takes
them again.
"""

import time
from collections.abc import Callable

import numpy as np

from xbd.frames import FrameAllocator
from xbd.lab.bench.figures import REPEATS, Figure, summarize
from xbd.units import GIB_PAGES, SUPER_PAGES

_POOL_FRAMES = 8 * GIB_PAGES
_CHURN_ROUNDS = 20_000
_FREE_SHARE = 0.3
_SMALL, _LARGE = 512, 65_536
# Room for the large batch of order 9: 256 GiB, which costs nothing until it is touched.
_POOL_SUPERS = 131_072
_FRAMES_PER_REPEAT = 2_000_000
_UNIT = "M pairs/s"


def measure_allocator(seed: int) -> dict[str, Figure]:
    """Measure the allocator in batches of 512 and 65,536, orders 0 and 9; in order, churned, random."""
    rng = np.random.default_rng(seed)
    fresh, churned, supers = FrameAllocator(_POOL_FRAMES), _churned(rng), FrameAllocator(_POOL_SUPERS * SUPER_PAGES)
    figures: dict[str, Figure] = {}
    for batch in (_SMALL, _LARGE):
        # An order-9 frame is one entry; the floor is to write that.
        figures[f"allocator_order9_{batch}"] = in_order = _rate(_super_pair(supers, batch), batch)
        floor = _rate(_floor(batch), batch)
        figures[f"allocator_order9_{batch}_vs_floor"] = summarize(
            [floor.value / in_order.value], "ratio", f"numpy writing {batch} entries twice"
        )
    for batch in (_SMALL, _LARGE):
        figures[f"allocator_order0_{batch}"] = in_order = _rate(_pair(fresh, batch), batch)
        figures[f"allocator_order0_{batch}_churned"] = _rate(_pair(churned, batch), batch)
        figures[f"allocator_order0_{batch}_random"] = _random(rng, batch)
        floor = _rate(_floor(batch), batch)
        figures[f"allocator_order0_{batch}_vs_floor"] = summarize(
            [floor.value / in_order.value], "ratio", f"numpy writing the detail of {batch} frames twice"
        )
    return figures


def _rate(pair: Callable[[], None], batch: int) -> Figure:
    calls = max(_FRAMES_PER_REPEAT // batch, 10)
    return summarize([batch / _seconds_per_call(pair, calls) / 1e6 for _ in range(REPEATS)], _UNIT)


def _pair(pool: FrameAllocator, batch: int) -> Callable[[], None]:
    return lambda: pool.give(pool.take(batch))


def _super_pair(pool: FrameAllocator, batch: int) -> Callable[[], None]:
    return lambda: pool.give_superframes(pool.take_superframes(batch))


def _floor(batch: int) -> Callable[[], None]:
    detail, frames = np.zeros(_POOL_FRAMES, dtype=np.bool_), np.arange(batch)

    def write_twice() -> None:
        detail[frames] = True
        detail[frames] = False

    return write_twice


def _churned(rng: np.random.Generator) -> FrameAllocator:
    pool = FrameAllocator(_POOL_FRAMES)
    batches = []
    while pool.free_frames > _FREE_SHARE * _POOL_FRAMES:
        batches.append(pool.take(int(rng.integers(1, _SMALL + 1))))
    for _ in range(_CHURN_ROUNDS):
        index = int(rng.integers(len(batches)))
        pool.give(batches[index])
        batches[index] = pool.take(int(rng.integers(1, _SMALL + 1)))
    return pool


def _random(rng: np.random.Generator, batch: int) -> Figure:
    pool = FrameAllocator(_POOL_FRAMES)
    samples = []
    for _ in range(max(REPEATS // 2, 1)):
        parts = np.split(rng.permutation(pool.take(pool.free_frames)), _POOL_FRAMES // batch)
        start = time.perf_counter()
        for part in parts:
            pool.give(part)
        parts = [pool.take(batch) for _ in parts]
        samples.append(_POOL_FRAMES / (time.perf_counter() - start) / 1e6)
        pool.give(np.concatenate(parts))
    return summarize(samples, _UNIT)


def _seconds_per_call(function: Callable[[], object], calls: int) -> float:
    """Time *calls* calls of a function, after a warm-up, and return the mean of one."""
    function()
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) / calls
