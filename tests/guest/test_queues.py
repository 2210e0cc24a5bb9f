"""The balloon's queues: what comes back first."""

import numpy as np
import pytest

from xbd.abi import Frames
from xbd.errors import BadArgument
from xbd.guest.balloon.queues import QUEUES, BlockQueue, PageQueue, StackQueue, check_queue_names
from xbd.units import SUPER_PAGES


def pages(*gfns: int) -> Frames:
    """Name single gfns."""
    return np.array(gfns, dtype=np.int64)


def test_blocks_come_back_lowest_first() -> None:
    """The 2 MiB queue keeps the balloon at the top."""
    queue = BlockQueue(8 * SUPER_PAGES)
    queue.put(pages(7, 2, 5) * SUPER_PAGES)
    assert queue.take(2).tolist() == [2 * SUPER_PAGES, 5 * SUPER_PAGES]
    assert queue.extents == 1
    assert queue.check() == []


def test_pages_of_the_block_nearest_to_whole_come_back_first() -> None:
    """The 4 KiB queue serves the block that misses the fewest pages."""
    queue = PageQueue(4 * SUPER_PAGES)
    queue.put(pages(*range(10), *range(SUPER_PAGES, SUPER_PAGES + 3), *range(2 * SUPER_PAGES, 2 * SUPER_PAGES + 5)))
    assert queue.take(3).tolist() == [SUPER_PAGES, SUPER_PAGES + 1, SUPER_PAGES + 2]
    assert queue.take(5).tolist() == list(range(2 * SUPER_PAGES, 2 * SUPER_PAGES + 5))
    queue.remove(pages(4, 9))
    assert sorted(queue.members().tolist()) == [0, 1, 2, 3, 5, 6, 7, 8]
    assert queue.check() == []


def test_a_whole_block_does_not_belong_on_the_page_queue() -> None:
    """Such a block is a 2 MiB page, and check says so."""
    queue = PageQueue(SUPER_PAGES)
    queue.put(np.arange(SUPER_PAGES))
    assert queue.check() != []


def test_the_stack_returns_what_came_last() -> None:
    """Strategy stock: last ballooned, first returned."""
    queue = StackQueue(SUPER_PAGES)
    queue.put(pages(5, 4, 3))
    queue.put(pages(9))
    assert queue.take(3).tolist() == [9, 3, 4]
    assert queue.take(3).tolist() == [5]
    assert queue.take(3).size == 0


@pytest.mark.parametrize("name", QUEUES)
def test_every_queue_gives_back_just_what_it_was_given(name: str) -> None:
    """Random puts and takes match a set, whatever the order."""
    rng = np.random.default_rng(1)
    queue = QUEUES[name](20 * SUPER_PAGES)
    step = 1 << queue.order
    outside, inside = set(range(0, 20 * SUPER_PAGES, step)), set[int]()
    for _ in range(100):
        some = rng.permutation(np.array(sorted(outside), dtype=np.int64))[: int(rng.integers(0, 400))]
        queue.put(some)
        outside.difference_update(some.tolist())
        inside.update(some.tolist())
        taken = queue.take(int(rng.integers(0, 400))).tolist()
        assert inside.issuperset(taken)
        inside.difference_update(taken)
        outside.update(taken)
        assert queue.extents == len(inside)
        assert set(queue.members().tolist()) == inside


@pytest.mark.parametrize("names", [(), ("2m",), ("4k", "stack"), ("4k", "4k"), ("2m", "8k")])
def test_a_choice_of_queues_that_cannot_work_is_refused(names: tuple[str, ...]) -> None:
    """There is just one queue of single pages, and every name is known."""
    with pytest.raises(BadArgument):
        check_queue_names(names)
