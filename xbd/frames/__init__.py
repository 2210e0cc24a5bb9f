"""The page-frame allocator that both the host's heap and each guest's kernel use.

Read `layout` first (superframes of 512 frames, sparse arrays, grouping), then `allocator`; `shelves` is the index
that the allocator finds partly free superframes with; `by_node` puts one allocator for each NUMA node behind the methods of one.
"""

from xbd.frames.allocator import FrameAllocator, FrameStatistics
from xbd.frames.by_node import NodeHeap
from xbd.frames.layout import Groups, expand_supers, group_by_count, group_by_super, sparse_zeros
from xbd.frames.shelves import DEFAULT_SOURCES, WHOLE, Source

__all__ = [
    "DEFAULT_SOURCES",
    "WHOLE",
    "FrameAllocator",
    "FrameStatistics",
    "Groups",
    "NodeHeap",
    "Source",
    "expand_supers",
    "group_by_count",
    "group_by_super",
    "sparse_zeros",
]
