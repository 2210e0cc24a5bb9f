"""`xbd replay`: reads trace files, replays them, perhaps at a given speed, and prints the report."""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from xbd.cli.common import Failure
from xbd.cli.series_file import SeriesFile, refuse_what_is_read, series_file, series_option
from xbd.config.strategies import STRATEGIES
from xbd.daemons.trace_files import read_trace
from xbd.errors import XbdError
from xbd.guest.workload import Trace
from xbd.lab.costs.prices import Prices
from xbd.lab.costs.shell.files import read_prices
from xbd.lab.replay.replay import Replay, ReplayOptions, ReplayReport
from xbd.lab.replay.report import render, render_prices, render_side_by_side
from xbd.lab.replay.variants import AS_THE_STRATEGY_SAYS, VARIANTS
from xbd.lab.series import told_of
from xbd.units import counted

if TYPE_CHECKING:
    from xbd.lab.replay.shell.animation import Film

ALL = "all"
_PROGRESS_EVERY_S = 0.5


@click.command("replay")
@click.argument("paths", metavar="TRACE.csv...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--overcommit", default=1.5, show_default=True, help="The guests' memory over the host's.")
@click.option("--strategy", type=click.Choice(sorted(STRATEGIES)), default="full", show_default=True)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Same seed, same result.")
@click.option(
    "--speed", type=click.FloatRange(min=0, min_open=True), help="Times real time; default: as fast as possible."
)
@click.option("--verify", is_flag=True, help="Check every page's content word when the page is freed or moved.")
@click.option(
    "--variant",
    "variants",
    multiple=True,
    default=(AS_THE_STRATEGY_SAYS,),
    show_default=True,
    type=click.Choice([*VARIANTS, ALL]),
    help="How ballooned pages migrate on a Xen host, or virtio. May be repeated; all: every variant. Results are compared.",
)
@click.option(
    "--prices",
    "priced_by",
    metavar="PRESET|FILE",
    help="Also tell what it would cost: processor seconds and waits, by kvm-xeon6252, xen, or a file of prices.",
)
@series_option
@click.option(
    "--animate",
    "gif_path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.gif",
    help="Draw the host under this strategy beside `stock` (of which `full` is shown beside it), as they go on.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON; of several variants, one of each.")
def command(
    paths: tuple[Path, ...],
    *,
    overcommit: float,
    strategy: str,
    seed: int,
    speed: float | None,
    verify: bool,
    variants: tuple[str, ...],
    priced_by: str | None,
    series_path: Path | None,
    gif_path: Path | None,
    as_json: bool,
) -> None:
    """Replay real guests' memory traces on an emulated host, one guest per trace, in one process."""
    chosen = [name for name in VARIANTS if name != AS_THE_STRATEGY_SAYS] if ALL in variants else list(variants)
    if gif_path is not None and len(chosen) > 1:
        raise click.UsageError("--animate shows two strategies; give one --variant")
    done: list[tuple[ReplayReport, float]] = []
    with series_file(series_path, paths) as series, _animation(gif_path, paths) as films:
        try:
            prices = None if priced_by is None else read_prices(priced_by)
            traces = _read(paths)
            options = [
                ReplayOptions(STRATEGIES[strategy], overcommit, seed, verify, variant, counted=prices is not None)
                for variant in chosen
            ]
            if films is not None:
                beside = ReplayOptions(STRATEGIES["full" if strategy == "stock" else "stock"], overcommit, seed, verify)
                _run_at_speed(Replay(traces, replace(beside, variant=chosen[0])), speed, None, films)
            for one in options:
                run, started = Replay(traces, one), time.monotonic()
                _run_at_speed(run, speed, series, films)
                done.append((run.report(), time.monotonic() - started))
        except XbdError as error:
            raise Failure(str(error)) from None
        _print(done, prices, as_json=as_json)
    if any(report.violations or report.content_errors for report, _ in done):
        raise SystemExit(1)


@contextmanager
def _animation(path: Path | None, read: Sequence[Path]) -> Iterator["list[Film] | None"]:
    """Collect films in a block, and write them in the end; None: no animation is asked for. Raises Failure."""
    if path is None:
        yield None
        return
    refuse_what_is_read(path, read)
    try:
        from xbd.lab.replay.shell.animation import write_gif  # noqa: PLC0415 - an extra, and slow to import
    except ImportError as error:
        raise Failure("--animate needs Pillow, which is not installed; pip install 'xbd[plots]' brings it") from error
    films: list[Film] = []
    yield films
    try:
        with path.open("wb") as file:
            write_gif(file, films)
    except OSError as error:
        raise Failure(f"{path}: cannot be written: {error.strerror or error}; what is there is no whole GIF") from error


def _read(paths: Sequence[Path]) -> list[Trace]:
    """Read the traces, and say which of them have gaps. Raises TraceError."""
    traces = [read_trace(path) for path in paths]
    for path, gaps in zip(paths, (trace.gap_lines for trace in traces), strict=True):
        if gaps:
            said = f"{counted(len(gaps), 'gap')}, the first before line {gaps[0]}: what is held before one is held until its end"
            click.echo(f"{path}: {said}", err=True)
    return traces


def _print(done: Sequence[tuple[ReplayReport, float]], prices: Prices | None, *, as_json: bool) -> None:
    """Print the reports."""
    if as_json:
        reports = [report.as_map(elapsed_s, prices) for report, elapsed_s in done]
        click.echo(json.dumps(reports[0] if len(reports) == 1 else reports, indent=2))
    else:
        click.echo(render(*done[0]) if len(done) == 1 else render_side_by_side(done))
        if prices is not None:
            click.echo("\n" + "\n\n".join(render_prices(report, prices) for report, _ in done))


def _run_at_speed(run: Replay, speed: float | None, series: SeriesFile | None, films: "list[Film] | None") -> None:
    """Run the replay, at *speed* times real time if given; show progress on a terminal.

    Each sample is added to *series*, and a film of it all to *films*.
    """
    name = f"{run.options.strategy.name}/{run.options.variant}"
    last = max(float(trace.seconds[-1]) for trace in run.traces)
    started = shown = time.monotonic()
    film = None
    if films is not None:
        from xbd.lab.replay.shell.animation import Film  # noqa: PLC0415 - an extra, and slow to import

        film = Film(run.options.strategy.name, last)
        films.append(film)
    for reached in run.run():
        if series is not None:
            series.add(name, reached, *told_of(run.host), run.demand_pages())
        if film is not None:
            film.see(reached, run.host)
        now = time.monotonic()
        if speed is not None and (ahead := reached / speed - (now - started)) > 0:
            time.sleep(ahead)  # noqa: TID251 - a replay at a given speed waits for the wall clock
        if sys.stderr.isatty() and now - shown > _PROGRESS_EVERY_S:
            shown = now
            rate = reached / (now - started)
            click.echo(
                f"\r{reached / 3600:5.2f} of {last / 3600:.2f} h replayed, {rate:,.0f} times real time ",
                nl=False,
                err=True,
            )
    if sys.stderr.isatty():
        click.echo("\r" + " " * 70 + "\r", nl=False, err=True)
