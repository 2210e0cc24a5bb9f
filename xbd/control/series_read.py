"""A series, read: the moments of each of its runs; pure. What writes one is `xbd.control.series`."""

import csv
import zlib
from collections.abc import Iterable, Iterator
from itertools import groupby

from xbd.control.moments import Moment
from xbd.control.series import COLUMNS, HOST, header

_NUMBERS = frozenset(COLUMNS) - {"run", "kind", "name", "state"}


def runs_of(lines: Iterable[str]) -> dict[str, list[Moment]]:
    """Read a series: by run its moments, in the order of time.

    A last line without its end is one that its writer did not finish, and is left out.

    Raises:
        ValueError: it is no series; the sentence says where and why.
    """
    runs: dict[str, dict[float, Moment]] = {}
    for (run, t_s), rows in groupby(_rows(lines), key=lambda row: (row[1]["run"], float(row[1]["t_s"]))):
        moment = _moment(t_s, list(rows))
        if t_s in runs.setdefault(run, {}):
            raise ValueError(f"run {run!r} has the moment {t_s:g} s twice")
        runs[run][t_s] = moment
    if not runs:
        raise ValueError("it has no rows")
    return {run: [moments[t_s] for t_s in sorted(moments)] for run, moments in runs.items()}


def _rows(lines: Iterable[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Read the rows behind the header, each as it is written and by column."""
    names: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.endswith("\n"):
            return
        cells = next(csv.reader([line]), [])
        if not names:
            names = cells
            if missing := [name for name in ("run", "t_s", "kind", "held_pages") if name not in names]:
                raise ValueError(f"line 1 has no column {missing[0]}")
            continue
        row = dict(zip(names, cells, strict=False))
        if len(cells) != len(names):
            raise ValueError(f"line {number} has {len(cells)} cells, the header {len(names)}")
        try:
            numbers = [float(row[name] or 0) for name in names if name in _NUMBERS]
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        if any(abs(one) == float("inf") or one != one for one in numbers):  # noqa: PLR0124 - NaN is no number
            raise ValueError(f"line {number} has a number that is none")
        # As this version writes it, whatever the order of the file's columns.
        yield line if names == list(COLUMNS) else _rewritten(row), row


def _rewritten(row: dict[str, str]) -> str:
    return ",".join('"' + row.get(name, "").replace('"', '""') + '"' for name in COLUMNS) + "\n"


def _moment(t_s: float, rows: list[tuple[str, dict[str, str]]]) -> Moment:
    host = next((row for _, row in rows if row["kind"] == HOST), {})
    figures = {name: float(cell) for name, cell in host.items() if name in _NUMBERS and name != "t_s" and cell}
    text = header() + "".join(line for line, _ in rows)
    return Moment(t_s, figures, zlib.compress(text.encode(), 1))
