"""`xbd map`: the host's frames as a picture, in the terminal or as a PNG file."""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import click

from xbd.cli.common import Failure, client_options, emit, with_client
from xbd.cli.map_view import BY, KINDS, Frames, frames_of, legend, owners, pixels, plain_lines, terminal_lines
from xbd.client.blocking import BlockingClient

# What is left of a screen under the picture, for its legend.
_LEGEND_LINES = 8
_PIPED_WIDTH, _PIPED_HEIGHT = 80, 32


@click.command("map")
@click.option("--by", type=click.Choice(BY), default="owner", show_default=True, help="What the colours mean.")
@click.option("--width", type=click.IntRange(1, 1000), help="Characters of a line. [default: the terminal's]")
@click.option("--png", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write a picture instead.")
@client_options
def map_command(by: str, width: int | None, png: Path | None, socket_path: str | None, *, as_json: bool) -> None:
    """Draw the host's frames, superframe by superframe: whose they are, or whether free, whole or shattered.

    In a terminal in colours (not with NO_COLOR), else in letters: a domain's whole superframes in small ones,
    those that are shattered in capitals, free ones as dots; by state '.', '#' and '+'.
    """

    def fetch(client: BlockingClient) -> tuple[Frames, dict[int, str]]:
        frames = frames_of(client.call("frames"))
        return frames, {domain.domid: domain.name for domain in client.list()}

    frames, names = with_client(socket_path, fetch)
    if png is not None:
        _write(png, frames, by)
    output: dict[str, Any] = {"superframes": frames.kind.size}
    output |= {name: frames.count(kind) for kind, name in enumerate(KINDS)}
    output["owners"] = [{**row, "name": names.get(row["domid"], "")} for row in owners(frames)]
    emit(as_json, output, [f"wrote {png}"] if png is not None else _picture(frames, names, by, width))


def _picture(frames: Frames, names: dict[int, str], by: str, width: int | None) -> list[str]:
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    size = shutil.get_terminal_size((_PIPED_WIDTH, _PIPED_HEIGHT + _LEGEND_LINES))
    draw = terminal_lines if coloured else plain_lines
    lines, per_cell = draw(frames, by, width or size.columns, max(size.lines - _LEGEND_LINES, 1))
    return lines + legend(frames, names, per_cell, letters=not coloured and by == "owner")


def _write(path: Path, frames: Frames, by: str) -> None:
    try:
        from PIL import Image  # noqa: PLC0415 - an extra, and slow to import
    except ImportError as error:
        raise Failure("--png needs Pillow, which is not installed; pip install 'xbd[plots]' brings it") from error
    try:
        Image.fromarray(pixels(frames, by)).save(path, format="PNG")
    except OSError as error:
        raise Failure(f"cannot write {path}: {error.strerror or error}") from error
