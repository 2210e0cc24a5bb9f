"""`xbd watch`: a live host over time, as a series."""

import os
import time
from pathlib import Path

import click
import trio

from xbd.cli.common import end_with_reader, group_socket, socket_option
from xbd.cli.series_file import STDOUT, SeriesFile, series_file
from xbd.client.calls import KnownDomains
from xbd.client.client import open_client
from xbd.client.discovery import find_socket


@click.command("watch")
@click.option(
    "--series",
    "series_path",
    type=click.Path(dir_okay=False, path_type=Path, allow_dash=True),
    default=STDOUT,
    metavar="FILE",
    help="Where to write it; a file that is there is written anew. [default: standard output]",
)
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(min=0.1),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between moments.",
)
@click.option("--moments", type=click.IntRange(min=1), help="End after so many. Default: go on until Ctrl-C.")
@socket_option
def watch_command(series_path: Path, interval_s: float, moments: int | None, socket_path: str | None) -> None:
    """Write the host and its domains over time as CSV: a row for the host and one for each domain at each moment.

    While the hypervisor cannot be reached nothing is written; then it goes on. `xbd docs lab` tells the columns.
    """
    if os.fspath(series_path) == STDOUT:
        end_with_reader()
    path = find_socket(socket_path or group_socket(), os.environ)
    with series_file(series_path) as series:
        assert series is not None, "there is a default"
        trio.run(_watch, path, series, interval_s, moments)


async def _watch(path: Path, series: SeriesFile, interval_s: float, moments: int | None) -> None:
    """Add moments until there are enough, or one could not be written."""
    async with open_client(path, resume=True) as client:
        known, written, due_s = KnownDomains(), 0, trio.current_time()
        while True:
            host = await client.host()
            known.take(await client.changes(known.since))
            series.add(str(host["name"]), time.time(), host, known.domains)
            written += 1
            if series.lacking is not None or written == moments:
                return
            # From moment to moment, so that what a moment takes does not add up; those of an outage are left out.
            due_s += interval_s
            if due_s < trio.current_time():
                due_s = trio.current_time() + interval_s
            await trio.sleep_until(due_s)
