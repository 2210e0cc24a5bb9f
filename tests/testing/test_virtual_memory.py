"""A virtual host on which memory is short: who grows when some becomes free."""

import pytest

import xbd.testing
from xbd.config.strategies import STRATEGIES
from xbd.guest import TargetSet
from xbd.units import MIB_PAGES

# A driver that never gives up need not be told, and one that reports its free memory has no target.
_GIVE_UP = [name for name, one in STRATEGIES.items() if one.driver.retry_max and not one.driver.report_free_s]


@pytest.mark.parametrize("strategy", _GIVE_UP)
def test_memory_that_becomes_free_wakes_all_drivers_but_linux_s(strategy: str) -> None:
    """A guest was refused until it was cancelled, another one gives memory up: only in `stock` is the first forgotten."""
    with xbd.testing.host("64m", strategy=strategy) as host:
        hog = host.add("hog", "48m", kernel_pages=0)
        small = host.add("small", "32m", "16m", kernel_pages=0)
        host.set_target(small, 32 * MIB_PAGES)
        host.advance(60)
        assert host.guest(small).statistics().worker_state == "cancelled"
        host.set_target(hog, 32 * MIB_PAGES)
        host.advance(61)
        grown = host.machine.domain(small).tot_pages == 32 * MIB_PAGES
        assert grown == (strategy != "stock")


@pytest.mark.parametrize("strategy", ["full", "stock"])
def test_the_same_target_again_wakes_all_drivers_but_linux_s(strategy: str) -> None:
    """Memory becomes free in a way that nobody is told of; then the target is set again."""
    with xbd.testing.host("64m", strategy=strategy) as host:
        host.add("hog", "48m", kernel_pages=0)
        small = host.add("small", "32m", "16m", kernel_pages=0)
        host.set_target(small, 32 * MIB_PAGES)
        host.advance(60)
        host.machine.host.waiting.forget(small)
        host.destroy(1)
        host.advance(120)
        assert host.machine.domain(small).tot_pages == 16 * MIB_PAGES
        host.send(small, TargetSet(32 * MIB_PAGES))
        assert (host.machine.domain(small).tot_pages == 32 * MIB_PAGES) == (strategy == "full")


def test_all_who_wait_share_what_becomes_free() -> None:
    """Ten wait for 2 MiB each, 12 MiB become free: six get theirs, the others when more comes, and nobody polls."""
    with xbd.testing.host("128m") as host:
        hog = host.add("hog", "88m", kernel_pages=0)
        waiting = [host.add(f"w{n}", "6m", "4m", kernel_pages=0) for n in range(10)]
        for domid in waiting:
            host.set_target(domid, 6 * MIB_PAGES)
        host.advance(60)
        host.set_target(hog, 76 * MIB_PAGES)
        grown = [host.machine.domain(domid).tot_pages == 6 * MIB_PAGES for domid in waiting]
        assert grown == [True] * 6 + [False] * 4
        host.set_target(hog, 60 * MIB_PAGES)
        assert all(host.machine.domain(domid).tot_pages == 6 * MIB_PAGES for domid in waiting)
