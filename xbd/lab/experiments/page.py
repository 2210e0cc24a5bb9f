"""The report of an experiment as one HTML page: claims, plots and tables. It needs no network; pure."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from xbd.config.strategies import STRATEGIES
from xbd.lab.experiments.claims import Answer, Verdict
from xbd.lab.experiments.gains import gains_of
from xbd.lab.experiments.grid import Grid
from xbd.lab.experiments.report import render_failures
from xbd.lab.experiments.results import Results, Setting
from xbd.lab.experiments.tables import TextTable, comparisons
from xbd.units import counted

_STYLE: Final = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 78rem; margin: 2rem auto; padding: 0 1rem; color: #1b1b1b; }
h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc; }
table { border-collapse: collapse; margin: .5rem 0 1rem; display: block; overflow-x: auto; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: right; vertical-align: top; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } .claims td { text-align: left; white-space: normal; }
.about, small { color: #555; font-size: .85rem; } code { background: #f3f3f3; padding: 0 .2rem; } ul, ol { padding-left: 1.4rem; } p { max-width: 52rem; }
.verdict { font-weight: bold; white-space: nowrap !important; } .confirmed { color: #00704a; } .refuted { color: #b03000; }
.depends { color: #8a6100; } .not { color: #666; } img { max-width: 100%; } figure { margin: 1rem 0; }
"""


@dataclass(frozen=True, slots=True)
class Provenance:
    """How the experiment was run: the *command* that repeats it, and the *model* version."""

    command: str
    model: str


# For each setting, titles and SVG texts; None: matplotlib is not installed.
Plots = Mapping[Setting, Sequence[tuple[str, str]]] | None


def render_page(
    grid: Grid,
    results: Results,
    answers: Sequence[Answer],
    provenance: Provenance,
    plots: Plots,
    *,
    priced: Sequence[TextTable] = (),
) -> str:
    """Format the page; *priced*: the claims by their costs."""
    parts = [
        f"<h1>{escape(grid.name)}</h1>",
        f"<p>{escape(grid.about)}</p>" if grid.about else "",
        "<h2>Claims and answers</h2>",
        _claims(answers, provenance),
        "<h2>What each part gains</h2>",
        table_of(gains_of(results)),
        "<h2>What it costs</h2>" if priced else "",
        *map(table_of, priced),
        "<h2>How it was measured</h2>",
        *_method(grid, results, provenance),
        *(text for setting in results.settings for text in _setting(results, setting, plots)),
    ]
    return page_of(grid.name, parts)


def page_of(title: str, parts: Sequence[str]) -> str:
    """Format a whole page of HTML *parts*; empty ones are left out."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body>\n</html>\n"
    )


def _claims(answers: Sequence[Answer], provenance: Provenance) -> str:
    rows = [
        f'<tr id="claim-{escape(answer.claim.key)}"><td>{escape(answer.claim.says)}</td>{_verdict(answer.verdict)}<td>{_answer(answer, provenance)}</td></tr>'
        for answer in answers
    ]
    head = "<tr><th>The claim</th><th>Verdict</th><th>Measured</th></tr>"
    return f'<table class="claims">\n{head}\n' + "\n".join(rows) + "\n</table>"


def _verdict(verdict: Verdict) -> str:
    return f'<td class="verdict {verdict.split()[0]}">{verdict}</td>'


def _answer(answer: Answer, provenance: Provenance) -> str:
    cases = "".join(f"<li>{escape(case.sentence())}</li>" for case in answer.cases)
    repeat = (
        f"<small>seeds {', '.join(map(str, answer.seeds))}; again: <code>{escape(answer.command(provenance.command))}</code></small>"
        if answer.cases
        else ""
    )
    return f"{escape(answer.sentence())}.{f'<ul>{cases}</ul>' if cases else ''}{repeat}"


def _method(grid: Grid, results: Results, provenance: Provenance) -> Iterator[str]:
    yield (
        "<p>Every run is a machine with its guests, in one process, on virtual time: the real hypervisor and driver code,"
        " a model of a guest's kernel and programs, and nothing between them. A run depends on its settings and its seed"
        " alone. Hypercalls take no virtual time, so waits are those of the drivers (back-off, periods), and costs are"
        " counts of calls and extents. At its end every run is audited: "
        f"{escape(' '.join(render_failures(results)))}.</p>"
    )
    yield (
        f"<p>{counted(len(results.outcomes), 'run')}. Again: <code>{escape(provenance.command)}</code>"
        f" (model {escape(provenance.model)}; the same numbers on one core, on many, and on a cluster).</p>"
    )
    yield "<h3>Strategies</h3><ul>"
    yield from (f"<li><b>{one}</b>: {escape(STRATEGIES[one].about)}</li>" for one in grid.strategies)
    yield "</ul><h3>Workloads</h3><ul>"
    yield from (f"<li><b>{escape(one.name)}</b>: {escape(one.about())}</li>" for one in grid.workloads)
    yield (
        "</ul><p><b>Overcommit</b> is the guests' memory over the host's; <b>slack</b> is the share of the host that is"
        " never given out; a <b>budget</b> bounds how much a driver migrates at a time.</p>"
    )


def _setting(results: Results, setting: Setting, plots: Plots) -> Iterator[str]:
    strategies = results.strategies(setting)
    yield f"<h2>{escape(setting.label())}</h2>"
    yield f"<p>Seeds {', '.join(map(str, results.seeds(setting, strategies)))}; figures are means over them.</p>"
    yield from figures_of(None if plots is None else plots[setting])
    yield from (table_of(table) for table in comparisons(results, setting))


def figures_of(drawn: Sequence[tuple[str, str]] | None) -> Iterator[str]:
    """Format plots, titles and SVG texts, as part of a page; None: matplotlib is not installed."""
    if drawn is None:
        yield '<p class="about">No plots: matplotlib is not installed (the extra <code>plots</code>).</p>'
    for title, svg in drawn or ():
        encoded = base64.b64encode(svg.encode()).decode()
        yield f'<figure><img alt="{escape(title)}" src="data:image/svg+xml;base64,{encoded}"></figure>'


def table_of(table: TextTable) -> str:
    """Format a table as part of a page."""

    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    lines = [row(table.head, "th"), *(row(cells, "td") for cells in table.rows)]
    about = f'<p class="about">{escape(table.about)}.</p>' if table.about else ""
    return f"<h3>{escape(table.title)}</h3>\n<table>\n" + "\n".join(lines) + f"\n</table>\n{about}"
