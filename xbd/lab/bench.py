"""`xbd bench`: figures, each a ratio or a rate measured in one run, with their spread over repeats."""

import json
import tempfile
from pathlib import Path

import click
import trio

from xbd.errors import XbdError
from xbd.lab.bench_allocator import measure_allocator
from xbd.lab.bench_flood import measure_flooded_host
from xbd.lab.bench_host import measure_host
from xbd.lab.figures import Figure
from xbd.toolstack.cli import Failure


@click.command("bench")
@click.option("--only", type=click.Choice(["allocator", "host", "flood"]), help="Measure only these.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def command(*, only: str | None, seed: int, as_json: bool) -> None:
    """Measure xbd: the frame allocator, hypercalls over the socket, guests shrunk and grown, one that floods the host.

    Figures are medians with their quartiles.
    """
    figures: dict[str, Figure] = {}
    if only in (None, "allocator"):
        figures |= measure_allocator(seed)
    for part, measure in (("host", measure_host), ("flood", measure_flooded_host)):
        if only in (None, part):
            with tempfile.TemporaryDirectory(prefix="xbd-bench-") as directory:
                try:
                    figures |= trio.run(measure, Path(directory))
                except XbdError as error:
                    raise Failure(str(error)) from None
    if as_json:
        click.echo(json.dumps({name: figure.as_map() for name, figure in figures.items()}, indent=2))
    else:
        click.echo(render(figures))


def render(figures: dict[str, Figure]) -> str:
    """Write the figures for a person."""
    rows = [f"{'figure':34} {'median':>12} {'quartiles':>25}  unit"]
    for name, figure in figures.items():
        spread = f"{figure.low:,.2f} to {figure.high:,.2f}"
        against = f" to {figure.ratio_to}" if figure.ratio_to else ""
        rows.append(f"{name:34} {figure.value:12,.2f} {spread:>25}  {figure.unit}{against}")
    return "\n".join(rows)
