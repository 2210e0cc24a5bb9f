"""Traces of real guests' memory: the text of a CSV file to arrays, with errors that name the line.

A trace is text with a header that names the columns and one sample per line, in the order of time.
Columns that replay does not need may be missing or extra. No file is opened here. A recorder that is killed leaves a last
line that is torn: it has no end, and lacks columns, or its last column, `utc`, lacks the Z at its end.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from xbd.abi import Frames
from xbd.errors import TraceError
from xbd.guest.workload.profiles import LONGEST_TRACE_S
from xbd.units import SUPER_PAGES, format_pages

_TIME: Final = "t_s"
_PAGES: Final = ("total_pages", "free_pages", "page_cache_pages")
_OPTIONAL: Final = "free_superframes"
# What a balloon had taken from the recorded guest: nobody's demand, and not free in its allocator either.
_BALLOONED: Final = "ballooned_pages"
_UTC: Final = "utc"
# So many of its usual steps without a sample are a gap.
_GAP_STEPS: Final = 3
# The free blocks of each order of /proc/buddyinfo; a trace has all of these columns or none.
ORDERS: Final = tuple(f"order{order}" for order in range(11))
# A year of samples every two seconds is 16 million; beyond that the file is not a trace.
_LINES_MAX: Final = 20_000_000
# Whoever plays a trace holds a page's tables of guest and host in one process; a guest as large as a domain can be would
# take more memory than most machines have.
MAX_TRACE_PAGES: Final = 1 << 26


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Trace:
    """One guest's memory over time; all arrays are (samples,).

    *seconds* float64, not falling, the first is 0 or more; the others int64 pages. *free_superframes* is empty
    where the file does not say it, and so is *free_by_order*, (samples, 11) int64 pages in free blocks of each order.
    """

    name: str
    total_pages: int
    seconds: NDArray[np.float64]
    anon_pages: Frames
    cache_pages: Frames
    free_superframes: Frames
    free_by_order: Frames

    @property
    def samples(self) -> int:
        """Count the samples."""
        return self.seconds.size

    @property
    def wear(self) -> float:
        """Tell the share of the free memory that lay in broken blocks at the first sample; 0 where the file does not say."""
        return self.wear_at(0)

    def wear_at(self, sample: int) -> float:
        """Tell the same of any sample."""
        free = self.total_pages - int(self.anon_pages[sample]) - int(self.cache_pages[sample])
        if self.free_by_order.size:
            # What a balloon had taken was free, too, and in no block.
            free = int(self.free_by_order[sample].sum())
        if not self.free_superframes.size or not free:
            return 0.0
        return max(1 - int(self.free_superframes[sample]) * SUPER_PAGES / free, 0.0)

    @property
    def gap_lines(self) -> list[int]:
        """List the lines of its file before which there is no sample for long; what the one before says holds until then."""
        return [int(at) + 3 for at in gaps_of(self.seconds)]

    @property
    def allocated_and_freed_pages(self) -> int:
        """Count the pages that a replay allocates and frees at least."""
        return sum(int(np.abs(np.diff(pages, prepend=0)).sum()) for pages in (self.anon_pages, self.cache_pages))


def gaps_of(seconds: NDArray[np.float64]) -> Frames:
    """Find the samples that the next one follows only after several usual steps: their indices."""
    steps = np.diff(seconds)
    return np.flatnonzero(steps > _GAP_STEPS * np.median(steps)) if steps.any() else np.zeros(0, dtype=np.int64)


def is_torn(text: str, cells: Sequence[str], header: Sequence[str]) -> bool:
    """Tell whether the last line of a file, split into *cells*, was not finished by its writer."""
    is_ended = text.endswith(("\n", "\r"))
    return not is_ended and (len(cells) < len(header) or (header[-1] == _UTC and not cells[-1].endswith("Z")))


def torn(name: str, number: int) -> str:
    """Say that a file's last line is torn."""
    how = "the file ends in the middle of it, as when whoever wrote it was killed"
    return f"{name}: line {number}: is torn: {how} (`xbd trace cut` writes the trace without it)"


