"""Migration on a host that offers nothing for it, as today's Xen does to a translated guest: two calls, and a page of headroom."""

from dataclasses import replace

import pytest

from xbd.abi import DomainType
from xbd.guest import DRIVERS, GuestSettings, GuestStatistics, LimitSet, TargetSet
from xbd.guest.workload import Bursty
from xbd.machine import HostSettings
from xbd.testing.virtual_host import VirtualHost
from xbd.units import SUPER_PAGES

# Inflation by single pages where no block is free, so that there is something to tidy up afterwards.
_DRIVER = replace(DRIVERS["full"], vacate_blocks=0)
_TODAY = HostSettings(populate_depopulate=False, exchange_translated=False)


def _shrunk(domain_type: DomainType, headroom_pages: int) -> tuple[VirtualHost, GuestStatistics]:
    """Shrink a busy guest, its limit *headroom_pages* above its target, and let it tidy up."""
    host = VirtualHost(64, _TODAY)
    pages = 32 * SUPER_PAGES
    settings = GuestSettings(_DRIVER, verify=True, wear=0.5)
    # Wear and bursts leave free pages in blocks that are not whole: with room to tidy up, and no block to give up as it is.
    workload = Bursty(low=0.3, high=0.7, period_ticks=6)
    domid = host.create(
        "web", max_pages=pages, target_pages=pages, settings=settings, workload=workload, domain_type=domain_type
    )
    host.advance(30)
    target = 24 * SUPER_PAGES
    host.machine.set_target(domid, target)
    host.machine.set_max_pages(domid, target + headroom_pages)
    host.send(domid, TargetSet(target))
    host.send(domid, LimitSet(target + headroom_pages))
    host.advance(90)
    assert host.check() == []
    return host, host.guest(domid).statistics()


@pytest.mark.parametrize("domain_type", [DomainType.PVH, DomainType.VIRTIO])
def test_a_page_of_headroom_is_enough_for_two_calls(domain_type: DomainType) -> None:
    """A guest whose limit is one page above its target migrates page by page, and every word stays right."""
    _, statistics = _shrunk(domain_type, headroom_pages=1)

    assert (statistics.migration_way, statistics.content_errors) == ("two_calls", 0)
    assert statistics.pages_migrated > 0
    assert statistics.partly_ballooned == 0


@pytest.mark.parametrize("domain_type", [DomainType.PVH, DomainType.VIRTIO])
def test_without_headroom_the_guest_says_so(domain_type: DomainType) -> None:
    """A guest at its limit cannot migrate by two calls: it says why, keeps its pages, and works on."""
    _, statistics = _shrunk(domain_type, headroom_pages=0)

    assert statistics.migrations_without_headroom > 0
    assert (statistics.pages_migrated, statistics.pages_half_done, statistics.content_errors) == (0, 0, 0)


def test_a_pv_guest_exchanges_on_todays_xen() -> None:
    """Exchange is refused to translated guests alone; one that is not needs no headroom."""
    host, statistics = _shrunk(DomainType.PV, headroom_pages=0)

    assert (statistics.migration_way, statistics.migrations_without_headroom) == ("exchange", 0)
    assert statistics.pages_migrated > 0
    assert "exchange:done" in host.machine.domain_info(1).hypercalls
