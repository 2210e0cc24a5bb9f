"""A trace as people look at it: figures, and its shape over time in text."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

from xbd.guest.workload import Trace
from xbd.lab.trace.columns import COUNTERS, PRESSURE, UTC
from xbd.lab.trace.findings import Finding, summary, usual_step_s
from xbd.lab.trace.table import Table
from xbd.units import format_pages

_PERCENTILES: Final = {"least": 0, "median": 50, "p95": 95, "most": 100}
# What the text plot is drawn with, from below.
PROGRAMS, CACHE, FREE = LETTERS = ("#", "=", ".")


def figures(table: Table, trace: Trace, found: list[Finding]) -> dict[str, Any]:
    """Tell what a trace holds, as a map for JSON."""
    length_s = float(trace.seconds[-1] - trace.seconds[0])
    told: dict[str, Any] = {
        "file": table.name,
        "samples": trace.samples,
        "seconds": length_s,
        "step_s": usual_step_s(table),
        "from": table.cells[0][-1] if UTC in table.header else None,
        "total_pages": trace.total_pages,
        "programs_pages": _spread(trace.anon_pages),
        "cache_pages": _spread(trace.cache_pages),
        "wear": trace.wear if trace.free_superframes.size else None,
        "counters": {column: rise(table, column) for column in COUNTERS if column in table.numbers},
        "columns": list(table.header),
        "found": summary(found),
    }
    return told


def _spread(pages: Any) -> dict[str, int]:  # noqa: ANN401 - an array of pages
    return {name: int(np.percentile(pages, percent)) for name, percent in _PERCENTILES.items()}


def rise(table: Table, column: str) -> int:
    """Tell by how much a counter rose in all, resets apart."""
    steps = np.diff(table.numbers[column])
    return int(steps[steps > 0].sum())


def figure_lines(told: Mapping[str, Any]) -> Iterator[str]:
    """Format what `figures` tells."""
    begins = f", from {told['from']}" if told["from"] else ""
    yield f"{told['file']}: {told['samples']} samples in {told['seconds']:g} s, one every {told['step_s']:g} s{begins}"
    yield f"memory: {format_pages(told['total_pages'])} ({told['total_pages']} pages)"
    for name, words in (("programs_pages", "programs and kernel"), ("cache_pages", "page cache")):
        yield f"{words}: " + ", ".join(f"{key} {format_pages(pages)}" for key, pages in told[name].items())
    if told["wear"] is not None:
        yield f"wear: {told['wear']:.1%} of the free memory lay in broken blocks at first"
    for column, rose in told["counters"].items():
        of_time = f", {rose / 1e6 / told['seconds']:.2%} of the time" if column in PRESSURE and told["seconds"] else ""
        yield f"{column}: +{rose:,}{of_time}"
    yield f"found: {told['found']}"


def text_plot(trace: Trace, width: int, height: int) -> list[str]:
    """Draw what programs hold, the page cache and what is free, one on the other, over time; each column the most of its time."""
    width = max(min(width - 9, trace.samples), 1)
    edges = np.linspace(float(trace.seconds[0]), float(trace.seconds[-1]), width + 1)
    column_of = np.clip(np.searchsorted(edges, trace.seconds, side="right") - 1, 0, width - 1)
    programs, used = np.full(width, -1, dtype=np.int64), np.full(width, -1, dtype=np.int64)
    np.maximum.at(programs, column_of, trace.anon_pages)
    np.maximum.at(used, column_of, trace.anon_pages + trace.cache_pages)
    lines = []
    for row in range(height, 0, -1):
        level = (row - 0.5) / height * trace.total_pages
        cells = [
            " " if held < 0 else PROGRAMS if held > level else CACHE if taken > level else FREE
            for held, taken in zip(programs.tolist(), used.tolist(), strict=True)
        ]
        label = format_pages(round(trace.total_pages * row / height)) if row in (height, (height + 1) // 2) else ""
        lines.append(f"{label:>8} " + "".join(cells))
    length = f"{float(trace.seconds[-1]):g} s"
    first = f"{float(trace.seconds[0]):g} s"
    lines.append(" " * 9 + first + length.rjust(max(width - len(first), len(length) + 1)))
    lines.append(f"{PROGRAMS} programs and kernel  {CACHE} page cache  {FREE} free  (blank: no sample)")
    return lines
