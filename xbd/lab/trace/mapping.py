"""Any CSV: which of its columns is which of a trace's, and in what unit, is said by whoever imports it."""

import csv
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from xbd.errors import BadArgument, TraceError, unknown_name
from xbd.lab.trace.columns import NUMBERS, REQUIRED, TIME, TOTAL
from xbd.lab.trace.samples import Imported, Sample, make_trace, refuse_given
from xbd.units import PAGE_BYTES

# What a number is multiplied by to become pages; kB are KiB, as in /proc/meminfo.
_UNITS: Final = {
    "B": 1 / PAGE_BYTES,
    **dict.fromkeys(("kB", "KB", "KiB"), 1024 / PAGE_BYTES),
    "MiB": (1 << 20) / PAGE_BYTES,
    "GiB": (1 << 30) / PAGE_BYTES,
    "pages": 1.0,
}
_PERCENT: Final = "%"
_DAY_S: Final = 86_400.0
_EXPECTED: Final = (
    "NAME=COLUMN or NAME=COLUMN*SCALE, where SCALE is a number, a fraction as 1/4096, B, kB, MiB, GiB or %"
)
_MISSING: Final = frozenset({"", "-", "nan", "null", "none", "n/a", "na"})
_STAMP: Final = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d(?:\.\d{1,6})?)(Z|[+-]\d\d:?\d\d)?")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a trace's column comes from: a *column*, and the *scale* of its numbers; None: they are per cent of all memory."""

    column: str
    scale: float | None = 1.0


def parse_mapping(written: Sequence[str]) -> dict[str, Source]:
    """Read what comes from where. Raises BadArgument."""
    mapping: dict[str, Source] = {}
    for one in written:
        name, equals, rest = one.partition("=")
        column, _, scale = rest.rpartition("*") if "*" in rest else (rest, "", "1")
        if not equals or not column:
            raise BadArgument(f"--column {one!r}", _EXPECTED)
        if name not in (TIME, *NUMBERS):
            raise unknown_name("column of a trace", name, (TIME, *NUMBERS))
        if name in mapping:
            raise BadArgument(f"--column {one!r}", f"{name} once")
        mapping[name] = Source(column, _scale(scale, one))
    if lacking := [name for name in (TIME, *REQUIRED) if name not in mapping]:
        raise BadArgument(f"no --column {', '.join(lacking)}", "each of what a trace cannot be without")
    if mapping[TOTAL].scale is None:
        raise BadArgument("--column total_pages in per cent", "an amount of memory")
    return mapping


def _scale(written: str, one: str) -> float | None:
    if written == _PERCENT:
        return None
    if written in _UNITS:
        return _UNITS[written]
    above, _, below = written.partition("/")
    try:
        scale = float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        scale = math.nan
    if not (math.isfinite(scale) and scale > 0):
        raise BadArgument(f"--column {one!r}", _EXPECTED)
    return scale


@dataclass(frozen=True, slots=True)
class Clock:
    """Reads times: numbers of seconds, and dates, which tell a zone or are of *zone*.

    *offset_s*: how far that is ahead of UTC, by seconds since the epoch.
    """

    zone: str = ""
    offset_s: Callable[[float], float] | None = None

    def seconds(self, written: str, scale: float, at: str) -> float:
        """Read a time. Raises TraceError."""
        if (stamp := _STAMP.fullmatch(written)) is None:
            try:
                number = float(written) * scale
            except ValueError:
                number = math.nan
            if not math.isfinite(number):
                raise TraceError(
                    f"{at}: its time is {written[:40]!r}: seconds, or a date as 2026-01-31T12:00:00+01:00, was expected"
                )
            return number
        day, clock, offset = stamp.groups()
        try:
            local = float(np.datetime64(f"{day}T{clock}", "us").astype(np.int64)) / 1e6
        except ValueError as error:
            raise TraceError(f"{at}: there is no such time: {written[:40]!r}") from error
        if offset is not None:
            return local - _offset_s(offset)
        return local - self._offset_here_s(local, written, at)

    def _offset_here_s(self, local: float, written: str, at: str) -> float:
        """Tell how far the zone is ahead of UTC at a local time, which is there once."""
        if self.offset_s is None:
            raise TraceError(f"{at}: {written!r} tells no zone: say it with --zone, such as Europe/Berlin, or UTC")
        guesses = {self.offset_s(local + day_s) for day_s in (-_DAY_S, 0.0, _DAY_S)}
        fitting = [guess for guess in guesses if self.offset_s(local - guess) == guess]
        if len(fitting) != 1:
            often = "twice" if fitting else "never"
            raise TraceError(
                f"{at}: {written!r} is there {often} in {self.zone}, as clocks are set; a time with its zone was expected"
            )
        return fitting[0]


ANY_CLOCK: Final = Clock()


def import_csv(
    text: str, name: str, mapping: Mapping[str, Source], delimiter: str = ",", clock: Clock = ANY_CLOCK
) -> Imported:
    """Make a trace of a CSV by a mapping. Raises TraceError, naming the line."""
    refuse_given(text, name)
    rows = csv.reader(text.lstrip("\ufeff").splitlines(), delimiter=delimiter)
    header = [column.strip() for column in next(rows, [])]
    for source in mapping.values():
        if header.count(source.column) != 1:
            known = ", ".join(header)[:200]
            raise TraceError(f"{name}: line 1: the header has no (single) column {source.column!r}; it has {known}")
    columns = {own: (header.index(source.column), source.scale) for own, source in mapping.items()}
    samples = []
    try:
        for row in rows:
            at = f"{name}: line {rows.line_num}"
            if row and len(row) != len(header):
                raise TraceError(f"{at}: {len(row)} columns, {len(header)} were expected")
            if any(cell.strip() for cell in row):
                samples.append(_sample(row, at, columns, clock))
    except csv.Error as error:
        raise TraceError(f"{name}: line {rows.line_num}: {error}") from error
    return make_trace(samples, name)


def _sample(row: Sequence[str], at: str, columns: Mapping[str, tuple[int, float | None]], clock: Clock) -> Sample:
    numbers: dict[str, float] = {}
    for own, (column, scale) in sorted(columns.items(), key=lambda one: one[0] != TOTAL):
        cell = row[column].strip()
        if own == TIME or cell.lower() in _MISSING:
            continue
        try:
            number = float(cell)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise TraceError(f"{at}: {own} is {cell[:40]!r}, a number was expected: its unit is said by --column")
        if scale is not None:
            numbers[own] = number * scale
        elif TOTAL in numbers:
            numbers[own] = number / 100 * numbers[TOTAL]
    seconds = clock.seconds(row[columns[TIME][0]].strip(), columns[TIME][1] or 1.0, at)
    return Sample(at.rpartition(": ")[2], seconds, numbers)


def _offset_s(written: str) -> float:
    if written == "Z":
        return 0.0
    sign = -1 if written[0] == "-" else 1
    return sign * (int(written[1:3]) * 3600 + int(written[-2:]) * 60)
