"""A row of a trace from what Linux says of its memory in /proc; what a kernel does not say is left out."""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from xbd.errors import TraceError
from xbd.guest.workload.trace import ORDERS
from xbd.lab.trace.columns import (
    BALLOONED,
    COUNTS,
    FREE,
    LISTED,
    MANAGED,
    MEMORY,
    NUMBERS,
    OF_ZONEINFO,
    PRESSURE,
    SUPERFRAMES,
    SWAPPED,
    TOTAL,
)
from xbd.units import PAGE_BYTES, PAGE_KIB, SUPER_ORDER

BUDDYINFO, MEMINFO, ZONEINFO, VMSTAT, PSI = FILES = (
    "/proc/buddyinfo",
    "/proc/meminfo",
    "/proc/zoneinfo",
    "/proc/vmstat",
    "/proc/pressure/memory",
)
_TOP: Final = len(ORDERS) - 1
# Where each column comes from; the first file of a column is the one that a kernel may not have.
_SAID_BY: Final = {
    **dict.fromkeys(NUMBERS, MEMINFO),
    **dict.fromkeys((SUPERFRAMES, *ORDERS), BUDDYINFO),
    **dict.fromkeys(OF_ZONEINFO, ZONEINFO),
    **dict.fromkeys(COUNTS, VMSTAT),
    **dict.fromkeys(PRESSURE, PSI),
}


def machine_row(texts: Mapping[str, str], page_bytes: int = PAGE_BYTES) -> dict[str, int]:
    """Read what the machine says of its memory now, by column, in the order of NUMBERS.

    Args:
        texts: of those of FILES that can be read, by their paths.
        page_bytes: of the machine's own pages; the columns' are of 4 KiB.

    Raises:
        TraceError: /proc/meminfo lacks what no trace can be without.
    """
    found = {**_of_meminfo(texts[MEMINFO]), **dict(_of_buddyinfo(texts.get(BUDDYINFO, ""), page_bytes // PAGE_BYTES))}
    vmstat = _numbered(texts.get(VMSTAT, ""))
    if ORDERS[0] not in found and "nr_free_pages" in vmstat:
        # The allocator's own, as the free blocks are; MemFree may count what a balloon has taken.
        found[FREE] = vmstat["nr_free_pages"] * page_bytes // PAGE_BYTES
    found |= {column: vmstat[name] for column, names in COUNTS.items() for name in names if name in vmstat}
    for column, kind in PRESSURE.items():
        if total := re.search(rf"^{kind} .*total=(\d+)$", texts.get(PSI, ""), re.MULTILINE):
            found[column] = int(total[1])
    if "pagesets" in (zoneinfo := texts.get(ZONEINFO, "")):
        for column, line in ((LISTED, "count:"), (MANAGED, "managed")):
            own = sum(map(int, re.findall(rf"^ +{line} +(\d+)$", zoneinfo, re.MULTILINE)))
            found[column] = own * page_bytes // PAGE_BYTES
        # What a balloon has taken; other kernels do not count that as memory at all.
        found[BALLOONED] = max(found[TOTAL] - found[MANAGED], 0)
    return {column: found[column] for column in NUMBERS if column in found}


def missing(row: Mapping[str, int]) -> dict[str, list[str]]:
    """List the columns that the machine does not say, by the file that would."""
    lacking: dict[str, list[str]] = {}
    for column in NUMBERS:
        if column not in row:
            lacking.setdefault(_SAID_BY[column], []).append(column)
    return lacking


def available_bytes(texts: Mapping[str, str]) -> int:
    """Read how much memory programs can have without pressing others out. Raises TraceError: it is not there."""
    return _kib(_numbered(texts[MEMINFO]), "MemAvailable") << 10


def _numbered(text: str) -> dict[str, int]:
    """Read lines of a name and a number."""
    return {name: int(number) for name, number in re.findall(r"^([\w()]+):? +(\d+)(?: kB)?$", text, re.MULTILINE)}


def _kib(meminfo: Mapping[str, int], name: str) -> int:
    if name not in meminfo:
        raise TraceError(f"{MEMINFO}: no line {name}, a number of kB was expected: a Linux kernel says it")
    return meminfo[name]


def _of_meminfo(text: str) -> dict[str, int]:
    told = _numbered(text)
    kib = {TOTAL: _kib(told, "MemTotal"), FREE: _kib(told, "MemFree"), "page_cache_pages": _kib(told, "Cached")}
    kib |= {column: told[name] for column, name in MEMORY.items() if name in told}
    if "SwapTotal" in told and "SwapFree" in told:
        kib[SWAPPED] = told["SwapTotal"] - told["SwapFree"]
    return {column: number // PAGE_KIB for column, number in kib.items()}


def _of_buddyinfo(text: str, page_pages: int) -> Iterator[tuple[str, int]]:
    """Read the free blocks of all zones together by order, and what follows from them; nothing, where it has no such lines."""
    zones = [[int(count) for count in line.split("zone", 1)[1].split()[1:]] for line in text.splitlines()]
    if not zones or any(len(counts) != len(zones[0]) or not counts for counts in zones):
        return
    shift = page_pages.bit_length() - 1
    blocks = [0] * len(ORDERS)
    for order, count in enumerate((sum(column) for column in zip(*zones, strict=True)), start=shift):
        # A larger block than the largest here is as many of these as it has room for.
        blocks[min(order, _TOP)] += count << max(order - _TOP, 0)
    yield FREE, sum(count << order for order, count in enumerate(blocks))
    yield SUPERFRAMES, sum(count << order - SUPER_ORDER for order, count in enumerate(blocks) if order >= SUPER_ORDER)
    yield from zip(ORDERS, blocks, strict=True)
