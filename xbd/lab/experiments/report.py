"""The text report of an experiment: the claims, then a comparison of the strategies for each setting; pure."""

import textwrap
from collections.abc import Sequence
from typing import Final

from xbd.lab.experiments.claims import Answer
from xbd.lab.experiments.gains import gains_of
from xbd.lab.experiments.grid import Grid
from xbd.lab.experiments.results import Results
from xbd.lab.experiments.tables import TextTable, comparisons
from xbd.units import counted

_WIDTH: Final = 118


def render(grid: Grid, results: Results, answers: Sequence[Answer], priced: Sequence[TextTable] = ()) -> str:
    """Format the whole report for a terminal; *priced*: the claims by their costs."""
    lines = [f"{grid.name}: {counted(len(results.outcomes), 'cell')}, {len(results.failed)} failed"]
    lines += [*_wrapped(grid.about), ""] if grid.about else [""]
    for answer in answers:
        lines += _answer(answer)
    lines += ["", *table_lines(gains_of(results))]
    for table in priced:
        lines += ["", *table_lines(table), *_wrapped(table.about + ".", "  ")]
    for setting in results.settings:
        strategies = results.strategies(setting)
        seeds = ", ".join(map(str, results.seeds(setting, strategies)))
        lines += ["", f"== {setting.label()} (seeds {seeds})"]
        for table in comparisons(results, setting):
            lines += ["", *table_lines(table)]
    lines += ["", *render_failures(results)]
    return "\n".join(lines)


def render_failures(results: Results) -> list[str]:
    """List the failed cells and what was wrong in each."""
    lines = []
    for outcome in results.failed:
        errors = outcome.summary["content_errors"]
        lines.append(f"FAILED {outcome.cell.label()}: {errors} content errors, {len(outcome.violations)} violations")
        lines += [f"  {violation}" for violation in outcome.violations]
    return lines or ["every cell's audit is clean"]


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(" ".join(text.split()), _WIDTH, initial_indent=indent, subsequent_indent=indent)


def _answer(answer: Answer) -> list[str]:
    lines = [f"[{answer.verdict}] {answer.claim.says}", *_wrapped(f"measured: {answer.sentence()}", "    ")]
    return lines + [f"      {case.sentence()}" for case in answer.cases]


def table_lines(table: TextTable) -> list[str]:
    """Format a table for a terminal; the first column is aligned left, the others right."""
    widths = [max(len(row[at]) for row in (table.head, *table.rows)) for at in range(len(table.head))]

    def line(row: tuple[str, ...]) -> str:
        cells = [f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)]
        return "  ".join([f"{row[0]:{widths[0]}}", *cells]).rstrip()

    return [f"{table.title}:", *(f"  {line(row)}" for row in (table.head, *table.rows))]
