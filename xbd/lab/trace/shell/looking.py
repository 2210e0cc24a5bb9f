"""`xbd trace info`, `check` and `plot`: what a trace holds, what is strange in it, its shape over time."""

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

import click

from xbd.cli.common import EXIT_FAILED, Failure, emit, json_option
from xbd.guest.workload import parse_trace
from xbd.lab.trace.findings import findings, summary
from xbd.lab.trace.shell.files import read_table, write_whole
from xbd.lab.trace.table import table_text
from xbd.lab.trace.view import figure_lines, figures, text_plot

_PIPED: Final = (100, 24)
_FILE: Final = click.Path(dir_okay=False, path_type=Path)


@click.command("info")
@click.argument("path", metavar="FILE", type=_FILE)
@json_option
def info_command(path: Path, *, as_json: bool) -> None:
    """Tell what a trace holds: its length, demand, wear, counters, and how much in it is strange."""
    table = read_table(path)
    # A torn last line is told among what was found; the rest is looked at.
    trace = parse_trace(table_text(table), str(path))
    told = figures(table, trace, findings(table))
    emit(as_json, told, figure_lines(told))


@click.command("check")
@click.argument("paths", metavar="FILE...", nargs=-1, required=True, type=_FILE)
@json_option
@click.pass_context
def check_command(ctx: click.Context, paths: tuple[Path, ...], *, as_json: bool) -> None:
    """Find what is strange in traces: gaps, resets of counters, clocks that were set, implausible values, torn lines.

    Each is told with its line; nothing is mended. With gaps, resets and clocks a trace is played as it is; a line that is
    torn or implausible keeps it from being played, and is exit code 1.
    """
    output, lines, has_faults = [], [], False
    for path in paths:
        found = findings(read_table(path))
        has_faults |= any(one.is_fault for one in found)
        output.append({"file": str(path), "found": [asdict(one) for one in found]})
        lines += [f"{path}: line {one.line}: {one.kind}: {one.text}" for one in found]
        lines.append(f"{path}: {summary(found)}")
    emit(as_json, output, lines)
    if has_faults:
        ctx.exit(EXIT_FAILED)


@click.command("plot")
@click.argument("path", metavar="FILE", type=_FILE)
@click.option("--svg", type=_FILE, metavar="FILE", help="Write a picture instead.")
@click.option("--width", type=click.IntRange(20, 1000), help="Characters of a line. [default: the terminal's]")
def plot_command(path: Path, *, svg: Path | None, width: int | None) -> None:
    """Draw a trace's shape over time: what programs hold, page cache, and what is free."""
    table = read_table(path)
    trace = replace(parse_trace(table_text(table), str(path)), name=path.stem)
    if table.torn:
        click.echo(table.torn, err=True)
    if svg is None:
        size = shutil.get_terminal_size(_PIPED)
        click.echo("\n".join(text_plot(trace, width or size.columns, min(max(size.lines - 4, 4), 20))))
        return
    try:
        from xbd.lab.trace.plots import draw  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise Failure("--svg needs matplotlib, which is not installed; pip install 'xbd[plots]' brings it") from error
    write_whole(svg, draw(trace))
    click.echo(f"wrote {svg}")
