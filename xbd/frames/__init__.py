"""Page frames: the two-level allocator that the host's heap and each guest's kernel stand on."""

from xbd.frames.allocator import DEFAULT_SOURCES, WHOLE, FrameAllocator, FrameStatistics, Source
from xbd.frames.layout import Groups, expand_supers, group_by_super, sparse_zeros

__all__ = [
    "DEFAULT_SOURCES",
    "WHOLE",
    "FrameAllocator",
    "FrameStatistics",
    "Groups",
    "Source",
    "expand_supers",
    "group_by_super",
    "sparse_zeros",
]
