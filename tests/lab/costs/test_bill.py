"""Prices applied to counts, and waits that are recorded as counts."""

from dataclasses import fields, replace

import pytest

import xbd.testing
from xbd.lab.costs.bill import bill, guest_uses, host_uses, slowdown_s
from xbd.lab.costs.counts import Counts, counts_of
from xbd.lab.costs.prices import PRIMITIVES
from xbd.lab.costs.shell.files import read_prices
from xbd.lab.costs.waits import Wait, WaitLog, p99_s
from xbd.units import MIB_PAGES, PAGE_BYTES, SUPER_PAGES

_KVM = read_prices("kvm-xeon6252").values()
_FREE = dict.fromkeys(PRIMITIVES, 0.0)


def test_a_bill_by_hand() -> None:
    """Two touched pages and a touched block given up in one call, and a page in use moved."""
    counts = Counts(calls=1, taken_4k=2, taken_2m=1, moved=1, touched_4k=2, touched_2m=1)
    prices = {**_FREE, "call": 5.0, "extent": 1.0, "guest_extent": 0.5, "unmap": 2.0, "zap": 3.0, "move_page": 4.0}
    cost = bill(counts, {**prices, "struct_page": 0.01})
    assert cost.guest_cpu_s == pytest.approx(1e-6 * (3 * 0.5 + 511 * 0.01 + 4.0))
    assert cost.host_cpu_s == pytest.approx(1e-6 * (5.0 + 3 * 1.0 + 3 * 2.0 + 3 * 3.0 + 511 * 0.01))
    assert cost.traffic_bytes == 2 * PAGE_BYTES
    assert cost.elapsed_s == cost.guest_cpu_s + cost.host_cpu_s


def test_every_count_costs_something_and_every_price_is_used() -> None:
    """No count is left out of the bill, and no primitive but the slowdown."""
    used: set[str] = set()
    for field in fields(Counts):
        uses = [*guest_uses(Counts(**{field.name: 1})).items(), *host_uses(Counts(**{field.name: 1})).items()]
        assert any(times for _, times in uses), field.name
        used |= {name for name, times in uses if times}
    assert used | {"broken_slowdown"} == set(PRIMITIVES)
    assert slowdown_s(100.0, _KVM, busy_processors=2.0) == pytest.approx(20.0)


def test_a_run_is_counted() -> None:
    """A trip of a guest down and up: extents by size as the driver names them, in as many calls as the host answered."""
    with xbd.testing.host("2g", strategy="stock") as host:
        guest = host.add("web", "512m")
        before = counts_of(host, guest)
        for mib in (256, 512):
            host.set_target(guest, mib * MIB_PAGES)
            host.advance(host.now + 60)
        counts = counts_of(host, guest).since(before)
    pages = 256 * MIB_PAGES
    assert (counts.taken_4k, counts.given_4k, counts.taken_2m, counts.given_2m) == (pages, pages, 0, 0)
    assert counts.calls >= 2 * pages // SUPER_PAGES
    with xbd.testing.host("2g", strategy="full") as host:
        guest = host.add("web", "512m")
        before = counts_of(host, guest)
        host.set_target(guest, 256 * MIB_PAGES)
        host.advance(host.now + 60)
        counts = counts_of(host, guest).since(before)
    assert (counts.taken_2m, counts.taken_4k) == (pages // SUPER_PAGES, 0)


def test_a_wait_is_as_long_as_its_slowest_part() -> None:
    """Others shrink at the same time, then the guest grows; 99 of 100 waits are no longer than p99."""
    small, large = Counts(taken_4k=10), Counts(taken_4k=1000)
    wait = Wait(Counts(given_4k=1000), (small, large), late_s=2.0)
    assert wait.seconds(_KVM) == pytest.approx(
        bill(large, _KVM).elapsed_s + bill(Counts(given_4k=1000), _KVM).elapsed_s + 2.0
    )
    waits = [Wait(Counts(), late_s=float(nth)) for nth in range(101)]
    assert p99_s(waits, _KVM) == pytest.approx(99.0)
    assert p99_s([], _KVM) == 0.0


def test_waits_of_a_host_are_recorded() -> None:
    """One guest shrinks for another, which gets its target at once; then one is refused until the next time."""
    with xbd.testing.host("512m") as host:
        giver = host.add("giver", "512m", "256m", kernel_pages=0)
        taker = host.add("taker", "512m", "256m", kernel_pages=0)
        log = WaitLog(host, [giver, taker])
        host.set_target(giver, 192 * MIB_PAGES)
        host.set_target(taker, 320 * MIB_PAGES)
        log.open(host.now, wanting=[1], shrinking=[0])
        log.close(host.now)
        host.set_target(taker, 330 * MIB_PAGES)
        log.open(host.now, wanting=[1], shrinking=[])
        host.advance(10)
        log.close(10)
        host.set_target(taker, 320 * MIB_PAGES)
    (first, second) = log.waits[1]
    assert (first.own.given_2m, first.others[0].taken_2m, first.late_s) == (32, 32, 0.0)
    assert replace(second, own=Counts()) == Wait(Counts(), (), late_s=10.0)
    assert log.waits[0] == []
