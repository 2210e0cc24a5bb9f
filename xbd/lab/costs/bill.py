"""Prices applied to counts: processor seconds of guest and host, and memory traffic. All of it is linear in the prices."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final

from xbd.lab.costs.counts import Counts
from xbd.units import PAGE_BYTES, SUPER_PAGES

_US: Final = 1e-6
# The pages of a 2 MiB page beside its first.
_FURTHER: Final = SUPER_PAGES - 1


@dataclass(frozen=True, slots=True)
class Bill:
    """What counts cost: seconds of a processor of the guest and of the host, and bytes that were read or written.

    A guest waits for what its host does for it, so *elapsed_s*, both together, is how long it takes.
    """

    guest_cpu_s: float
    host_cpu_s: float
    traffic_bytes: int

    @property
    def elapsed_s(self) -> float:
        """How long it takes."""
        return self.guest_cpu_s + self.host_cpu_s

    def as_map(self) -> dict[str, float | int]:
        """Return it as a map for JSON."""
        return {**asdict(self), "elapsed_s": self.elapsed_s}


def guest_uses(counts: Counts) -> dict[str, int]:
    """Count how often each primitive ran on a processor of the guest."""
    faulted = counts.faults_4k + counts.faults_2m * SUPER_PAGES
    return {
        "guest_extent": _extents(counts),
        "struct_page": _FURTHER * (counts.taken_2m + counts.given_2m),
        "move_page": counts.moved,
        "zero_page": faulted,
    }


def host_uses(counts: Counts) -> dict[str, int]:
    """Count how often each primitive ran on a processor of the host."""
    taken = counts.taken_4k + counts.taken_2m + counts.migrated + counts.exchanged
    return {
        "call": counts.calls,
        "extent": _extents(counts),
        "unmap": taken,
        "zap": counts.touched_4k + counts.touched_2m,
        "struct_page": _FURTHER * counts.touched_2m,
        "fault": counts.faults_4k + counts.faults_2m,
        "zero_page": counts.faults_4k + counts.faults_2m * SUPER_PAGES,
        "scrub_page": counts.taken_4k + counts.migrated + SUPER_PAGES * (counts.taken_2m + counts.exchanged),
    }


def _extents(counts: Counts) -> int:
    """Count the extents that are named: of a migrated pair both, of an exchange the block and its 512 pages."""
    plain = counts.taken_4k + counts.taken_2m + counts.given_4k + counts.given_2m
    return plain + 2 * counts.migrated + (SUPER_PAGES + 1) * counts.exchanged


def bill(counts: Counts, prices: Mapping[str, float]) -> Bill:
    """Apply prices, in microseconds by the names of primitives, to counts."""
    guest = _US * sum(prices[name] * times for name, times in guest_uses(counts).items())
    uses = host_uses(counts)
    host = _US * sum(prices[name] * times for name, times in uses.items())
    zeroed = 2 * uses["zero_page"] * (prices["zero_page"] > 0) + uses["scrub_page"] * (prices["scrub_page"] > 0)
    return Bill(guest, host, PAGE_BYTES * (2 * counts.moved + zeroed))


def slowdown_s(broken_s: float, prices: Mapping[str, float], busy_processors: float = 1.0) -> float:
    """Return the processor seconds that busy processors lose: *broken_s* is time, weighted by the share of memory in 4 KiB pages."""
    return broken_s * busy_processors * prices["broken_slowdown"]
