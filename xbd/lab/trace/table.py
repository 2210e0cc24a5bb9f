"""A trace's file with all of its columns, those that nobody here knows, too; and how one is written."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from xbd.errors import TraceError
from xbd.guest.workload.trace import is_torn, torn
from xbd.lab.trace.columns import NUMBERS, REQUIRED, TIME, UTC, UTC_END

# The first line of a file that says what a trace is.
_EXPECTED: Final = f"a header was expected ({TIME},{','.join(REQUIRED)})"


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A file, row by row; row i is line i + 2.

    *cells* as they are written; *numbers* (rows,) float64, by column, of those that are known; *torn*: what is said of a last
    line that its writer did not finish, and that is no row; empty where there is none.
    """

    name: str
    header: tuple[str, ...]
    cells: list[list[str]]
    numbers: dict[str, NDArray[np.float64]]
    torn: str = ""

    @property
    def seconds(self) -> NDArray[np.float64]:
        """The time of each row."""
        return self.numbers[TIME]

    def utc_seconds(self) -> NDArray[np.float64]:
        """Read the UTC of each row, as seconds since the epoch; NaN where it cannot be read, empty where it is not told."""
        if UTC not in self.header:
            return np.zeros(0)
        at = self.header.index(UTC)
        return np.array([_epoch(row[at]) for row in self.cells])


def parse_table(text: str, name: str) -> Table:
    """Read a trace's file; *name* is what errors call it.

    Raises:
        TraceError: it has no header, no row, or a line that is no row, other than a torn last one; naming the line.
    """
    lines = text.splitlines()
    header = tuple(column.strip() for column in lines[0].lstrip("\ufeff").split(",")) if lines else ()
    if not lines or not lines[0].strip():
        raise TraceError(f"{name}: line 1: the file is empty, {_EXPECTED}")
    if lacking := [column for column in (TIME, *REQUIRED) if header.count(column) != 1]:
        raise TraceError(f"{name}: line 1: the header has no (single) column {', '.join(lacking)}: {_EXPECTED}")
    rows, said = [line.split(",") for line in lines[1:]], ""
    if rows and is_torn(text, rows[-1], header):
        said = torn(name, len(lines))
        rows.pop()
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise TraceError(
                f"{name}: line {number}: {len(row)} columns, {len(header)} were expected: {lines[number - 1][:80]!r}"
            )
    if not rows:
        raise TraceError(said or f"{name}: line 2: the trace has no samples")
    known = [(at, column) for at, column in enumerate(header) if column in (TIME, *NUMBERS)]
    return Table(name, header, rows, {column: _numbers(rows, at, column, name) for at, column in known}, said)


def _numbers(rows: list[list[str]], at: int, column: str, name: str) -> NDArray[np.float64]:
    try:
        found = np.array([float(row[at]) for row in rows])
    except ValueError:
        found = np.full(len(rows), np.nan)
    if not np.isfinite(found).all():
        number = next(number for number, row in enumerate(rows, start=2) if not _is_number(row[at]))
        raise TraceError(f"{name}: line {number}: {column} is {rows[number - 2][at][:40]!r}, a number was expected")
    return found


def _is_number(cell: str) -> bool:
    try:
        return bool(np.isfinite(float(cell)))
    except ValueError:
        return False


def header_text(columns: Iterable[str]) -> str:
    """Format the first line of a trace that tells UTC."""
    return ",".join((TIME, *columns, UTC)) + "\n"


def row_text(seconds: float, numbers: Sequence[int], utc_s: float | None = None) -> str:
    """Format a row, without its end of line; *utc_s*: seconds since the epoch, None where the trace does not tell them."""
    cells = [str(round(seconds, 2)), *map(str, numbers)]
    return ",".join(cells if utc_s is None else [*cells, utc_text(utc_s)])


def utc_text(utc_s: float) -> str:
    """Format seconds since the epoch, to the millisecond."""
    return f"{np.datetime64(round(utc_s * 1000), 'ms')}{UTC_END}"


def _epoch(cell: str) -> float:
    try:
        return float(np.datetime64(cell.removesuffix(UTC_END), "ms").astype(np.int64)) / 1000
    except ValueError:
        return float("nan")


def table_text(table: Table) -> str:
    """Write a table, every row whole."""
    return "".join(",".join(row) + "\n" for row in (table.header, *table.cells))
