"""`xbd map`: the host's frames as a picture, in the terminal or as a PNG file, once or as they change."""

import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

import click

from xbd.cli.common import Failure, client_options, emit, end_with_reader, with_client
from xbd.cli.map_view import (
    BY,
    healed_and_broken,
    legend,
    owners,
    plain_lines,
    terminal_lines,
)
from xbd.client.blocking import BlockingClient
from xbd.control.frames import KINDS, Frames, frames_of

# What is left of a screen under the picture, for its legend.
_LEGEND_LINES = 8
_PIPED_WIDTH, _PIPED_HEIGHT = 80, 32
_WATCH_EVERY_S: Final = 1.0
_CLEAR: Final = "\x1b[H\x1b[2J"


class _Look(NamedTuple):
    """A host at one time: its name, its frames, and the names of its domains by domid."""

    host: str
    frames: Frames
    names: dict[int, str]


@click.command("map")
@click.option("--by", type=click.Choice(BY), default="owner", show_default=True, help="What the colours mean.")
@click.option("--width", type=click.IntRange(1, 1000), help="Characters of a line. [default: the terminal's]")
@click.option("--png", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write a picture instead.")
@click.option("--watch", is_flag=True, help="Draw it anew every second, until Ctrl-C, and say what healed and broke.")
@client_options
def map_command(
    by: str, width: int | None, png: Path | None, socket_path: str | None, *, watch: bool, as_json: bool
) -> None:
    """Draw the host's frames, superframe by superframe: whose they are, or whether free, whole or shattered.

    In a terminal in colours (not with NO_COLOR), else in letters: a domain's whole superframes in small ones,
    those that are shattered in capitals, free ones as dots; by state '.', '#' and '+'. A PNG file has a title,
    a scale and a legend.
    """
    if watch:
        if png is not None or as_json:
            raise click.UsageError("--watch draws in the terminal; leave out --png and --json")
        end_with_reader()
        with_client(socket_path, lambda client: _watch(client, by, width))
    look = with_client(socket_path, _look)
    if png is not None:
        _write(png, look, by)
    output: dict[str, Any] = {"superframes": look.frames.kind.size}
    output |= {name: look.frames.count(kind) for kind, name in enumerate(KINDS)}
    output["owners"] = [{**row, "name": look.names.get(row["domid"], "")} for row in owners(look.frames)]
    emit(as_json, output, [f"wrote {png}"] if png is not None else _picture(look, by, width))


def _look(client: BlockingClient) -> _Look:
    frames = frames_of(client.call("frames"))
    return _Look(str(client.host()["name"]), frames, {domain.domid: domain.name for domain in client.list()})


def _watch(client: BlockingClient, by: str, width: int | None) -> None:
    """Draw the host again and again."""
    before = _look(client)
    while True:
        now = _look(client)
        healed, broke = healed_and_broken(before.frames, now.frames)
        since = f"since the last look {healed} superpages came to be, {broke} broke"
        click.echo((_CLEAR if sys.stdout.isatty() else "") + "\n".join([*_picture(now, by, width), since]))
        before = now
        time.sleep(_WATCH_EVERY_S)  # noqa: TID251 - a display waits for the wall clock


def _picture(look: _Look, by: str, width: int | None) -> list[str]:
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    size = shutil.get_terminal_size((_PIPED_WIDTH, _PIPED_HEIGHT + _LEGEND_LINES))
    draw = terminal_lines if coloured else plain_lines
    lines, per_cell = draw(look.frames, by, width or size.columns, max(size.lines - _LEGEND_LINES, 1))
    return lines + legend(look.frames, look.names, per_cell, letters=not coloured and by == "owner")


def _write(path: Path, look: _Look, by: str) -> None:
    try:
        from xbd.cli.map_picture import picture  # noqa: PLC0415 - an extra, and slow to import
    except ImportError as error:
        raise Failure("--png needs Pillow, which is not installed; pip install 'xbd[plots]' brings it") from error
    title = f"{look.host}: memory by {by}"
    try:
        picture(look.frames, look.names, by, title, [time.strftime("%Y-%m-%d %H:%M:%S")]).save(path, format="PNG")
    except OSError as error:
        raise Failure(f"cannot write {path}: {error.strerror or error}") from error
