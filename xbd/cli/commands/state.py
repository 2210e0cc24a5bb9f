"""Commands about a stopped host's saved state: dump, restore."""

from pathlib import Path

import click

from xbd.cli.common import emit, json_option
from xbd.daemons.runtime.state_dump import dump_state, restore_state

_DIRECTORY = click.Path(file_okay=False, path_type=Path)
_ARCHIVE = click.Path(dir_okay=False, path_type=Path)


@click.command("dump")
@click.argument("state_dir", metavar="STATE_DIR", type=_DIRECTORY)
@click.argument("archive", metavar="FILE", type=_ARCHIVE)
@json_option
def dump_command(state_dir: Path, archive: Path, *, as_json: bool) -> None:
    """Put the host that STATE_DIR holds into one new FILE, for a bug report or another machine.

    Its daemon must have ended, in whatever way. Holes cost nothing; content words are in it.
    """
    files = dump_state(state_dir, archive)
    size_bytes = archive.stat().st_size
    output = {"files": files, "state_dir": str(state_dir), "archive": str(archive), "bytes": size_bytes}
    emit(as_json, output, [f"{files} files of {state_dir} in {archive} ({size_bytes:,} bytes)"])


@click.command("restore")
@click.argument("archive", metavar="FILE", type=_ARCHIVE)
@click.argument("state_dir", metavar="STATE_DIR", type=_DIRECTORY)
@json_option
def restore_command(archive: Path, state_dir: Path, *, as_json: bool) -> None:
    """Make a new STATE_DIR of what `xbd dump` put into FILE; `xbd hypervisor --state-dir` goes on with it."""
    files = restore_state(archive, state_dir)
    output = {"files": files, "archive": str(archive), "state_dir": str(state_dir)}
    emit(as_json, output, [f"{files} files of {archive} in {state_dir}"])
