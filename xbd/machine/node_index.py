"""The node of superframes and of frames, and what a domain holds on each, on a host of several nodes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xbd.arrays import Frames
from xbd.machine.nodes import Nodes
from xbd.units import SUPER_ORDER


class NodeIndex:
    """Finds the node of superframes and frames, of a host of several nodes."""

    def __init__(self, nodes: Nodes) -> None:
        self._ends = np.cumsum(nodes.superframes)
        self._count = nodes.count

    def of_supers(self, supers: Frames) -> Frames:
        """Name the node of each superframe: (n,) int64."""
        numbers: Frames = self._ends.searchsorted(supers, side="right")
        return numbers

    def of(self, mfns: Frames) -> Frames:
        """Name the node of each frame: (n,) int64."""
        return self.of_supers(mfns >> SUPER_ORDER)

    def count(self, mfns: Frames) -> NDArray[np.int64]:
        """Count frames by node: (nodes,) int64."""
        counts: NDArray[Any] = np.bincount(self.of(mfns), minlength=self._count)
        return counts

    def count_supers(self, supers: Frames) -> NDArray[np.int64]:
        """Count superframes by node: (nodes,) int64."""
        counts: NDArray[Any] = np.bincount(self.of_supers(supers), minlength=self._count)
        return counts


class PagesByNode:
    """What a domain holds on each node of a host of several: *pages* (nodes,) int64, which `audit` recomputes."""

    def __init__(self, index: NodeIndex, count: int) -> None:
        self._index = index
        self.pages: NDArray[np.int64] = np.zeros(count, dtype=np.int64)

    def come(self, mfns: Frames) -> None:
        """Count frames that the domain got."""
        self.pages += self._index.count(mfns)

    def go(self, mfns: Frames) -> None:
        """Count frames that the domain gave."""
        self.pages -= self._index.count(mfns)

    def come_whole(self, supers: Frames) -> None:
        """Count superframes that the domain got."""
        self.pages += self._index.count_supers(supers) << SUPER_ORDER

    def go_whole(self, supers: Frames) -> None:
        """Count superframes that the domain gave."""
        self.pages -= self._index.count_supers(supers) << SUPER_ORDER

    def count_again(self, mfns: Frames, supers: Frames) -> NDArray[np.int64]:
        """Count from single frames and leaves what *pages* should be."""
        return self._index.count(mfns) + (self._index.count_supers(supers) << SUPER_ORDER)
