"""Compaction as Linux's kernel does it: what moves up, what stays, and when it begins."""

import pytest

from tests.guest.test_compaction import Scene
from xbd.guest import DRIVERS, CompactAsked, TargetSet
from xbd.guest.zone import PageState
from xbd.units import SUPER_PAGES

_VIRTIO = DRIVERS["linux-virtio"]


def _asked(*layout: dict[str, int], verify: bool = True) -> Scene:
    scene = Scene(*layout, driver=_VIRTIO, verify=verify)
    scene.driver.send(CompactAsked())
    scene.driver.settle()
    scene.driver.assert_sound()
    return scene


@pytest.mark.parametrize("verify", [True, False])
def test_in_use_and_ballooned_pages_go_up(*, verify: bool) -> None:
    """From the lowest block, page by page, into the free pages of the highest that are not wholly free."""
    scene = _asked({"movable": 100, "ballooned": 56}, {"ballooned": 256}, {"movable": 200}, {}, verify=verify)
    assert scene.count(PageState.MOVABLE) == [0, 0, 300, 0]
    assert scene.count(PageState.BALLOON_4K) == [0, 100, 212, 0]
    assert scene.count(PageState.FREE) == [512, 412, 0, 512]
    statistics = scene.guest.statistics()
    assert (statistics.pages_moved, statistics.pages_migrated, statistics.compaction_passes) == (100, 212, 1)


def test_scanners_stop_where_they_meet() -> None:
    """No page moves within a block, or down; what is left there stays broken."""
    scene = _asked({"movable": 10}, {"movable": 300, "ballooned": 100})
    assert scene.count(PageState.MOVABLE) == [0, 310]
    assert scene.count(PageState.BALLOON_4K) == [0, 100]
    assert scene.count(PageState.FREE) == [512, 102]


def test_unmovable_blocks_and_whole_free_ones_get_nothing() -> None:
    """Targets are blocks of the movable type that are in use; unmovable pages stay, and so do Xen's ballooned ones."""
    scene = _asked({"movable": 100}, {"movable": 400}, {"unmovable": 100}, {})
    # The scene fills blocks by hand; a block that the kernel allocates from is of its type.
    assert scene.count(PageState.UNMOVABLE) == [0, 0, 100, 0]
    assert scene.count(PageState.FREE)[3] == SUPER_PAGES
    stock = Scene({"ballooned": 100, "movable": 50}, {"movable": 50}, driver=DRIVERS["stock"])
    stock.driver.send(CompactAsked())
    stock.driver.settle()
    assert stock.count(PageState.BALLOON_4K) == [100, 0]
    assert stock.count(PageState.MOVABLE) == [0, 100]


def test_free_memory_in_broken_blocks_sets_it_off_by_itself() -> None:
    """Above 90 % of the free memory in broken blocks, within half a second, until it is 80 % or less."""
    layout = [{"movable": 256}] * 20
    scene = Scene(*layout, {}, driver=_VIRTIO, verify=False)
    scene.compact(1.0)
    free = scene.count(PageState.FREE)
    assert scene.guest.statistics().compaction_passes == 1
    assert free.count(SUPER_PAGES) * SUPER_PAGES / sum(free) >= 0.2
    calm = Scene({"movable": 256}, {}, driver=_VIRTIO)
    calm.compact(5.0)
    assert calm.guest.statistics().compaction_passes == 0


def test_a_pass_that_brings_nothing_is_followed_by_a_long_pause() -> None:
    """One block alone cannot be emptied into others: it is tried once in half a minute, not twice a second."""
    scene = Scene({"movable": 100}, driver=_VIRTIO)
    scene.compact(31.0)
    assert (scene.guest.statistics().compaction_passes, scene.guest.statistics().compaction_failures) == (1, 1)
    scene.compact(3.0)
    assert scene.guest.statistics().compaction_passes == 2


def test_an_inflation_by_blocks_empties_some_directly() -> None:
    """The design with Linux's compaction: a block is emptied upwards, given up as a whole, and counted."""
    scene = Scene({"movable": 200}, {"movable": 200}, {"movable": 100}, driver=DRIVERS["full-linux"])
    scene.driver.send(TargetSet(2 * SUPER_PAGES))
    scene.driver.settle()
    scene.driver.assert_sound()
    assert scene.count(PageState.BALLOON_2M).count(SUPER_PAGES) == 1
    assert scene.guest.statistics().pages_moved >= 200
