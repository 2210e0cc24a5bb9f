"""Free page reporting: free blocks go by themselves, and come back inside an allocation."""

from tests.guest.naive_host import Driver, NaiveHost, blocks
from xbd.abi import DomainType
from xbd.guest import DRIVERS, Demand, Guest, GuestSettings, TargetSet
from xbd.guest.workload import Driven
from xbd.units import SUPER_PAGES

_BLOCKS = 128


def _booted() -> Driver:
    size = blocks(_BLOCKS)
    host = NaiveHost(size, size, domain_type=DomainType.VIRTIO)
    settings = GuestSettings(DRIVERS["reporting"], kernel_pages=50, verify=True)
    return Driver(Guest(host.boot(size), settings, 1, Driven()), host)


def test_what_was_free_for_two_seconds_goes_down_to_what_linux_keeps() -> None:
    """In 2 MiB pages, some at a time, until the low watermark and 32 blocks are left; no target changes that."""
    driver = _booted()
    driver.do(Demand(5000, 0))
    driver.run_for(1.9)
    assert driver.guest.statistics().balloon_2m_pages == 0
    driver.run_for(20)
    driver.assert_sound()
    told = driver.guest.statistics()
    assert told.balloon_2m_pages > 0
    kept = told.guest_free_pages - 32 * SUPER_PAGES - driver.guest._zone.watermarks.low_pages
    assert 0 <= kept < SUPER_PAGES + 512
    driver.do(TargetSet(blocks(_BLOCKS)))
    driver.run_for(5)
    assert driver.guest.statistics().balloon_2m_pages == told.balloon_2m_pages


def test_an_allocation_gets_it_back() -> None:
    """What programs ask for beyond what is at hand comes back from the host first, and nothing is denied."""
    driver = _booted()
    driver.do(Demand(5000, 0))
    driver.run_for(20)
    wanted = blocks(_BLOCKS) - blocks(20)
    driver.do(Demand(wanted, 0))
    driver.assert_sound()
    told = driver.guest.statistics()
    assert told.movable_pages + told.unmovable_pages == wanted
    assert (told.pages_denied, told.blocks_deflated > 0) == (0, True)


def test_of_a_full_host_the_allocation_is_refused() -> None:
    """Single frames are taken where there is no whole superframe; what the host has not got is denied, and counted."""
    driver = _booted()
    driver.do(Demand(5000, 0))
    driver.run_for(20)
    given_up = driver.guest.statistics().balloon_2m_pages
    driver.host.free_frames, driver.host.superframes = 1000, 0
    wanted = blocks(_BLOCKS) - blocks(20)
    driver.do(Demand(wanted, 0))
    driver.assert_sound()
    told = driver.guest.statistics()
    assert told.pages_deflated == 1000
    assert told.balloon_2m_pages + told.balloon_4k_pages == given_up - 1000
    assert told.pages_denied > 0
