"""Counts of a host, for people and policies."""

from dataclasses import dataclass

from xbd.machine.frame_table import FrameTable
from xbd.units import SUPER_PAGES


@dataclass(frozen=True, slots=True)
class HostStatistics:
    """Counts of the host; *free_in_whole_superframes* is a share of the free frames (1.0 when none is free)."""

    frames: int
    free_frames: int
    superframes: int
    free_superframes: int
    shattered_superframes: int
    free_in_whole_superframes: float
    claimed_frames: int
    domains: int


def statistics(host: FrameTable, domains: int) -> HostStatistics:
    """Count a host that has so many *domains*."""
    heap = host.heap.statistics()
    return HostStatistics(
        frames=heap.frames,
        free_frames=heap.free_frames,
        superframes=heap.superframes,
        free_superframes=heap.free_superframes,
        shattered_superframes=heap.shattered_superframes,
        free_in_whole_superframes=heap.free_superframes * SUPER_PAGES / heap.free_frames if heap.free_frames else 1.0,
        claimed_frames=host.claimed_pages,
        domains=domains,
    )
