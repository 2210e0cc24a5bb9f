"""What programs wait for: memory that is not there, and files' pages that have to be read again; and what is told of it."""

import pytest

from xbd.guest import Demand, GuestSettings
from xbd.guest.state import REFAULT_S, Waits
from xbd.guest.workload import Driven
from xbd.guest.workload.queue import Queue
from xbd.testing.virtual_host import VirtualHost
from xbd.units import MIB_PAGES as MIB


def test_who_asked_first_gets_it_first() -> None:
    """What was asked for at a time is there when as much has come; what has waited for its patience is given up."""
    queue = Queue(10.0)
    given_up = [queue.wait(lacking, now) for lacking, now in ((30, 0.0), (50, 1.0), (20, 4.0), (20, 11.0), (0, 12.0))]

    assert given_up == [0, 0, 0, 20, 0]
    assert (queue.pages, queue.take_waited(), queue.waited) == (0, [(0.0, 4.0), (1.0, 10.0)], [])


def test_without_patience_nobody_waits() -> None:
    """What is lacking is given up at once."""
    queue = Queue(0.0)
    assert (queue.wait(7, 1.0), queue.pages) == (7, 0)


def test_pressure_is_a_share_of_the_last_seconds() -> None:
    """Half a second of reading in each is a half in the end; a stall is all of the time; calm is nothing, and then rests."""
    waits = Waits()
    for now in range(100):
        waits.pass_to(float(now))
        waits.add(0.5)
    assert waits.pressure == pytest.approx(0.5, abs=0.01)
    waits.stall(stalled=True)
    waits.pass_to(130.0)
    assert waits.pressure == pytest.approx(0.975, abs=0.01)
    waits.stall(stalled=False)
    for now in range(131, 240):
        waits.pass_to(float(now))
    assert (waits.pressure, waits.deadline(), int(waits.total_s)) == (0.0, None, 80)


def _reader() -> tuple[VirtualHost, int]:
    """Make a host with a guest of 256 MiB that is driven."""
    host = VirtualHost(256)
    return host, host.create("reader", max_pages=256 * MIB, target_pages=256 * MIB, workload=Driven())


def test_cache_that_is_read_again_is_counted() -> None:
    """A balloon drops cache: of what is read, the share that is missing is refaulted, and so is all that comes back."""
    host, domid = _reader()
    host.send(domid, Demand(40 * MIB, 100 * MIB))
    host.set_target(domid, 120 * MIB)
    host.advance(30)
    missing = host.guest(domid).statistics().cache_dropped
    assert missing > 20 * MIB
    host.send(domid, Demand(40 * MIB, 100 * MIB, cache_reads=10_000))
    read = host.guest(domid).statistics().pages_refaulted
    assert read == 10_000 * missing // (100 * MIB)
    host.advance(31)
    told = host.guest(domid).statistics()
    assert told.waited_ms == int(min(read * REFAULT_S, 1) * 1000)
    assert told.pressure_ppm > 0
    host.set_target(domid, 256 * MIB)
    host.advance(60)
    host.send(domid, Demand(40 * MIB, 100 * MIB))
    assert host.guest(domid).statistics().pages_refaulted == read + missing


def test_what_nobody_wants_is_not_missed() -> None:
    """Cache that was dropped, and is not wanted any more when there is room, was worthless."""
    host, domid = _reader()
    host.send(domid, Demand(40 * MIB, 100 * MIB))
    host.set_target(domid, 120 * MIB)
    host.advance(30)
    kept = host.guest(domid).statistics().cache_pages
    host.send(domid, Demand(40 * MIB, kept, cache_reads=10_000))
    host.send(domid, Demand(40 * MIB, 100 * MIB))
    assert host.guest(domid).statistics().pages_refaulted == 0


def test_programs_with_patience_wait_for_memory() -> None:
    """What they want and is not there stays wanted; it is pressure, and had as soon as the target rises."""
    host = VirtualHost(256)
    settings = GuestSettings(patience_s=60.0)
    domid = host.create("patient", max_pages=256 * MIB, target_pages=100 * MIB, workload=Driven(), settings=settings)
    host.send(domid, Demand(150 * MIB, 0))
    host.advance(20)
    told = host.guest(domid).statistics()
    assert (told.waiting_pages > 50 * MIB, told.available_pages, told.pages_denied) == (True, 0, 0)
    assert told.pressure_ppm > 800_000
    host.set_target(domid, 200 * MIB)
    host.advance(25)
    host.send(domid, Demand(150 * MIB, 0))
    assert host.guest(domid).take_waited() == [(0.0, 25.0)]
    assert host.guest(domid).statistics().waiting_pages == 0


def test_programs_without_patience_end_and_it_shows() -> None:
    """Refused pages are denied at once, which is a second of waiting."""
    host = VirtualHost(256)
    domid = host.create("hasty", max_pages=256 * MIB, target_pages=100 * MIB, workload=Driven())
    host.send(domid, Demand(150 * MIB, 0))
    host.advance(20)
    told = host.guest(domid).statistics()
    assert (told.pages_denied > 50 * MIB, told.waiting_pages, told.waited_ms) == (True, 0, 1000)
