"""The measurements taken while a cell runs, the same for every workload.

Time is virtual and guests' commands take none. So the time until a target is reached consists of the driver's own waits,
its back-off and its periods, without the time that copying would take.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from statistics import median
from typing import Final

import numpy as np

from xbd.domain import DomainInfo
from xbd.guest import GuestStatistics
from xbd.lab.costs.counts import Counts, counts_of
from xbd.target_rules import is_reached
from xbd.testing.virtual_host import VirtualHost
from xbd.units import GIB_PAGES, SUPER_PAGES

Number = float | int
# Before the name of each count in the columns of the results.
COUNT_PREFIX: Final = "n_"


@dataclass(frozen=True, slots=True)
class Sample:
    """A host at one time, *t_s*; *coverage*: of the populated memory of all guests, the share in superpages."""

    t_s: float
    coverage: float
    populated_pages: int
    leaves: int
    free_pages: int
    free_whole_pages: int


@dataclass(slots=True)
class _Progress:
    """A guest's target, and *since* when the guest has been moving to it; None: the target is reached."""

    target_pages: int
    since: float | None = None


class Meter:
    """Measures a host: call `observe` when something may have changed, `sample` periodically, `summary` at the end."""

    def __init__(self, host: VirtualHost, domids: Sequence[int]) -> None:
        self._host = host
        self._domids = list(domids)
        self.samples: list[Sample] = []
        self._progress = {domid: _Progress(host.machine.domain(domid).target_pages) for domid in domids}
        self._waits_s: list[float] = []
        self._missed = 0
        self._set = 0

    @property
    def waiting(self) -> bool:
        """Whether any guest has not reached its target."""
        return any(progress.since is not None for progress in self._progress.values())

    def observe(self, now: float) -> None:
        """Record which targets are new and which are reached."""
        for domid, progress in self._progress.items():
            domain = self._host.machine.domain(domid)
            if domain.target_pages != progress.target_pages:
                self._missed += progress.since is not None
                self._set += 1
                progress.target_pages, progress.since = domain.target_pages, now
            if progress.since is not None and is_reached(domain.tot_pages, domain.target_pages):
                self._waits_s.append(now - progress.since)
                progress.since = None

    def sample(self, now: float) -> None:
        """Record a sample of the host."""
        domains = [self._host.machine.domain(domid) for domid in self._domids]
        populated, leaves = sum(domain.tot_pages for domain in domains), sum(domain.leaves for domain in domains)
        host = self._host.machine.statistics()
        coverage = SUPER_PAGES * leaves / populated if populated else 1.0
        whole = host.free_superframes * SUPER_PAGES
        self.samples.append(Sample(now, coverage, populated, leaves, host.free_frames, whole))

    def summary(self) -> dict[str, Number]:
        """Return one number for each column of the results; the last sample counts as the end."""
        infos = [self._host.machine.domain_info(domid) for domid in self._domids]
        guests = [self._host.guest(domid).statistics() for domid in self._domids]
        return {
            **_coverage(self.samples),
            **_work(infos, guests),
            **_failures(guests),
            **self._counts(),
            "targets_set": self._set,
            "targets_missed": self._missed + sum(progress.since is not None for progress in self._progress.values()),
            "target_wait_median_s": median(self._waits_s) if self._waits_s else 0.0,
            "target_wait_worst_s": max(self._waits_s, default=0.0),
            "content_errors": sum(guest.content_errors for guest in guests),
        }

    def _counts(self) -> dict[str, Number]:
        """Return what prices are applied to: counts of all guests together, and time weighted by memory in 4 KiB pages."""
        counts = sum(counts_of(self._host, domid).as_array() for domid in self._domids)
        mean = sum(sample.coverage for sample in self.samples) / len(self.samples)
        run_s = self.samples[-1].t_s
        named = zip(fields(Counts), np.atleast_1d(counts).tolist(), strict=True)
        return {
            **{COUNT_PREFIX + field.name: count for field, count in named},
            "broken_s": (1 - mean) * run_s * len(self._domids),
            "run_s": run_s,
            "guests": len(self._domids),
        }


def _coverage(samples: Sequence[Sample]) -> dict[str, Number]:
    """Summarize superpages and free memory; means are over the samples, that of free memory weighted by how much there is."""
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


def _failures(guests: Sequence[GuestStatistics]) -> dict[str, Number]:
    return {
        "pages_half_done": sum(guest.pages_half_done for guest in guests),
        "pages_not_migrated": sum(guest.pages_not_migrated for guest in guests),
        "migrations_without_headroom": sum(guest.migrations_without_headroom for guest in guests),
        "exchanges_failed": sum(guest.exchanges_failed for guest in guests),
        "compaction_failures": sum(guest.compaction_failures for guest in guests),
        "failed_extents": sum(guest.failed_extents for guest in guests),
        "pages_denied": sum(guest.pages_denied for guest in guests),
    }
