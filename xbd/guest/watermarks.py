"""The free pages that a guest's kernel keeps in reserve, as Linux computes them.

Source: Linux mm/page_alloc.c, __setup_per_zone_wmarks; mm/khugepaged.c, set_recommended_min_free_kbytes.
"""

from dataclasses import dataclass
from math import isqrt
from typing import Final

from xbd.units import PAGE_KIB, SUPER_PAGES

# Below 512 MiB a guest is a miniature of a real one.
SMALLEST_REAL_PAGES: Final = 1 << 17
# Linux: min_free_kbytes = sqrt(16 * lowmem_kbytes), between these two; the gap to the next
# watermark is a quarter of it, or watermark_scale_factor (0.1 %) of the zone if that is more.
_MIN_FREE_KIB_FLOOR = 128
_MIN_FREE_KIB_CEILING = 262_144
_ZONE_PER_GAP = 1000
# With huge pages, so many blocks for each of Linux's zones (DMA, DMA32, and Normal in what has more than 4 GiB): two, and
# one for each pair of its three mobilities; but at most a twentieth of memory.
_BLOCKS_PER_ZONE = 2 + 3 * 3
_ZONES = 3
_LOW_ZONES_PAGES = 1 << 20
_HUGE_SHARE_MOST = 20


@dataclass(frozen=True, slots=True)
class Watermarks:
    """Free pages below which an allocation fails (min), the balloon stops (low), page cache stops growing (high)."""

    min_pages: int
    low_pages: int
    high_pages: int


def watermarks_of(gfn_count: int, *, huge_pages: bool = True) -> Watermarks:
    """Compute the watermarks as Linux does, with transparent huge pages or without; a miniature reserves at most an eighth."""
    min_kib = isqrt(gfn_count * PAGE_KIB * 16)
    min_pages = min(max(min_kib, _MIN_FREE_KIB_FLOOR), _MIN_FREE_KIB_CEILING) // PAGE_KIB
    if huge_pages and gfn_count >= SMALLEST_REAL_PAGES:
        zones = _ZONES if gfn_count > _LOW_ZONES_PAGES else _ZONES - 1
        min_pages = max(min_pages, min(zones * _BLOCKS_PER_ZONE * SUPER_PAGES, gfn_count // _HUGE_SHARE_MOST))
    min_pages = min(min_pages, gfn_count // 8)
    gap = max(min_pages // 4, gfn_count // _ZONE_PER_GAP)
    return Watermarks(min_pages, min_pages + gap, min_pages + 2 * gap)
