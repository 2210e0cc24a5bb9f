"""The past of a guest that has been up for long: programs came and went while files were read, and their pages lie apart."""

from collections.abc import Callable
from typing import Final

from xbd.guest.procedures import Procedure
from xbd.guest.workload.profiles import Goals
from xbd.guest.zone import Zone

# A program of the past takes this part of the free memory and what is broken of it, at most this part, and grows in so
# many steps while this part of it is read as files; and the most of such programs.
_PROGRAM: Final = 0.25
_PROGRAM_MOST: Final = 0.85
_FILES: Final = 0.1
_STEPS: Final = 8
_LOADS_MOST: Final = 50
# What such a program and its files break of the free memory, about; the last one is a part of that, not less than this.
_WEARS: Final = 0.3
_PART_LEAST: Final = 0.1
# How exactly wear is reached: a past is made of loads.
_WEAR_EXACT: Final = 0.02


def live_through(wear: float, goals: Goals, zone: Zone, reach: Callable[[Goals], Procedure]) -> Procedure:
    """Let programs come and go until the share *wear* of the free memory lies in broken blocks.

    *goals* are held meanwhile; *reach* reaches others.
    """
    for _ in range(_LOADS_MOST):
        worn = zone.broken_share
        if worn > wear - _WEAR_EXACT or not zone.free.free_frames:
            break
        # A program that fits in the broken blocks breaks no others.
        part = min(max((wear - worn) / _WEARS, _PART_LEAST), 1)
        spare = zone.spare_pages(zone.watermarks.high_pages)
        program = int(spare * min(worn + part * _PROGRAM, _PROGRAM_MOST))
        files = min(int(part * spare * _FILES), goals.cache_pages)
        growing = ((program * step // _STEPS, files * step // _STEPS) for step in range(1, _STEPS + 1))
        # It grows while files are read, and ends; then files that were not read for long are dropped.
        for anon, cache in (*growing, (0, files), (0, 0)):
            yield from reach(Goals(goals.anon_pages + anon, goals.cache_pages + cache, goals.kernel_pages))
