"""What is measured while a cell runs, the same for every workload.

Time is virtual: the commands of guests take none, so what is waited for until a target is reached is what
the driver itself waits for, its back-off and its periods, and not what the copying would take.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from xbd.guest import GuestStatistics
from xbd.machine import DomainInfo
from xbd.testing.virtual_host import VirtualHost
from xbd.units import GIB_PAGES, SUPER_PAGES

Number = float | int


@dataclass(frozen=True, slots=True)
class Sample:
    """A host at one moment; *coverage*: of the populated memory of all guests, the share in superpages."""

    t_s: float
    coverage: float
    populated_pages: int
    leaves: int
    free_pages: int
    free_whole_pages: int


@dataclass(slots=True)
class _Way:
    """A guest's way to its target: on it *since*; None when it is there."""

    target_pages: int
    since: float | None = None


class Meter:
    """Watches a host: `observe` whenever something may have changed, `sample` now and then, `summary` at the end."""

    def __init__(self, host: VirtualHost, domids: Sequence[int]) -> None:
        self._host = host
        self._domids = list(domids)
        self.samples: list[Sample] = []
        self._ways = {domid: _Way(host.machine.domain(domid).target_pages) for domid in domids}
        self._waits_s: list[float] = []
        self._missed = 0
        self._set = 0

    @property
    def waiting(self) -> bool:
        """Whether any guest is on its way to a target."""
        return any(way.since is not None for way in self._ways.values())

    def observe(self, now: float) -> None:
        """Note which targets are new and which are reached."""
        for domid, way in self._ways.items():
            domain = self._host.machine.domain(domid)
            if domain.target_pages != way.target_pages:
                self._missed += way.since is not None
                self._set += 1
                way.target_pages, way.since = domain.target_pages, now
            if way.since is not None and domain.tot_pages == domain.target_pages:
                self._waits_s.append(now - way.since)
                way.since = None

    def sample(self, now: float) -> None:
        """Take down how the host stands."""
        domains = [self._host.machine.domain(domid) for domid in self._domids]
        populated, leaves = sum(domain.tot_pages for domain in domains), sum(domain.leaves for domain in domains)
        host = self._host.machine.statistics()
        coverage = SUPER_PAGES * leaves / populated if populated else 1.0
        whole = host.free_superframes * SUPER_PAGES
        self.samples.append(Sample(now, coverage, populated, leaves, host.free_frames, whole))

    def summary(self) -> dict[str, Number]:
        """Sum up, one number for each column of the results; the last sample is the end."""
        infos = [self._host.machine.domain_info(domid) for domid in self._domids]
        guests = [self._host.guest(domid).statistics() for domid in self._domids]
        return {
            **_coverage(self.samples),
            **_work(infos, guests),
            **_trouble(guests),
            "targets_set": self._set,
            "targets_missed": self._missed + sum(way.since is not None for way in self._ways.values()),
            "target_wait_median_s": median(self._waits_s) if self._waits_s else 0.0,
            "target_wait_worst_s": max(self._waits_s, default=0.0),
            "content_errors": sum(guest.content_errors for guest in guests),
        }


def _coverage(samples: Sequence[Sample]) -> dict[str, Number]:
    """Sum up superpages and free memory; means are over the samples, that of free memory weighted by how much there is."""
    end = samples[-1]
    free = sum(sample.free_pages for sample in samples)
    small = end.populated_pages - end.leaves * SUPER_PAGES
    entries = end.leaves + small
    return {
        "coverage_mean": sum(sample.coverage for sample in samples) / len(samples),
        "coverage_least": min(sample.coverage for sample in samples),
        "coverage_end": end.coverage,
        "free_whole_mean": sum(sample.free_whole_pages for sample in samples) / free if free else 1.0,
        "free_whole_end": end.free_whole_pages / end.free_pages if end.free_pages else 1.0,
        "free_pages_end": end.free_pages,
        "populated_pages_end": end.populated_pages,
        "leaves_end": end.leaves,
        "entries_4k_end": small,
        "entries_per_gib_end": entries * GIB_PAGES / end.populated_pages if end.populated_pages else 0.0,
    }


def _work(infos: Sequence[DomainInfo], guests: Sequence[GuestStatistics]) -> dict[str, Number]:
    calls: Counter[str] = Counter()
    for info in infos:
        calls.update(info.hypercalls)
    withheld = sum(guest.balloon_2m_pages + guest.balloon_4k_pages for guest in guests)
    return {
        "hypercalls": calls.total(),
        "hypercalls_refused": sum(count for kind, count in calls.items() if not kind.endswith(":done")),
        "extents": sum(sum(info.extents.values()) for info in infos),
        "pages_ballooned": sum(guest.pages_inflated + guest.pages_deflated for guest in guests),
        "pages_moved": sum(guest.pages_moved for guest in guests),
        "pages_migrated": sum(guest.pages_migrated for guest in guests),
        "blocks_exchanged": sum(guest.blocks_exchanged for guest in guests),
        "balloon_whole_end": sum(guest.balloon_2m_pages for guest in guests) / withheld if withheld else 1.0,
    }


def _trouble(guests: Sequence[GuestStatistics]) -> dict[str, Number]:
    return {
        "pages_half_done": sum(guest.pages_half_done for guest in guests),
        "pages_not_migrated": sum(guest.pages_not_migrated for guest in guests),
        "migrations_without_headroom": sum(guest.migrations_without_headroom for guest in guests),
        "exchanges_failed": sum(guest.exchanges_failed for guest in guests),
        "compaction_failures": sum(guest.compaction_failures for guest in guests),
        "failed_extents": sum(guest.failed_extents for guest in guests),
        "pages_denied": sum(guest.pages_denied for guest in guests),
    }
