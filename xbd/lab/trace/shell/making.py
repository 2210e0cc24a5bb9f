"""`xbd trace cut` and `synth`: one trace made of another."""

import math
from pathlib import Path
from typing import Final

import click

from xbd.cli.common import Failure
from xbd.daemons.trace_files import read_trace
from xbd.errors import BadArgument
from xbd.guest.workload import parse_trace
from xbd.lab.soak.options import parse_duration_s
from xbd.lab.trace.changes import Likeness, cut, synthesise
from xbd.lab.trace.shell.files import read_table, write_whole
from xbd.lab.trace.table import table_text

_FILE: Final = click.Path(dir_okay=False, path_type=Path)


def _seconds(name: str, written: str | None, otherwise: float) -> float:
    """Read a time of a trace: 0, or a duration."""
    if written is None or written.strip() in ("0", "0s"):
        return otherwise if written is None else 0.0
    try:
        return parse_duration_s(written)
    except BadArgument as error:
        raise Failure(f"{name}: {error}") from error


@click.command("cut")
@click.argument("path", metavar="FILE", type=_FILE)
@click.argument("out", metavar="OUT", type=_FILE)
@click.option(
    "--from", "first", metavar="TIME", help="The time of the trace to begin at: 90, 90s, 10m, 2h. [default: 0]"
)
@click.option("--to", "end", metavar="TIME", help="The time of the trace to end at. [default: its end]")
def cut_command(path: Path, out: Path, *, first: str | None, end: str | None) -> None:
    """Cut a part out of a trace, with all of its columns; its time starts at 0 again. A torn last line is left out."""
    first_s, end_s = _seconds("--from", first, 0.0), _seconds("--to", end, math.inf)
    if first_s >= end_s:
        raise Failure(f"--from {first} is not before --to {end}")
    table = read_table(path)
    if table.torn:
        click.echo(f"{table.torn.partition(' (`xbd')[0]}; it is left out", err=True)
    part = cut(table, first_s, end_s)
    write_whole(out, table_text(part))
    click.echo(f"{out}: {len(part.cells)} of {len(table.cells)} samples")


@click.command("synth")
@click.argument("path", metavar="FILE", type=_FILE)
@click.argument("out", metavar="OUT", type=_FILE)
@click.option(
    "--shift", metavar="TIME", help="Do the same so much later; what is behind the end comes first. [default: 0]"
)
@click.option(
    "--scale", default=1.0, show_default=True, type=click.FloatRange(0.001, 1000), help="Of all sizes, the guest's too."
)
@click.option(
    "--demand",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0, 1000),
    help="Of what its programs hold and its page cache alone; what is more than it has is cut off.",
)
@click.option(
    "--noise",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="How far demand wanders from the recorded one: the standard deviation, as a share of it.",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Same seed, same file.")
def synth_command(
    path: Path, out: Path, *, shift: str | None, scale: float, demand: float, noise: float, seed: int
) -> None:
    """Make a guest that is like a recorded one: later, larger or smaller, and with a life of its own.

    Only what follows from its demand is written: total, free and cached pages, and whole free blocks by their recorded share.
    """
    text = synthesise(read_trace(path), Likeness(_seconds("--shift", shift, 0.0), scale, demand, noise, seed))
    # What cannot be played is not written.
    made = parse_trace(text, str(out))
    write_whole(out, text)
    click.echo(f"{out}: {made.samples} samples of a guest of {made.total_pages} pages")
