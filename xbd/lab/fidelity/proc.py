"""A row of a trace from what Linux says of its memory: /proc/buddyinfo, /proc/meminfo and /proc/zoneinfo."""

import re
from collections.abc import Sequence
from typing import Final

from xbd.errors import TraceError
from xbd.guest.workload.trace import ORDERS
from xbd.units import PAGE_KIB, SUPER_ORDER

FILES: Final = ("/proc/buddyinfo", "/proc/meminfo", "/proc/zoneinfo")
# The columns, each with its line of /proc/meminfo.
_MEMINFO: Final = {
    "page_cache_pages": "Cached",
    "anon_pages": "AnonPages",
    "slab_pages": "Slab",
    "unreclaimable_slab_pages": "SUnreclaim",
}
HEADER: Final = (
    "t_s",
    "total_pages",
    "free_pages",
    "free_superframes",
    *_MEMINFO,
    *ORDERS,
    "listed_pages",
    "managed_pages",
)


def row_of(seconds: float, texts: Sequence[str]) -> str:
    """Format a line of a trace from the texts of FILES, in their order; its columns are HEADER's.

    Raises:
        TraceError: naming the file, and what it lacks.
    """
    buddyinfo, meminfo, zoneinfo = texts
    total, *of_meminfo = (_kib(meminfo, name) // PAGE_KIB for name in ("MemTotal", *_MEMINFO.values()))
    blocks = [sum(column) for column in zip(*_zones(buddyinfo), strict=True)]
    free = sum(count << order for order, count in enumerate(blocks))
    supers = sum(count << order - SUPER_ORDER for order, count in enumerate(blocks) if order >= SUPER_ORDER)
    # What the allocator manages is less than MemTotal by what a balloon has taken from it.
    listed, managed = (
        sum(map(int, re.findall(rf"^ +{name} +(\d+)$", zoneinfo, re.MULTILINE))) for name in ("count:", "managed")
    )
    if "pagesets" not in zoneinfo:
        raise TraceError(
            "/proc/zoneinfo: no pagesets, the lists of the processors were expected: a Linux kernel says them"
        )
    return ",".join(map(str, (round(seconds, 2), total, free, supers, *of_meminfo, *blocks, listed, managed)))


def available_bytes(meminfo: str) -> int:
    """Read how much memory programs can have without pressing others out. Raises TraceError: it is not there."""
    return _kib(meminfo, "MemAvailable") << 10


def _kib(meminfo: str, name: str) -> int:
    found = re.search(rf"^{name}: +(\d+) kB$", meminfo, re.MULTILINE)
    if found is None:
        raise TraceError(f"/proc/meminfo: no line {name}, a number of kB was expected: a Linux kernel says it")
    return int(found[1])


def _zones(buddyinfo: str) -> list[list[int]]:
    """Read the number of free blocks of each order, zone by zone."""
    zones = [[int(count) for count in line.split("zone", 1)[1].split()[1:]] for line in buddyinfo.splitlines()]
    if not zones or any(len(counts) != len(ORDERS) for counts in zones):
        raise TraceError(
            f"/proc/buddyinfo: {len(ORDERS)} orders of free blocks were expected for each zone: measure on Linux with"
            " blocks of up to 4 MiB"
        )
    return zones
