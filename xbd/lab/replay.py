"""`xbd replay`: the command around `trace_replay`; reads files, keeps the pace, shows the report."""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import click

from xbd.config import STRATEGIES
from xbd.errors import TraceError, XbdError
from xbd.guest.workload import Trace, parse_trace
from xbd.lab.trace_replay import Replay, ReplayOptions, ReplayReport
from xbd.toolstack.cli import Failure
from xbd.units import format_pages

_PROGRESS_EVERY_S = 0.5


@click.command("replay")
@click.argument("paths", metavar="TRACE.csv...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--overcommit", default=1.5, show_default=True, help="The guests' memory over the host's.")
@click.option("--strategy", type=click.Choice(sorted(STRATEGIES)), default="full", show_default=True)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Same seed, same result.")
@click.option(
    "--speed", type=click.FloatRange(min=0, min_open=True), help="Times real time; default: as fast as it goes."
)
@click.option("--verify", is_flag=True, help="Check every page's content word when the page is freed or moved.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    paths: tuple[Path, ...],
    *,
    overcommit: float,
    strategy: str,
    seed: int,
    speed: float | None,
    verify: bool,
    as_json: bool,
) -> None:
    """Replay real guests' memory traces on an emulated host, one guest per trace, in one process.

    Example: xbd replay clang-vm0.csv clang-vm1.csv --verify
    """
    try:
        traces = [read_trace(path) for path in paths]
        run = Replay(traces, ReplayOptions(STRATEGIES[strategy], overcommit, seed, verify))
    except XbdError as error:
        raise Failure(str(error)) from None
    started = time.monotonic()
    _keep_pace(run, speed, started)
    report = run.report()
    elapsed_s = time.monotonic() - started
    click.echo(json.dumps(report.as_map(elapsed_s), indent=2) if as_json else render(report, elapsed_s))
    if report.violations or report.content_errors:
        raise SystemExit(1)


def read_trace(path: Path) -> Trace:
    """Read one trace file. Raises TraceError naming the file and what is wrong with it."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise TraceError(
            f"{path}: {error.strerror or error} (expected a CSV file as `xbd replay --help` describes)"
        ) from error
    except UnicodeDecodeError as error:
        raise TraceError(f"{path}: not a text file (byte {error.start})") from error
    return replace(parse_trace(text, str(path)), name=path.stem)


def _keep_pace(run: Replay, speed: float | None, started: float) -> None:
    """Drive the replay; on a terminal, show how far it is."""
    last = max(float(trace.seconds[-1]) for trace in run.traces)
    shown = started
    for reached in run.run():
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


def render(report: ReplayReport, elapsed_s: float) -> str:
    """Write a report for a person."""
    hours, times = report.trace_s / 3600, report.trace_s / max(elapsed_s, 1e-9)
    lines = [
        f"strategy {report.strategy}, seed {report.seed}, {len(report.guests)} guests, a host of {format_pages(report.host_pages)}",
        f"{hours:.2f} h of trace in {elapsed_s:.1f} s, {times:,.0f} times real time",
        f"{report.pages_allocated_and_freed / 1e6:,.0f} M pages allocated and freed, {report.samples} samples",
        "",
        f"{'guest':16} {'superpages':>10} {'mean':>7} {'free whole':>11} {'moved':>12} {'denied':>10}",
    ]
    for guest in report.guests:
        whole = guest.guest_free_superframes * 512 / max(guest.guest_free_pages, 1)
        lines.append(
            f"{guest.trace:16} {guest.superpage_coverage:10.1%} {guest.superpage_coverage_mean:7.1%} {whole:11.1%}"
            f" {guest.pages_moved:12,} {guest.pages_denied:10,}"
        )
    lines += ["", f"{'hypercalls':28} " + " ".join(f"{guest.trace:>14}" for guest in report.guests)]
    for kind in sorted({kind for guest in report.guests for kind in guest.hypercalls}):
        lines.append(f"{kind:28} " + " ".join(f"{guest.hypercalls.get(kind, 0):14,}" for guest in report.guests))
    lines += [
        "",
        f"host: {report.host_free_in_whole_superframes:.1%} of its free memory lies in whole superframes",
        f"content errors: {report.content_errors}; violations: {len(report.violations)}",
        *report.violations,
    ]
    return "\n".join(lines)
