"""The heap of several nodes against sets: each part serves its own node, and all together are one heap."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from xbd.arrays import MfnKind, SuperKind
from xbd.frames import NodeHeap
from xbd.units import SUPER_PAGES

SIZES = (3, 1, 2)


def frames_of(node: int) -> set[int]:
    """Name the frames of a node."""
    first = sum(SIZES[:node]) * SUPER_PAGES
    return set(range(first, first + SIZES[node] * SUPER_PAGES))


def test_a_node_gives_its_own_frames_and_no_others() -> None:
    """Single frames and superframes come from the node that is asked, until it has none."""
    heap: NodeHeap[MfnKind, SuperKind] = NodeHeap(SIZES)
    assert set(heap.take_on(1, 600).tolist()) == frames_of(1)
    assert heap.take_superframes_on(2, 5).tolist() == [4, 5]
    assert [heap.free_on(node) for node in range(3)] == [3 * SUPER_PAGES, 0, 0]
    assert (heap.free_frames, heap.free_superframes) == (3 * SUPER_PAGES, 3)
    assert heap.check() == []


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_taken_and_given_the_parts_are_one_heap(seed: int) -> None:
    """Batches over several nodes are split and joined: what is free is what a set says."""
    rng = np.random.default_rng(seed)
    heap: NodeHeap[MfnKind, SuperKind] = NodeHeap(SIZES, high_first=bool(seed & 1))
    every: NDArray[Any] = np.arange(heap.frame_count)
    supers: NDArray[Any] = np.arange(sum(SIZES))
    free = set(every.tolist())
    for _ in range(60):
        node, count = int(rng.integers(3)), int(rng.integers(1, 700))
        used = np.array(sorted(set(every.tolist()) - free), dtype=np.int64)
        match int(rng.integers(4)):
            case 0:
                taken = heap.take_on(node, count)
                assert taken.size == min(count, len(free & frames_of(node)))
                assert set(taken.tolist()) <= free & frames_of(node)
                free -= set(taken.tolist())
            case 1:
                chosen = rng.permutation(np.array(sorted(free), dtype=np.int64))[:count]
                heap.take_exactly(chosen)
                free -= set(chosen.tolist())
            case _:
                chosen = rng.permutation(used)[:count]
                heap.give(chosen)
                free |= set(chosen.tolist())
        assert heap.is_free(every).nonzero()[0].tolist() == sorted(free)
        assert heap.check() == []
        counts = heap.free_counts(supers)
        assert (counts == heap.free_count).all()
        statistics = heap.statistics()
        assert (statistics.free_frames, statistics.frames) == (len(free), every.size)
        assert statistics.free_superframes == heap.free_superframes == int((counts == SUPER_PAGES).sum())
