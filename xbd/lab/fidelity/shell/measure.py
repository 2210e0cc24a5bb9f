"""Measure the memory of the machine at hand, and write a trace that `xbd fidelity` reads.

Programs take memory, hold it and end, while another one gives parts of its memory back and takes them again all the
time: anonymous memory in pages of 4 KiB, the same in huge pages, files, and both at once, where the files stay in the
page cache for as long again as the program. After each there is time in which nothing but that other one runs.
"""

import os
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Final, NamedTuple

import click
import trio

from xbd.cli.common import Failure
from xbd.errors import TraceError, XbdError
from xbd.lab.fidelity.shell import holder
from xbd.lab.trace.columns import BALLOONED
from xbd.lab.trace.proc import BUDDYINFO, ZONEINFO, available_bytes, machine_row, missing
from xbd.lab.trace.shell.machine import read_proc
from xbd.lab.trace.table import row_text
from xbd.units import PAGE_BYTES, parse_size_bytes

_MOST_BYTES: Final = 2 << 30
_PERIOD_S: Final = 1.0
_SAMPLES_LEAST: Final = 100
# What the programs of a measurement take at least: less than this is lost among what the machine does anyway.
_LEAST_BYTES: Final = 64 << 20


class Part(NamedTuple):
    """A program: its kind, when it starts, fills and holds memory, in shares of the whole time, and how much."""

    kind: str
    starts: float
    fills: float
    holds: float
    memory: float


PLAN: Final = (
    Part(holder.OTHER, 0.05, 0.02, 0.9, 0.125),
    Part(holder.SMALL, 0.1, 0.05, 0.05, 0.875),
    Part(holder.HUGE, 0.35, 0.05, 0.05, 0.875),
    Part(holder.FILES, 0.55, 0.05, 0.05, 0.875),
    Part(holder.FILES, 0.75, 0.05, 0.12, 0.375),
    Part(holder.SMALL, 0.75, 0.05, 0.03, 0.5),
)


@click.command("measure")
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "--memory", help="What the programs take together, e.g. 2g.  [default: a quarter of what is available, at most 2g]"
)
@click.option(
    "--seconds", default=600.0, show_default=True, type=click.FloatRange(2, 86_400), help="For all steps together."
)
def command(path: Path, memory: str | None, seconds: float) -> None:
    """Measure this machine's free memory by order while programs take memory and end; write a trace to FILE."""
    try:
        available = available_bytes(read_proc())
        size = min(available // 4, _MOST_BYTES) if memory is None else parse_size_bytes(memory)
        _check(path, size, available)
        with path.open("w", encoding="utf-8") as trace:
            trio.run(_measure, trace, path.absolute().parent, size, seconds)
    except XbdError as error:
        raise Failure(str(error)) from None
    except OSError as error:
        raise Failure(f"{error.filename or path}: {error.strerror or error}") from None


def _check(path: Path, size: int, available: int) -> None:
    """Refuse what this machine cannot do, before anything is written."""
    lacking = missing(machine_row(read_proc()))
    for file in (BUDDYINFO, ZONEINFO):
        if file in lacking:
            raise TraceError(f"{file}: no {', '.join(lacking[file])}, which a measurement is about")
    if os.sysconf("SC_PAGE_SIZE") != PAGE_BYTES:
        raise Failure(f"this machine's pages have {os.sysconf('SC_PAGE_SIZE')} bytes, {PAGE_BYTES} were expected")
    if not _LEAST_BYTES <= size <= available // 2:
        allowed = f"from {_LEAST_BYTES >> 20}m to half of what is available, {available >> 21}m"
        raise Failure(f"--memory: {size >> 20}m, {allowed}, was expected: others run on this machine")
    room = shutil.disk_usage(path.absolute().parent).free
    if room < 2 * size:
        raise Failure(
            f"{path.absolute().parent}: {room >> 20}m are free, {size >> 19}m are needed for files: give a FILE elsewhere"
        )


async def _measure(trace: IO[str], directory: Path, size: int, seconds: float) -> None:
    """Write a row every so often, and start the programs of PLAN in between; all have ended when it returns."""
    started, waiting = time.monotonic(), sorted(PLAN, key=lambda part: part.starts)
    period = min(_PERIOD_S, seconds / _SAMPLES_LEAST)
    # What a balloon has taken is used, as the blocks that are compared show it.
    header = tuple(column for column in machine_row(read_proc()) if column != BALLOONED)
    trace.write(",".join(("t_s", *header)) + "\n")
    programs: list[subprocess.Popen[bytes]] = []
    with ExitStack() as running:
        while (now := time.monotonic() - started) < seconds:
            while waiting and waiting[0].starts * seconds <= now:
                programs.append(running.enter_context(_start(waiting.pop(0), directory, size, seconds)))
            if any(program.poll() for program in programs):
                raise Failure("a program that takes memory failed, see above: what was measured until then is in FILE")
            row = machine_row(read_proc())
            trace.write(row_text(now, [row[column] for column in header]) + "\n")
            trace.flush()
            # The next multiple of the period, however long the row took.
            await trio.sleep(period - (time.monotonic() - started) % period)


def _start(part: Part, directory: Path, size: int, seconds: float) -> subprocess.Popen[bytes]:
    """Start a program; as a context it ends its input, which ends it, and waits for it."""
    numbers = (int(part.memory * size), part.fills * seconds, part.holds * seconds)
    return subprocess.Popen(  # noqa: S603 - our own
        [sys.executable, "-m", holder.__name__, part.kind, *map(str, numbers), str(directory)], stdin=subprocess.PIPE
    )


if __name__ == "__main__":
    command()
