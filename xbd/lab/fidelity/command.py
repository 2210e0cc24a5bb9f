"""`xbd fidelity`: reads traces and prints the error of the guest model against them."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import click

from xbd.abi import Frames
from xbd.cli.common import Failure, check_writable
from xbd.daemons.trace_files import read_trace
from xbd.errors import BadArgument, XbdError
from xbd.guest.workload import Trace
from xbd.lab.experiments.report import table_lines
from xbd.lab.fidelity.ablation import ablations
from xbd.lab.fidelity.balloon import balloon_steps, table_of
from xbd.lab.fidelity.curve import Fidelity, compare, curve_rows, model_free, real_curve, render, whole
from xbd.lab.fidelity.report import ablation_table, render_page, section
from xbd.lab.fidelity.split import by_order, by_phase, tables_of

# Trace time between two lines of progress on a terminal.
_PROGRESS_EVERY_S = 300.0


@click.command("fidelity")
@click.argument("paths", metavar="TRACE.csv...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Same seed, same result.")
@click.option("--curve", "curve_path", type=click.Path(path_type=Path), help="Write both curves to this CSV file.")
@click.option(
    "--report",
    "page_path",
    type=click.Path(path_type=Path),
    help="Write a page with the curves, and the error without each mechanism, to this HTML file (seven runs of the model).",
)
@click.option(
    "--balloon", is_flag=True, help="Instead of traces: what strategy linux-virtio does, against a real virtio balloon."
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def command(
    paths: tuple[Path, ...],
    *,
    seed: int,
    curve_path: Path | None,
    page_path: Path | None,
    balloon: bool,
    as_json: bool,
) -> None:
    """Measure the guest model against real guests: replay each trace's demand, compare what stays in whole superframes.

    The error is split by order of block, where the trace has the columns order0 to order10, and by phase, a rule on what the
    trace's programs hold: LOAD begins when that has risen by a tenth of all memory, and ends when three quarters of the
    rise are given back; AFTER LOAD is the five minutes after that, START what is before the first load, IDLE the rest.
    """
    if balloon == bool(paths) or (balloon and (curve_path or page_path)):
        raise click.UsageError("give traces, perhaps with --curve and --report; or --balloon, without any of these")
    if balloon:
        steps = balloon_steps(seed)
        told = {"seed": seed, "steps": [asdict(step) for step in steps]}
        click.echo(json.dumps(told, indent=2) if as_json else "\n".join(table_lines(table_of(steps))))
        return
    try:
        if curve_path is not None and len(paths) > 1:
            raise BadArgument(f"--curve with {len(paths)} traces", "one: a file holds the curves of one trace")
        traces = [read_trace(path) for path in paths]
        for trace in traces:
            # Before anything runs: a trace without the column to compare with is refused at once.
            real_curve(trace)
        check_writable(curve_path, page_path)
        runs = [(trace, _replay(trace, seed)) for trace in traces]
        found = [compare(trace, whole(free)) for trace, free in runs]
        if curve_path is not None:
            _write(curve_path, "\n".join(curve_rows(traces[0], whole(runs[0][1]))) + "\n")
        if page_path is not None:
            _write(page_path, _page(runs, found, seed))
    except XbdError as error:
        raise Failure(str(error)) from None
    if as_json:
        of_each = [one.as_map() | _split(trace, free) for one, (trace, free) in zip(found, runs, strict=True)]
        click.echo(json.dumps({"seed": seed, "traces": of_each}, indent=2))
    else:
        tables = [table for run in runs for table in tables_of(*run)]
        click.echo("\n\n".join([render(found), *("\n".join(table_lines(table)) for table in tables), tables[0].about]))


def _split(trace: Trace, free: Frames) -> dict[str, object]:
    splits = {"phases": by_phase(trace, free), "orders": by_order(trace, free)}
    return {kind: {name: asdict(one) for name, one in found.items()} for kind, found in splits.items()}


def _page(runs: list[tuple[Trace, Frames]], found: list[Fidelity], seed: int) -> str:
    """Run the model without each mechanism, and format the page."""
    parts: list[str] = []
    for (trace, free), one in zip(runs, found, strict=True):
        table = ablation_table(
            one, [(name, missing, compare(trace, curve)) for name, missing, curve in ablations(trace, seed)]
        )
        parts += section(trace.name, [*tables_of(trace, free), table], _draw(trace, free))
    return render_page(render(found), parts)


def _draw(trace: Trace, free: Frames) -> list[tuple[str, str]] | None:
    """Draw the plots; None: matplotlib is not installed."""
    try:
        from xbd.lab.fidelity.plots import draw  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        return None
    return draw(trace, free)


def _replay(trace: Trace, seed: int) -> Frames:
    """Run the model; show progress on a terminal."""
    if not sys.stderr.isatty():
        return model_free(trace, seed)
    last, shown = float(trace.seconds[-1]), 0.0

    def watch(now: float) -> None:
        nonlocal shown
        if now - shown > _PROGRESS_EVERY_S:
            shown = now
            click.echo(f"\r{trace.name}: {now / 3600:5.2f} of {last / 3600:.2f} h replayed ", nl=False, err=True)

    free = model_free(trace, seed, watch)
    click.echo("\r" + " " * 70 + "\r", nl=False, err=True)
    return free


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Failure(f"{path}: {error.strerror or error}") from error
