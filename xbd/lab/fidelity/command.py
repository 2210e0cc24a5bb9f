"""`xbd fidelity`: reads traces and prints the error of the guest model against them."""

import json
import sys
from pathlib import Path

import click

from xbd.abi import Frames
from xbd.cli.common import Failure
from xbd.errors import BadArgument, XbdError
from xbd.guest.workload import Trace
from xbd.lab.fidelity.curve import compare, curve_rows, model_curve, real_curve, render
from xbd.lab.replay.command import read_trace

# Trace time between two lines of progress on a terminal.
_PROGRESS_EVERY_S = 300.0


@click.command("fidelity")
@click.argument("paths", metavar="TRACE.csv...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Same seed, same result.")
@click.option("--curve", "curve_path", type=click.Path(path_type=Path), help="Write both curves to this CSV file.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def command(paths: tuple[Path, ...], *, seed: int, curve_path: Path | None, as_json: bool) -> None:
    """Measure the guest model against real guests: replay each trace's demand, compare what stays in whole superframes."""
    try:
        if curve_path is not None and len(paths) > 1:
            raise BadArgument(f"--curve with {len(paths)} traces", "one: a file holds the curves of one trace")
        traces = [read_trace(path) for path in paths]
        for trace in traces:
            # Before anything runs: a trace without the column to compare with is refused at once.
            real_curve(trace)
        curves = [_replay(trace, seed) for trace in traces]
        found = [compare(trace, curve) for trace, curve in zip(traces, curves, strict=True)]
        if curve_path is not None:
            _write_curves(curve_path, traces[0], curves[0])
    except XbdError as error:
        raise Failure(str(error)) from None
    if as_json:
        click.echo(json.dumps({"seed": seed, "traces": [one.as_map() for one in found]}, indent=2))
    else:
        click.echo(render(found))


def _replay(trace: Trace, seed: int) -> Frames:
    """Run the model; show progress on a terminal."""
    if not sys.stderr.isatty():
        return model_curve(trace, seed)
    last, shown = float(trace.seconds[-1]), 0.0

    def watch(now: float) -> None:
        nonlocal shown
        if now - shown > _PROGRESS_EVERY_S:
            shown = now
            click.echo(f"\r{trace.name}: {now / 3600:5.2f} of {last / 3600:.2f} h replayed ", nl=False, err=True)

    curve = model_curve(trace, seed, watch)
    click.echo("\r" + " " * 70 + "\r", nl=False, err=True)
    return curve


def _write_curves(path: Path, trace: Trace, curve: Frames) -> None:
    try:
        path.write_text("\n".join(curve_rows(trace, curve)) + "\n", encoding="utf-8")
    except OSError as error:
        raise Failure(f"{path}: {error.strerror or error}") from error
