"""`xbd trace record`: a row of what this machine's memory is used for, every second or more seldom, for days."""

import signal
from contextlib import suppress
from pathlib import Path
from typing import Final

import click
import trio

from xbd.cli.common import Failure
from xbd.daemons.runtime.signals import signals_heard
from xbd.errors import XbdError
from xbd.lab.soak.options import parse_duration_s
from xbd.lab.trace.proc import machine_row, missing
from xbd.lab.trace.shell.bounded import BoundedFile, NoRoom
from xbd.lab.trace.shell.machine import page_bytes, read_clocks, read_proc
from xbd.lab.trace.table import header_text, parse_table, row_text
from xbd.lab.trace.watch import Moment, remarks
from xbd.units import counted, parse_size_bytes

_LEAST_BYTES: Final = 64 << 10


@click.command("record")
@click.argument("path", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--every", default="1s", show_default=True, help="How often: 1s, 10s, 1m; once a second at most.")
@click.option("--duration", help="For how long: 10m, 1h, 72h.  [default: until Ctrl-C or SIGTERM]")
@click.option(
    "--max-size",
    default="64m",
    show_default=True,
    help="The file grows no larger: then every second sample is dropped, and half as many are taken from then on.",
)
@click.option("--append", is_flag=True, help="Go on with a FILE that is there.")
def command(path: Path, *, every: str, duration: str | None, max_size: str, append: bool) -> None:
    """Record what this machine's memory is used for: a trace that `xbd replay` and guests play.

    Kinds of memory, free blocks by order, faults, refaults and pressure: what the kernel does not tell is left out, and
    said. The file can be read at any time, whatever ends this: SIGKILL, a crash, a full disk. While the disk is full
    samples are lost, and counted; recording goes on when there is room. A gap, and a clock that was set, are said as they
    happen. Ctrl-C or SIGTERM ends it in order, with exit code 0.
    """
    try:
        most_bytes = parse_size_bytes(max_size)
        if most_bytes < _LEAST_BYTES:
            raise Failure(f"--max-size {max_size}: at least {_LEAST_BYTES >> 10}k was expected")
        ends_s = parse_duration_s(duration) if duration else None
        recorder = Recorder(path, parse_duration_s(every), most_bytes, append=append)
    except XbdError as error:
        raise Failure(str(error)) from None
    with recorder.file:
        trio.run(recorder.run, ends_s)


class Recorder:
    """Records into one file. Raises Failure: the file cannot be used, or this machine does not say what is needed."""

    def __init__(self, path: Path, every_s: float, most_bytes: int, *, append: bool) -> None:
        self._path = path
        self._every_s = every_s
        row = machine_row(read_proc(), page_bytes())
        self._columns = tuple(row)
        for file, columns in missing(row).items():
            say(f"{file} does not say {', '.join(columns)}: the trace goes without")
        self._started = read_clocks()
        self._offset_s = 0.0
        self.rows = self.lost = 0
        self.is_full = False
        header = header_text(self._columns)
        try:
            self.file = BoundedFile(path, header.encode(), most_bytes, append=append)
        except FileExistsError:
            raise Failure(f"{path}: is there already; give another FILE, or --append to go on with this one") from None
        except BlockingIOError:
            raise Failure(f"{path}: another recorder writes to it; give another FILE") from None
        except OSError as error:
            raise Failure(f"{path}: cannot be written: {error.strerror or error}") from None
        if self.file.found:
            with self.file.closed_by_failure():
                self._go_on(header, row)

    def _go_on(self, header: str, row: dict[str, int]) -> None:
        """Go on with a file that was found: a torn last line is removed, and time goes on from its last row."""
        table = parse_table(self.file.found.decode("utf-8", "replace"), str(self._path))
        if ",".join(table.header) + "\n" != header:
            raise Failure(f"{self._path}: line 1: other columns than this machine's now: give another FILE")
        if int(table.numbers["total_pages"][-1]) != row["total_pages"]:
            raise Failure(f"{self._path}: another machine, or one of another size, was recorded: give another FILE")
        if table.torn:
            self.file.cut_torn()
            say(f"{table.torn.partition(' (`xbd')[0]}; that line is removed")
        since_s = self._started.utc_s - float(table.utc_seconds()[-1])
        if since_s > 0:
            passed_s = max(since_s, self._every_s)
        else:
            passed_s = self._every_s
            say(f"{self._path}: its last row is not of an earlier time than it is by this machine's clock")
        self._offset_s = float(table.seconds[-1]) + passed_s
        say(f"{self._path}: goes on behind {counted(len(table.cells), 'row')}, {passed_s:.1f} s after the last one")

    async def run(self, duration_s: float | None) -> None:
        """Record until the time is up or a signal comes; then say how much there is."""
        with trio.CancelScope() as scope:
            async with signals_heard(lambda _: scope.cancel(), signal.SIGINT, signal.SIGTERM):
                await self._record(duration_s)
        lost = f"; {counted(self.lost, 'sample')} were not written, as the disk was full" if self.lost else ""
        say(f"{self._path}: {counted(self.rows, 'row')} written{lost}")

    async def _record(self, duration_s: float | None) -> None:
        start = before = read_clocks()
        while duration_s is None or before.since_boot_s - start.since_boot_s < duration_s:
            self._sample(before)
            since_s = read_clocks().since_boot_s - start.since_boot_s
            # The next multiple of the period, however long the row took.
            await trio.sleep(self._every_s - since_s % self._every_s)
            now = read_clocks()
            for remark in remarks(before, now, self._every_s):
                say(f"{self._path}: line {self.file.rows + 2}: {remark}")
            before = now

    def _sample(self, now: Moment) -> None:
        """Write one row; without room for it, it is lost, and counted."""
        row = machine_row(read_proc(), page_bytes())
        if lacking := [column for column in self._columns if column not in row]:
            raise Failure(
                f"{self._path}: this machine does not say {', '.join(lacking)} any more: {self.rows} rows are written"
            )
        seconds = now.since_boot_s - self._started.since_boot_s + self._offset_s
        line = row_text(seconds, [row[column] for column in self._columns], now.utc_s) + "\n"
        halvings = self.file.halvings
        try:
            self.file.add(line.encode())
        except NoRoom as error:
            if not self.is_full:
                say(f"{self._path}: {error}: samples are lost until there is room")
            self.is_full = True
            self.lost += 1
        except OSError as error:
            raise Failure(f"{self._path}: {error.strerror or error}; {counted(self.rows, 'row')} are written") from None
        else:
            if self.is_full:
                lost = counted(self.lost, "sample")
                say(f"{self._path}: line {self.file.rows + 1}: there is room again; {lost} lost so far: a gap")
            self.is_full = False
            self.rows += 1
        if self.file.halvings > halvings:
            self._every_s *= 2 ** (self.file.halvings - halvings)
            every = f"one is written every {self._every_s:g} s now"
            say(f"{self._path}: has reached its size: every second row was dropped, and {every}")


def say(text: str) -> None:
    """Say something on standard error, which may be closed by now."""
    with suppress(OSError, ValueError):
        click.echo(text, err=True)
