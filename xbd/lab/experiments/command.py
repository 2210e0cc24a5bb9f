"""`xbd experiment`: reads a grid file, runs it, and writes the results."""

from collections.abc import Callable, Sequence
from pathlib import Path
from shlex import quote
from typing import Any, Final, TypeVar

import click

from xbd.cli.common import Failure, emit, json_option
from xbd.cli.series_file import series_file, series_option
from xbd.config.strategies import STRATEGIES
from xbd.daemons.config_files import read_text
from xbd.daemons.trace_files import read_trace
from xbd.errors import TraceError, XbdError
from xbd.lab.costs.shell.files import read_prices
from xbd.lab.experiments.claims import judge
from xbd.lab.experiments.grid import Grid
from xbd.lab.experiments.page import Plots, Provenance, render_page
from xbd.lab.experiments.plan import parse_grid
from xbd.lab.experiments.priced import priced_tables
from xbd.lab.experiments.report import render, render_failures
from xbd.lab.experiments.results import Results, as_csv, series_rows, summary_rows
from xbd.lab.experiments.shell.local import LocalPool
from xbd.lab.experiments.shell.runner import run_grid
from xbd.lab.experiments.shell.store import Store
from xbd.lab.experiments.shell.work import Pool, jobs_of, model_version
from xbd.lab.experiments.tables import TextTable
from xbd.units import counted

AnyCommand = TypeVar("AnyCommand", bound=Callable[..., Any])

_FILE = click.Path(dir_okay=False, path_type=Path)
_GRID_PARAMETERS: Final = (
    click.argument("path", metavar="FILE", type=_FILE),
    click.option(
        "--out",
        type=click.Path(file_okay=False, path_type=Path),
        help="Results directory. Default: FILE's name, in the current directory.",
    ),
    click.option("--processes", type=click.IntRange(min=1), help="Default: as many as there are processors."),
    click.option("--scheduler", metavar="ADDRESS", help="Run on the Dask cluster of this scheduler, tcp://HOST:8786."),
)


def grid_options(command: AnyCommand) -> AnyCommand:
    """Give a command what a grid's run takes: its file, where results go, and who runs it (see `pool_of`)."""
    for parameter in reversed(_GRID_PARAMETERS):
        command = parameter(command)
    return command


@click.command("experiment")
@grid_options
@click.option("--trace", "traces", multiple=True, type=_FILE, help="Also replay these traces, together on one host.")
@click.option(
    "--only", multiple=True, type=click.Choice(list(STRATEGIES)), help="Run only this strategy; may be repeated."
)
@click.option(
    "--prices", "priced_by", metavar="PRESET|FILE", help="Also judge the claims by what they cost, by these prices."
)
@click.option(
    "--busy",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0, 1024),
    help="With --prices: a guest's busy processors.",
)
@click.option("--fresh", is_flag=True, help="Run again what is already in the results directory.")
@series_option
@json_option
def command(
    path: Path,
    *,
    out: Path | None,
    processes: int | None,
    scheduler: str | None,
    traces: tuple[Path, ...],
    only: tuple[str, ...],
    priced_by: str | None,
    busy: float,
    fresh: bool,
    series_path: Path | None,
    as_json: bool,
) -> None:
    """Run the same hosts and guests under every strategy and compare the results.

    FILE says what is combined. Finished cells are kept in the results directory, so an interrupted run continues where
    it was. It writes summary.csv (a row for each cell), series.csv (a row for each sample of a cell), report.txt and
    page.html there; --series has the guests one by one. JSON has the rows of summary.csv. Exit code 1: a cell's audit
    found something wrong.
    """
    try:
        prices = None if priced_by is None else read_prices(priced_by)
    except XbdError as error:
        raise Failure(str(error)) from None
    pool = pool_of(processes, scheduler)
    grid = _read_grid(path, traces).only(only)
    if not grid.cells:
        raise Failure(f"{path}: no grid of it has {', '.join(only)}")
    store = Store(Path(path.stem) if out is None else out)
    if fresh:
        store.forget()
    repeat = " ".join(["xbd experiment", quote(str(path)), *(f"--trace {quote(str(trace))}" for trace in traces)])
    repeat += f" --prices {quote(priced_by)} --busy {busy:g}" if priced_by else ""
    provenance = Provenance(repeat, model_version())
    # Before the cells are run: a file that cannot be written is said at once.
    with series_file(series_path, (path, *traces)) as series:
        results = run_grid(grid, store, pool, series=series is not None)
        priced = [] if prices is None else priced_tables(results, prices, busy)
        _write(store, grid, results, provenance, priced, as_json=as_json)
        if series is not None:
            # Cell after cell, in the order of the grid, whoever ran it.
            store.write_series(jobs_of(grid, series=True), series)
    if results.failed:
        raise Failure("\n".join(render_failures(results)))


def check_experiment(text: str, path: Path) -> tuple[str, tuple[str, ...]]:
    """Check a grid file and its traces, for `xbd check`; returns a summary and no remarks. Raises ConfigError."""
    grid = parse_grid(text, path, read_trace)
    workloads = counted(len(grid.workloads), "workload")
    return f"experiment {grid.name!r}, {counted(len(grid.cells), 'cell')} of {workloads}", ()


def pool_of(processes: int | None, scheduler: str | None) -> Pool:
    """Make the pool that runs the cells."""
    if scheduler is not None and processes is not None:
        raise click.UsageError("--processes is for this machine, --scheduler for a cluster; give one of them")
    if scheduler is None:
        return LocalPool(processes)
    try:
        from xbd.lab.experiments.shell.cluster import ClusterPool  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise Failure(
            f"--scheduler needs {error.name}, which is not installed; pip install 'xbd[cluster]' brings it"
        ) from error
    return ClusterPool(scheduler)


def _read_grid(path: Path, traces: Sequence[Path]) -> Grid:
    """Read the grid file and the traces that are added to it."""
    try:
        added = [read_trace(trace) for trace in traces]
    except TraceError as error:
        raise Failure(str(error)) from None
    return parse_grid(read_text(path, may_wait=True), path, read_trace, added)


def _write(
    store: Store, grid: Grid, results: Results, provenance: Provenance, priced: Sequence[TextTable], *, as_json: bool
) -> None:
    """Write tables, report and page, and print the report."""
    answers = judge(results)
    report = render(grid, results, answers, priced)
    store.write("summary.csv", as_csv(summary_rows(results)))
    store.write("series.csv", as_csv(series_rows(results)))
    store.write("report.txt", report + "\n")
    page = store.write("page.html", render_page(grid, results, answers, provenance, _draw(results), priced=priced))
    output = {
        "directory": str(store.directory),
        "page": str(page),
        "failed": len(results.failed),
        "cells": list(summary_rows(results)),
    }
    emit(as_json, output, [report, f"{page}: the same as a page; {store.directory}: the numbers"])


def _draw(results: Results) -> Plots:
    """Draw the plots; None: matplotlib is not installed."""
    try:
        from xbd.lab.experiments.plots import draw  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        return None
    return {setting: draw(results, setting) for setting in results.settings}
