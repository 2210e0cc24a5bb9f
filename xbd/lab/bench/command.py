"""`xbd bench`: measures figures, each a ratio or a rate in one run, with their spread over repeats."""

import json
import os
import platform
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import click
import numpy as np
import trio

from xbd import __version__
from xbd.cli.common import Failure, check_writable
from xbd.daemons.trace_files import read_trace
from xbd.errors import XbdError
from xbd.guest.workload import Trace
from xbd.lab.bench.costs import measure_costs
from xbd.lab.bench.figures import Figure
from xbd.lab.bench.model import measure_fidelity, measure_strategies
from xbd.lab.bench.record import OWN_RECORD, Entry, parse_record, render_history
from xbd.lab.bench.shell.allocator import measure_allocator
from xbd.lab.bench.shell.busy import BusyScale, measure_busy
from xbd.lab.bench.shell.fleet import measure_fleet, measure_idle
from xbd.lab.bench.shell.flood import measure_flooded_host
from xbd.lab.bench.shell.host import measure_host
from xbd.lab.bench.shell.listing import measure_list
from xbd.lab.bench.shell.xen import measure_xen
from xbd.lab.bench.shell.xenstore import measure_xenstore
from xbd.lab.costs.shell.files import read_prices

# What is measured on running hosts, in a directory of its own.
_ON_HOSTS: Final[Mapping[str, Callable[[Path], Awaitable[dict[str, Figure]]]]] = {
    "host": measure_host,
    "fleet": measure_fleet,
    "list": measure_list,
    "flood": measure_flooded_host,
    "xenstore": measure_xenstore,
    "xen": measure_xen,
}
# The prices whose published figures are computed.
_PRICES: Final = "kvm-xeon6252"
# These take minutes, and most of a machine, so each is measured when it is asked for alone.
_BUSY: Final = "busy"
_IDLE: Final = "idle"
_QUICK: Final = BusyScale(warm_up_s=5.0, measured_s=10.0)


@click.command("bench")
@click.option(
    "--only", type=click.Choice(["allocator", *_ON_HOSTS, "model", "costs", _BUSY, _IDLE]), help="Measure only these."
)
@click.option("--quick", is_flag=True, help="With --only busy: measure each number of guests for 10 s, not for 60 s.")
@click.option(
    "--trace",
    "traces",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="TRACE.csv",
    help="Also measure the guest model against this real guest's trace; may be repeated.",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.option(
    "--record",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Add the figures to this record, with release, date and machine.",
)
@click.option("--history", is_flag=True, help="Measure nothing; compare the entries of the record.")
def command(
    *,
    only: str | None,
    quick: bool,
    traces: tuple[Path, ...],
    seed: int,
    as_json: bool,
    record: Path | None,
    history: bool,
) -> None:
    """Measure xbd: how fast it is against its floors, strategies against stock, guests against real ones.

    Figures are medians with their quartiles. --only busy searches for the number of busy guests that this machine keeps
    going, which takes a quarter of an hour; --only idle is of 10,000 idle guests. Neither is part of all the others. The project's own record, by release, is what --history shows
    without --record.
    """
    if history:
        click.echo(_history(record or OWN_RECORD))
        return
    if quick and only != _BUSY:
        raise click.UsageError(f"--quick is for --only {_BUSY}")
    check_writable(record)
    try:
        if only == _BUSY:
            figures = _on_host(partial(measure_busy, say=_say, scale=_QUICK if quick else BusyScale()))
        elif only == _IDLE:
            figures = _on_host(measure_idle)
        else:
            figures = _measure(only, [read_trace(path) for path in traces], seed)
    except XbdError as error:
        raise Failure(str(error)) from None
    if record is not None:
        entry = Entry(__version__, time.strftime("%Y-%m-%d"), _machine(), figures)
        with record.open("a", encoding="utf-8") as file:
            file.write(entry.as_line() + "\n")
    if as_json:
        click.echo(json.dumps({name: figure.as_map() for name, figure in figures.items()}, indent=2))
    else:
        click.echo(render(figures))


def _measure(only: str | None, traces: Sequence[Trace], seed: int) -> dict[str, Figure]:
    """Measure all, or one part."""
    figures: dict[str, Figure] = {}
    if only in (None, "allocator"):
        figures |= measure_allocator(seed)
    for part, measure in _ON_HOSTS.items():
        if only in (None, part):
            figures |= _on_host(measure)
    if only in (None, "model"):
        figures |= measure_strategies(seed) | measure_fidelity(traces, seed)
    if only in (None, "costs"):
        figures |= measure_costs(read_prices(_PRICES), seed)
    return figures


def _on_host(measure: Callable[[Path], Awaitable[dict[str, Figure]]]) -> dict[str, Figure]:
    """Measure on hosts whose files lie in a directory of their own."""
    with tempfile.TemporaryDirectory(prefix="xbd-bench-") as directory:
        return trio.run(measure, Path(directory))


def _say(line: str) -> None:
    click.echo(line, err=True)


def _history(path: Path) -> str:
    try:
        return render_history(parse_record(path.read_text(encoding="utf-8"), str(path)))
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}; `xbd bench --record {path}` makes one") from None
    except XbdError as error:
        raise Failure(str(error)) from None


def _machine() -> str:
    """Describe this machine: processor, cores, kernel, interpreter, numpy."""
    words = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [word.partition(":")[2].strip() for word in words if word.startswith("model name")]
    model = models[0] if models else platform.machine()
    python = f"Python {platform.python_version()}, numpy {np.__version__}"
    return f"{len(os.sched_getaffinity(0))} cores of {model}, Linux {platform.release()}, {python}"


def render(figures: dict[str, Figure]) -> str:
    """Format the figures as a table."""
    rows = [f"{'figure':34} {'median':>12} {'quartiles':>25}  unit"]
    for name, figure in figures.items():
        spread = f"{figure.low:,.2f} to {figure.high:,.2f}"
        against = f" to {figure.ratio_to}" if figure.ratio_to else ""
        rows.append(f"{name:34} {figure.value:12,.2f} {spread:>25}  {figure.unit}{against}")
    return "\n".join(rows)
