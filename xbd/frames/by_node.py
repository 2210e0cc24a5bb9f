"""A heap whose superframes belong to nodes by range: an allocator for each, behind the methods of one.

Frames and superframes are numbered through all of it; each part numbers its own from 0. A host of one node has a
`FrameAllocator` instead, and pays nothing for what is here.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Generic

import numpy as np
from numpy.typing import NDArray

from xbd.frames.allocator import FrameAllocator, FrameStatistics, FrameT, ShelfOf, SuperT
from xbd.frames.layout import Groups, Indexes
from xbd.units import SUPER_ORDER


def _shelf_of(shelf_of: ShelfOf, first: int, supers: Indexes) -> Indexes:
    return shelf_of(supers + first)


class NodeHeap(Generic[FrameT, SuperT]):
    """Whole superframes of several nodes, all free at first; see `FrameAllocator` for what the methods do.

    Args:
        superframes: of each node.
        shelf_of: for (n,) superframes, numbered through all nodes, the shelf of each; None: all on shelf 0.
        high_first: whether the highest frames of a node are taken first.
    """

    def __init__(
        self, superframes: Sequence[int], *, shelf_of: ShelfOf | None = None, high_first: bool = False
    ) -> None:
        self._ends = np.cumsum(superframes)
        self._firsts: list[int] = (self._ends - superframes).tolist()
        self.superframe_count = sum(superframes)
        self.frame_count = self.superframe_count << SUPER_ORDER
        self._parts: list[FrameAllocator[Any, Any]] = []
        for first, count in zip(self._firsts, superframes, strict=True):
            own = None if shelf_of is None else partial(_shelf_of, shelf_of, first)
            self._parts.append(FrameAllocator(count << SUPER_ORDER, shelf_of=own, high_first=high_first))

    # -- queries

    @property
    def free_frames(self) -> int:
        """Count the free frames."""
        return sum(part.free_frames for part in self._parts)

    @property
    def free_superframes(self) -> int:
        """Count the superframes that are free as a whole."""
        return sum(part.free_superframes for part in self._parts)

    def free_on(self, node: int) -> int:
        """Count the free frames of a node."""
        return self._parts[node].free_frames

    def free_superframes_on(self, node: int) -> int:
        """Count the superframes of a node that are free as a whole."""
        return self._parts[node].free_superframes

    @property
    def free_count(self) -> NDArray[np.uint16]:
        """Spell out how many frames of each superframe are free: (superframes,) uint16, a copy."""
        return np.concatenate([part.free_count for part in self._parts])

    def free_counts(self, supers: NDArray[SuperT]) -> NDArray[np.uint16]:
        """Tell how many frames of (n,) superframes are free: (n,) uint16."""
        counts = np.empty(supers.size, dtype=np.uint16)
        for part, first, mine in self._split(supers, 0):
            counts[mine] = part.free_count[supers[mine] - first]
        return counts

    def is_free(self, frames: NDArray[FrameT]) -> NDArray[np.bool_]:
        """Say for each frame whether it is free: (n,) bool."""
        free = np.empty(frames.size, dtype=np.bool_)
        for part, first, mine in self._split(frames, SUPER_ORDER):
            free[mine] = part.is_free(frames[mine] - first)
        return free

    # -- taking

    def take_on(self, node: int, count: int) -> NDArray[FrameT]:
        """Take up to *count* single frames of a node."""
        frames: NDArray[Any] = self._parts[node].take(count) + (self._firsts[node] << SUPER_ORDER)
        return frames

    def take_superframes_on(self, node: int, count: int) -> NDArray[SuperT]:
        """Take up to *count* whole superframes of a node."""
        supers: NDArray[Any] = self._parts[node].take_superframes(count) + self._firsts[node]
        return supers

    def take_exactly(self, frames: NDArray[FrameT], groups: Groups[SuperT] | None = None) -> None:
        """Take just these frames, each free and named once."""
        del groups
        for part, first, mine in self._split(frames, SUPER_ORDER):
            part.take_exactly(frames[mine] - first)

    def take_superframes_exactly(self, supers: NDArray[SuperT]) -> None:
        """Take just these superframes, each wholly free and named once."""
        for part, first, mine in self._split(supers, 0):
            part.take_superframes_exactly(supers[mine] - first)

    # -- giving back

    def give(self, frames: NDArray[FrameT], groups: Groups[SuperT] | None = None) -> None:
        """Free these frames, in any order, each used and named once; whole superframes merge."""
        del groups
        for part, first, mine in self._split(frames, SUPER_ORDER):
            part.give(frames[mine] - first)

    def give_superframes(self, supers: NDArray[SuperT]) -> None:
        """Free whole superframes, each wholly used and named once."""
        for part, first, mine in self._split(supers, 0):
            part.give_superframes(supers[mine] - first)

    # -- bookkeeping

    def reshelve(self, supers: NDArray[SuperT]) -> None:
        """Note that `shelf_of` may answer otherwise than before for these superframes."""
        for part, first, mine in self._split(supers, 0):
            part.reshelve(supers[mine] - first)

    def statistics(self) -> FrameStatistics:
        """Count frames and superframes by state."""
        counts = [part.statistics() for part in self._parts]
        return FrameStatistics(*(sum(getattr(one, name) for one in counts) for name in FrameStatistics.__slots__))

    def check(self) -> list[str]:
        """Recompute every counter from the detail and say what disagrees; empty when all is well."""
        return [f"node {node}: {line}" for node, part in enumerate(self._parts) for line in part.check()]

    def _split(self, indexes: Indexes, shift: int) -> Iterator[tuple[FrameAllocator[Any, Any], int, Any]]:
        """Split indexes of frames (shift 9) or superframes (0) by node: allocator, its first index, and which are its."""
        if indexes.size == 0:
            return
        nodes = self._ends.searchsorted(indexes >> shift, side="right")
        lowest = int(np.minimum.reduce(nodes))
        if lowest == int(np.maximum.reduce(nodes)):
            yield self._parts[lowest], self._firsts[lowest] << shift, slice(None)
            return
        for node in np.unique(nodes).tolist():
            yield self._parts[node], self._firsts[node] << shift, nodes == node
