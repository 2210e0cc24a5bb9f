"""The file of a time series: moments are written as they come, whole, and a disk that is full ends the series in a sentence."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from xbd.cli.common import Failure
from xbd.control.series import header, lines_of
from xbd.domain import DomainInfo

STDOUT: Final = "-"
_F = TypeVar("_F", bound=Callable[..., Any])


def series_option(command: _F) -> _F:
    """Give a command `--series FILE`."""
    return click.option(
        "--series",
        "series_path",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Write host and guests over time as CSV; a file that is there is written anew.",
    )(command)


class SeriesFile:
    """A series that is being written; nothing of it is kept in memory.

    Attributes: *lacking*: what could not be written, as a sentence; None: nothing. From then on nothing more is written,
    and whole moments are left in the file.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor = descriptor
        self._name = name
        self._bytes = 0
        # The header is none.
        self._rows = -1
        self.lacking: str | None = None
        self.add_lines(header())

    def add(
        self,
        run: str,
        t_s: float,
        host: Mapping[str, Any],
        domains: Sequence[DomainInfo],
        demand_pages: Mapping[int, int] | None = None,
    ) -> None:
        """Write a moment, as `lines_of` formats it."""
        self.add_lines(lines_of(run, t_s, host, domains, demand_pages))

    def add_lines(self, lines: str) -> None:
        """Write whole moments that are formatted already."""
        if self.lacking is not None:
            return
        encoded = lines.encode()
        rest = memoryview(encoded)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError as error:
            if isinstance(error, BrokenPipeError) and self._name == STDOUT:
                # Who reads has enough: that ends a command as it does everywhere.
                raise
            self.lacking = (
                f"{self._name}: cannot be written: {error.strerror or error}; it has the {max(self._rows, 0):,} rows before that;"
                " make room and run it again, or write elsewhere"
            )
            with suppress(OSError):
                # Of a file. In a pipe what is written stays.
                os.ftruncate(self._descriptor, self._bytes)
            click.echo(self.lacking, err=True)
            return
        self._rows += lines.count("\n")
        self._bytes += len(encoded)


def refuse_what_is_read(path: Path, read: Sequence[Path]) -> None:
    """Raise Failure if a file that is to be written is, by whatever name, one of those that are read."""
    if any(path.exists() and one.exists() and path.samefile(one) for one in read):
        raise Failure(f"{path}: this is read, and would be written anew; name another file")


@contextmanager
def series_file(path: Path | None, read: Sequence[Path] = ()) -> Iterator[SeriesFile | None]:
    """Open a series for a block; None: none is asked for. `-` is standard output.

    Raises Failure: it cannot be opened, or is one of the files that are *read*; or, after the block, a part of it could not be written, which was said.
    """
    if path is None:
        yield None
        return
    is_stdout = os.fspath(path) == STDOUT
    refuse_what_is_read(path, read)
    try:
        descriptor = os.dup(1) if is_stdout else os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    except OSError as error:
        raise Failure(f"{path}: cannot be written: {error.strerror or error}") from error
    try:
        series = SeriesFile(descriptor, os.fspath(path))
        yield series
    finally:
        os.close(descriptor)
    if series.lacking is not None:
        raise Failure(f"{path}: the series is not whole")
