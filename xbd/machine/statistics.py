"""Counts of a host, for people and policies."""

from dataclasses import asdict, dataclass

import numpy as np

from xbd.frames import FrameStatistics
from xbd.machine.frame_table import FrameTable
from xbd.machine.offline import offline_on
from xbd.units import SUPER_ORDER, SUPER_PAGES


@dataclass(frozen=True, slots=True)
class HostStatistics(FrameStatistics):
    """Counts of the host; *free_in_whole_superframes* is a share of the free frames (1.0 when none is free)."""

    free_in_whole_superframes: float
    claimed_frames: int
    offline_frames: int
    domains: int


@dataclass(frozen=True, slots=True)
class NodeStatistics:
    """Counts of a node, in frames and superframes, and its *distances* to each node, 10 to itself."""

    frames: int
    free_frames: int
    free_superframes: int
    claimed_frames: int
    offline_frames: int
    distances: tuple[int, ...]


def statistics(host: FrameTable, domains: int) -> HostStatistics:
    """Count a host that has so many *domains*."""
    heap = host.heap.statistics()
    in_whole = heap.free_superframes * SUPER_PAGES / heap.free_frames if heap.free_frames else 1.0
    return HostStatistics(
        **asdict(heap),
        free_in_whole_superframes=in_whole,
        claimed_frames=host.claimed_pages,
        offline_frames=int(np.count_nonzero(host.offline)) << SUPER_ORDER,
        domains=domains,
    )


def node_statistics(host: FrameTable) -> list[NodeStatistics]:
    """Count the nodes of a host."""
    return [
        NodeStatistics(
            frames=host.nodes.superframes[node] << SUPER_ORDER,
            free_frames=host.free_on(node),
            free_superframes=host.free_superframes_on(node),
            claimed_frames=host.node_claims[node],
            offline_frames=offline_on(host, node).size << SUPER_ORDER,
            distances=host.nodes.distances[node],
        )
        for node in range(host.nodes.count)
    ]