def parse_trace(text: str, name: str) -> Trace:
    """Read a trace; *name* is what errors call the file.

    Raises:
        TraceError: naming the file, the line and the reason.
    """
    lines = text.splitlines()
    if not lines:
        raise TraceError(f"{name}: line 1: the file is empty, a header was expected ({_TIME},{','.join(_PAGES)})")
    if len(lines) > _LINES_MAX:
        raise TraceError(f"{name}: {len(lines)} lines, at most {_LINES_MAX} are read")
    header = [column.strip() for column in lines[0].lstrip("\ufeff").split(",")]
    missing = [column for column in (_TIME, *_PAGES) if header.count(column) != 1]
    if missing:
        raise TraceError(f"{name}: line 1: the header has no (single) column {', '.join(missing)}")
    missing = [column for column in ORDERS if header.count(column) != 1]
    if 0 < len(missing) < len(ORDERS) or any(header.count(column) > 1 for column in ORDERS):
        raise TraceError(
            f"{name}: line 1: the header has no (single) column {', '.join(missing)}: all of {ORDERS[0]} to {ORDERS[-1]} or none"
        )
    optional = [column for column in (_BALLOONED, _OPTIONAL, *ORDERS) if header.count(column) == 1]
    wanted = [header.index(column) for column in (_TIME, *_PAGES, *optional)]
    if len(lines) > 1 and is_torn(text, lines[-1].split(","), header):
        raise TraceError(torn(name, len(lines)))
    rows = _parse_rows(lines, name, header, wanted)
    return _checked(rows, name, optional)


def _parse_rows(lines: list[str], name: str, header: list[str], wanted: list[int]) -> NDArray[np.float64]:
    """Read the numbers: (samples, columns) float64, exact for whole numbers of pages; row i is line i + 2."""
    # As numbers of the machine: a list of lists would take ten times as much.
    numbers = array("d")
    for number, line in enumerate(lines[1:], start=2):
        cells = line.split(",")
        if len(cells) != len(header):
            raise TraceError(f"{name}: line {number}: {len(cells)} columns, {len(header)} were expected: {line[:80]!r}")
        try:
            row = [float(cells[wanted[0]]), *(int(cells[column]) for column in wanted[1:])]
        except ValueError:
            raise TraceError(f"{name}: line {number}: not a number of seconds and whole pages: {line[:80]!r}") from None
        if not 0 <= row[0] <= LONGEST_TRACE_S or not all(0 <= pages <= MAX_TRACE_PAGES for pages in row[1:]):
            said = f"up to {LONGEST_TRACE_S:g} seconds and {MAX_TRACE_PAGES} pages ({format_pages(MAX_TRACE_PAGES)}) are played"
            raise TraceError(f"{name}: line {number}: a number is out of range, {said}: {line[:80]!r}")
        numbers.extend(row)
    if not numbers:
        raise TraceError(f"{name}: line 2: the trace has no samples")
    return np.frombuffer(numbers, dtype=np.float64).reshape(-1, len(wanted))


def _checked(rows: NDArray[np.float64], name: str, optional: list[str]) -> Trace:
    """Check what one line says against the others, and split the columns; those behind the first are *optional*."""

    def refuse(mask: NDArray[np.bool_], reason: str) -> None:
        if mask.any():
            raise TraceError(f"{name}: line {int(mask.argmax()) + 2}: {reason}")

    pages = rows[:, 1:].astype(np.int64)
    total, free, cache = pages[:, 0], pages[:, 1], pages[:, 2]
    refuse(np.diff(rows[:, 0], prepend=0.0) < 0, "time runs backwards")
    refuse(total != total[0], f"total_pages changes (it was {int(total[0])})")
    refuse(total == 0, "total_pages is 0")
    refuse(free + cache > total, "free_pages and page_cache_pages are more than total_pages")
    ballooned = pages[:, 3] if _BALLOONED in optional else np.zeros_like(total)
    refuse(
        free + cache + ballooned > total, "free_pages, page_cache_pages and ballooned_pages are more than total_pages"
    )
    supers = pages[:, 3 + optional.index(_OPTIONAL)] if _OPTIONAL in optional else pages[:0, 0]
    by_order = pages[:, -len(ORDERS) :] << np.arange(len(ORDERS)) if ORDERS[0] in optional else pages[:0]
    if by_order.size:
        refuse(by_order.sum(axis=1) > total, "the free blocks of all orders are more than total_pages")
    return Trace(
        name, int(total[0]), rows[:, 0].copy(), total - free - cache - ballooned, cache.copy(), supers.copy(), by_order
    )
