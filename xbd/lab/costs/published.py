"""Published figures, run again: a guest of 20 GiB goes to 2 GiB and back on a virtio balloon, and prices say how fast.

Everything runs as in any other run: guest, driver and machine; only the time is computed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from xbd.config.strategies import STRATEGIES
from xbd.errors import unknown_name
from xbd.guest import Demand, GuestSettings
from xbd.guest.workload import Driven
from xbd.lab.costs.bill import bill
from xbd.lab.costs.counts import Counts, counts_of
from xbd.lab.costs.prices import Prices
from xbd.testing.virtual_host import VirtualHost
from xbd.units import GIB_PAGES, SUPER_PAGES

# Which strategy balloons in pages of which size, on a virtio balloon.
_DRIVERS: Final = {"4k": "linux-virtio", "2m": "virtio"}
LARGE_PAGES, SMALL_PAGES = 20 * GIB_PAGES, 2 * GIB_PAGES
_SETTLES_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Computed:
    """A figure as it was computed, and as it was published, both in GiB/s; *fitted*: the price fitted to it, or nothing."""

    name: str
    gib_s: float
    published_gib_s: float
    fitted: str

    @property
    def ratio(self) -> float:
        """The computed figure over the published one."""
        return self.gib_s / self.published_gib_s


def compute(
    prices: Prices, *, seed: int = 0, large_pages: int = LARGE_PAGES, small_pages: int = SMALL_PAGES
) -> list[Computed]:
    """Take guests of *large_pages* to *small_pages* and back, and compute each figure that the price file has. Raises BadArgument: it has one that nothing here runs."""
    runs = {
        name: (counts, pages)
        for size in _DRIVERS
        for name, counts, pages in _trips(size, seed, large_pages, small_pages)
    }
    found = []
    for figure in prices.published:
        if figure.name not in runs:
            raise unknown_name("published figure", figure.name, runs)
        counts, pages = runs[figure.name]
        gib_s = pages / GIB_PAGES / bill(counts, prices.values()).elapsed_s
        found.append(Computed(figure.name, gib_s, figure.gib_s, figure.fitted))
    return found


def _trips(size: str, seed: int, large_pages: int, small_pages: int) -> Iterator[tuple[str, Counts, int]]:
    """Take a guest down and up, one untouched and one touched; yields the name, counts and pages of each figure."""
    untouched = _Trip(size, seed, large_pages)
    yield f"reclaim_{size}_untouched", *untouched.go(small_pages)
    trip = _Trip(size, seed, large_pages)
    trip.touch_all()
    yield f"reclaim_{size}_touched", *trip.go(small_pages)
    before = trip.counts()
    counts, pages = trip.go(large_pages)
    yield f"return_{size}", counts, pages
    trip.touch_all()
    yield f"return_touch_{size}", trip.counts().since(before), pages


class _Trip:
    """A guest alone on a host that has memory for all of it."""

    def __init__(self, size: str, seed: int, pages: int) -> None:
        strategy = STRATEGIES[_DRIVERS[size]]
        self._host = VirtualHost(2 * pages // SUPER_PAGES, strategy.host, seed=seed)
        self._host.limit_beyond_pages = strategy.limit_beyond_pages
        self._pages = pages
        self._domid = self._host.create(
            "trip",
            max_pages=pages,
            target_pages=pages,
            domain_type=strategy.domain_type,
            settings=GuestSettings(strategy.driver, count_faults=True),
            workload=Driven(),
        )

    def counts(self) -> Counts:
        """Count what was done until now."""
        return counts_of(self._host, self._domid)

    def go(self, target_pages: int) -> tuple[Counts, int]:
        """Take the guest to a target; returns what was done for it, and the pages that it gave or got."""
        before, held = self.counts(), self._host.machine.domain(self._domid).tot_pages
        self._host.set_target(self._domid, target_pages)
        self._host.advance(self._host.now + _SETTLES_S)
        reached = self._host.machine.domain(self._domid).tot_pages
        assert reached == target_pages, f"the guest holds {reached} pages, its target is {target_pages}"
        return self.counts().since(before), abs(reached - held)

    def touch_all(self) -> None:
        """Let programs touch all that there is, and end."""
        self._host.send(self._domid, Demand(self._pages, 0))
        self._host.send(self._domid, Demand(0, 0))
