"""What programs do: reach goals, be refused, lose their page cache, and keep their contents."""

import numpy as np
import pytest

from tests.guest.naive_host import Driver, NaiveHost, blocks
from xbd.abi import Load, Store
from xbd.errors import BadArgument
from xbd.guest import Demand, Guest, GuestSettings, TargetSet, Tick
from xbd.guest.workload import PROFILES, Bursty, Driven, Idle, Steady, UnmovableHeavy, Workload, make_workload
from xbd.guest.workload.holdings import Pool
from xbd.guest.zone import PageState


def booted(workload: Workload, *, size: int = 8, verify: bool = True) -> Driver:
    """Boot a fully populated guest of *size* blocks."""
    host = NaiveHost(blocks(size), blocks(size))
    return Driver(Guest(host.boot(blocks(size)), GuestSettings(verify=verify, kernel_pages=50), 1, workload), host)


def test_demand_is_met_to_the_page() -> None:
    """Used pages are what a demand says, the kernel's own included."""
    driver = booted(Driven())
    for anon, cache in ((1000, 500), (2000, 100), (300, 0), (300, 1500), (50, 0)):
        driver.do(Demand(anon, cache))
        statistics = driver.guest.statistics()
        assert statistics.movable_pages + statistics.unmovable_pages == anon + cache
        assert statistics.cache_pages == cache
        assert statistics.guest_free_pages == blocks(8) - anon - cache
        driver.assert_sound()
    assert driver.guest.statistics().pages_denied == 0


def test_ticks_that_come_late_are_counted() -> None:
    """From 100 ms after their time on, and the worst is told; the first tick, whenever the guest boots, is in time."""
    driver = booted(Steady(tick_s=1.0))
    driver.now = 50.0
    driver.do(Tick())
    driver.run_for(2.5)
    for late_s in (0.0625, 1.5, 0.125):
        assert driver.deadline is not None
        driver.now = driver.deadline + late_s
        driver.do(Tick())
    statistics = driver.guest.statistics()
    assert (statistics.ticks, statistics.ticks_late, statistics.tick_worst_ms) == (6, 2, 1500)


def test_demand_that_cannot_be_met_is_refused_once_and_dropped() -> None:
    """The cache goes first, the reserve stays, and the same demand again is not refused again."""
    driver = booted(Driven())
    driver.do(Demand(2000, 1000))
    driver.do(Demand(6000, 1000))
    statistics = driver.guest.statistics()
    reserve = driver.guest._zone.watermarks.min_pages
    assert statistics.cache_pages == 0
    assert statistics.guest_free_pages == reserve
    assert statistics.pages_denied == 6000 - (blocks(8) - reserve)
    driver.do(Demand(6000, 1000))
    assert driver.guest.statistics().pages_denied == statistics.pages_denied
    driver.do(Demand(50, 0))
    assert driver.guest.statistics().movable_pages == 0
    driver.assert_sound()


def test_the_cache_grows_from_free_memory_above_the_high_watermark_alone() -> None:
    """A cache that would eat the reserves stays smaller; that is nobody's denial."""
    driver = booted(Driven())
    driver.do(Demand(1000, 4000))
    statistics = driver.guest.statistics()
    assert statistics.guest_free_pages == driver.guest._zone.watermarks.high_pages
    assert statistics.pages_denied == 0


def test_with_verify_each_page_is_stored_once_and_loaded_once() -> None:
    """Words are stored when pages come into use and loaded when they are freed; what stays listed comes into use anew."""
    driver = booted(Driven())
    driver.do(Demand(1000, 500))
    driver.do(Demand(200, 100))
    stored = sum(c.gfns.size for c in driver.host.executed if isinstance(c, Store))
    loaded = sum(c.gfns.size for c in driver.host.executed if isinstance(c, Load))
    statistics = driver.guest.statistics()
    assert (stored, loaded) == (statistics.pages_allocated, statistics.pages_freed)
    assert stored == 1500 - 50 + driver.guest._programs.holdings.pages[Pool.LISTED]


def test_without_verify_programs_issue_no_command() -> None:
    """Bookkeeping alone."""
    driver = booted(Steady(), verify=False)
    driver.do(Tick())
    driver.run_for(20)
    assert driver.host.executed == []
    assert driver.guest.check() == []


def test_a_page_that_says_something_else_is_a_content_error() -> None:
    """A lost word, a word of another page, and a page that cannot be read are all found."""
    driver = booted(Driven())
    driver.do(Demand(1000, 0))
    held = driver.guest._programs.holdings.held()[:4].tolist()
    driver.host.words[held[0]] = 0
    driver.host.words[held[1]], driver.host.words[held[2]] = driver.host.words[held[2]], driver.host.words[held[1]]
    del driver.host.words[held[3]]
    driver.do(Demand(0, 0))
    assert driver.guest.statistics().content_errors == 4
    assert "content_errors" in driver.notes


@pytest.mark.parametrize("workload", [Idle(), Steady(), Bursty(), UnmovableHeavy()], ids=lambda w: type(w).__name__)
def test_profiles_run_soundly_for_a_minute(workload: Workload) -> None:
    """Each profile keeps every word right while its guest shrinks and grows."""
    driver = booted(workload)
    driver.do(Tick())
    for second in range(60):
        driver.run_for(1)
        if second % 10 == 5:
            driver.do(TargetSet(blocks(8 - second % 3)))
    driver.assert_sound()
    assert driver.guest.statistics().pages_allocated > 0


def test_an_idle_guest_sleeps_for_ever() -> None:
    """After its first tick it wants nothing: no deadline."""
    driver = booted(Idle())
    driver.do(Tick())
    assert driver.deadline is None


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_every_profile_may_do_block_io(profile: str) -> None:
    """Its rate is a number of pages a second, 0 unless said; what is none is refused."""
    assert make_workload(profile).io_pages_s == 0
    for rate in (0, 0.5, 64, 1_000_000):
        assert make_workload(profile, {"io_pages_s": rate}).io_pages_s == rate
    for wrong in (-1, 1_000_001, float("nan"), "64", None, True):
        with pytest.raises(BadArgument, match="io_pages_s"):
            make_workload(profile, {"io_pages_s": wrong})


def test_unmovable_pages_are_kept_together() -> None:
    """The kernel's pages share blocks, so that most blocks stay without any."""
    driver = booted(UnmovableHeavy(), size=32)
    driver.do(Tick())
    driver.run_for(120)
    with_unmovable = int(np.count_nonzero(driver.guest._zone.counts[PageState.UNMOVABLE]))
    assert with_unmovable <= 14, "of 32; the pages alone would need 3 to 7"


def test_the_same_seed_gives_the_same_guest() -> None:
    """Two runs agree in every count."""
    reports = []
    for _ in range(2):
        driver = booted(Steady())
        driver.do(Tick())
        driver.run_for(30)
        driver.do(TargetSet(blocks(5)))
        driver.run_for(30)
        reports.append(driver.guest.report())
    assert reports[0] == reports[1]


def test_pages_beyond_the_last_whole_block_are_the_kernels() -> None:
    """A guest of 2.5 blocks has 256 unmovable pages at the end, and they are part of the demand."""
    host = NaiveHost(blocks(2) + 256, blocks(3))
    guest = Guest(host.boot(blocks(2) + 256), GuestSettings(verify=True, kernel_pages=0), 1, Driven())
    driver = Driver(guest, host)
    driver.do(Demand(300, 0))
    statistics = guest.statistics()
    assert statistics.movable_pages + statistics.unmovable_pages == 300
    assert int(guest._zone.counts[PageState.UNMOVABLE, 2]) == 256
    driver.assert_sound()
