"""The balloon's queues: what comes back first."""

import numpy as np
import pytest

from tests.guest.naive_host import Driver, NaiveHost, blocks, moved
from xbd.abi import Frames
from xbd.errors import BadArgument
from xbd.guest import DRIVERS, Guest, GuestSettings, TargetSet, Tick, override_driver
from xbd.guest.balloon.balloon import Balloon
from xbd.guest.balloon.queues import (
    QUEUES,
    BalloonQueue,
    BlockQueue,
    ForeignQueue,
    MarkedQueue,
    PageQueue,
    Purpose,
    StackQueue,
    can_serve,
)
from xbd.guest.workload import Steady
from xbd.guest.zone import Mobility, PageState, Zone
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
    """Such a block is a 2 MiB page, and the balloon's check says so; without a 2 MiB queue there is no other place."""
    for names, sound in ((("2m", "4k"), False), (("4k",), True)):
        zone = Zone(2 * SUPER_PAGES)
        zone.adopt_free(np.arange(2), pages())
        balloon = Balloon(zone, names, unmovable=False)
        balloon.current_pages = SUPER_PAGES
        gfns = zone.allocate(SUPER_PAGES, Mobility.MOVABLE, PageState.BALLOON_4K)
        balloon.pages.put(gfns)
        assert (balloon.check() == []) is sound


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
        removed = rng.permutation(np.array(sorted(inside), dtype=np.int64))[: int(rng.integers(0, 100))]
        queue.remove(removed)
        inside.difference_update(removed.tolist())
        outside.update(removed.tolist())
        assert queue.extents == len(inside)
        assert set(queue.members().tolist()) == inside
        assert queue.check() == []


@pytest.mark.parametrize("name", QUEUES)
def test_no_extent_is_removed_that_is_not_there(name: str) -> None:
    """What a caller believes to be in a queue and is not is a broken invariant."""
    queue = QUEUES[name](4 * SUPER_PAGES)
    queue.put(pages(SUPER_PAGES))
    with pytest.raises(AssertionError):
        queue.remove(pages(SUPER_PAGES, 2 * SUPER_PAGES))


@pytest.mark.parametrize("queue_class", [BlockQueue, ForeignQueue])
def test_a_marked_queue_holds_an_extent_once_and_counts_right(queue_class: type[MarkedQueue]) -> None:
    """Neither a second put nor a count that went astray passes unseen."""
    queue = queue_class(4 * SUPER_PAGES)
    queue.put(pages(SUPER_PAGES))
    with pytest.raises(AssertionError, match="already"):
        queue.put(pages(SUPER_PAGES))
    queue._count = 2
    assert queue.check() != []


@pytest.mark.parametrize(
    "names",
    [
        (),
        ("2m",),
        ("foreign",),
        ("2m", "foreign"),
        ("4k", "stack"),
        ("4k", "4k"),
        ("4k", "foreign", "foreign"),
        ("4k", "8k"),
    ],
)
def test_a_choice_of_queues_that_cannot_work_is_refused(names: tuple[str, ...]) -> None:
    """There is just one queue of single pages, and every name is known."""
    assert not can_serve(names)
    with pytest.raises(BadArgument, match=r"driver\.queues"):
        override_driver(DRIVERS["full"], {"queues": names})


# -- what is new is one class and one line of registration


class ShadowQueue(MarkedQueue):
    """Another purpose: gfns for the shadows of a device's registers, apart from other domains' frames."""

    purpose = Purpose.SLOTS
    state = PageState.SLOT


class HighestQueue(MarkedQueue):
    """Another order of deflation: single pages, the highest first."""

    state = PageState.BALLOON_4K
    migrates = True

    def take(self, count: int) -> Frames:
        """Remove up to *count* pages, the highest first."""
        highest = np.sort(self.members())[::-1][: max(count, 0)]
        self.remove(highest)
        return highest


def guest_with(monkeypatch: pytest.MonkeyPatch, name: str, queue: type[BalloonQueue], names: list[str]) -> Driver:
    """Register a queue, and boot a guest of 16 blocks with a choice of queues that has it."""
    monkeypatch.setitem(QUEUES, name, queue)
    host = NaiveHost(blocks(16), blocks(16))
    settings = GuestSettings(override_driver(DRIVERS["full"], {"queues": names}), verify=True)
    driver = Driver(Guest(host.boot(blocks(16)), settings, 1, Steady(used=0.3)), host)
    driver.do(Tick())
    return driver


def test_a_new_purpose_is_one_class_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots of two kinds are handed out through the same door, within one bound, and come back each to its own."""
    driver = guest_with(monkeypatch, "shadow", ShadowQueue, ["2m", "4k", "foreign", "shadow"])
    for target, name, count in ((10, "shadow", 600), (16, "foreign", 300), (12, "shadow", 100)):
        driver.do(TargetSet(blocks(target)))
        driver.request(count, name)
        driver.settle()
        driver.assert_sound()
    assert driver.slots.answers == [600, 300, 100]
    queues = driver.guest._balloon.queues
    assert [queues[name].extents for name in ("foreign", "shadow")] == [300, 700]
    driver.request(25, "shadow")
    driver.request(24, "nosuch")
    driver.settle()
    assert driver.slots.answers[3:] == [0, 0], (
        "1,025 slots are more than an eighth of 16 blocks; the other has no queue"
    )
    while driver.slots.held:
        driver.release()
        driver.settle()
        driver.assert_sound()
    driver.run_for(5)
    statistics = driver.guest.statistics()
    assert (statistics.slots, statistics.current_pages) == (0, blocks(12))
    assert statistics.balloon_2m_pages == blocks(4)


def test_a_new_order_of_deflation_is_one_class_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of a queue that nobody knew migrate, coalesce and come back in its order."""
    driver = guest_with(monkeypatch, "highest", HighestQueue, ["2m", "highest", "foreign"])
    for target in (9, 13, 8, 11):
        driver.do(TargetSet(blocks(target) + 100))
        driver.run_for(5)
        driver.assert_sound()
    statistics = driver.guest.statistics()
    assert statistics.pages_migrated > 0
    assert (statistics.balloon_2m_pages, statistics.balloon_4k_pages) == (blocks(4), 412)
    singles = np.sort(driver.guest._balloon.pages.members())
    driver.host.executed.clear()
    driver.do(TargetSet(blocks(11) + 150))
    (populated,) = [gfns for kind, order, gfns in moved(driver.host.executed) if kind == "Populate" and not order]
    assert populated.tolist() == singles[::-1][:50].tolist()


def test_deflation_goes_through_the_queues_in_the_order_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the single pages named first they come back first."""
    for names, first in ((["2m", "4k"], 9), (["4k", "2m"], 0)):
        driver = guest_with(monkeypatch, "highest", HighestQueue, names)
        driver.do(TargetSet(blocks(8) + 100))
        driver.run_for(5)
        driver.host.executed.clear()
        driver.do(TargetSet(blocks(10)))
        orders = [order for kind, order, _ in moved(driver.host.executed) if kind == "Populate"]
        assert orders[0] == first
