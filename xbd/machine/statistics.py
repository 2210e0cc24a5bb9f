"""Counts of a host, for people and policies."""

from dataclasses import asdict, dataclass

from xbd.frames import FrameStatistics
from xbd.machine.frame_table import FrameTable
from xbd.units import SUPER_PAGES


@dataclass(frozen=True, slots=True)
class HostStatistics(FrameStatistics):
    """Counts of the host; *free_in_whole_superframes* is a share of the free frames (1.0 when none is free)."""

    free_in_whole_superframes: float
    claimed_frames: int
    domains: int


def statistics(host: FrameTable, domains: int) -> HostStatistics:
    """Count a host that has so many *domains*."""
    heap = host.heap.statistics()
    in_whole = heap.free_superframes * SUPER_PAGES / heap.free_frames if heap.free_frames else 1.0
    return HostStatistics(
        **asdict(heap), free_in_whole_superframes=in_whole, claimed_frames=host.claimed_pages, domains=domains
    )
