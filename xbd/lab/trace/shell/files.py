"""Files of traces and of what others recorded, as the commands of `xbd trace` read and write them."""

import os
from contextlib import suppress
from pathlib import Path

from xbd.cli.common import Failure
from xbd.daemons.config_files import read_text
from xbd.daemons.trace_files import MAX_TRACE_BYTES
from xbd.errors import ConfigError, TraceError
from xbd.lab.trace.table import Table, parse_table


def read_source(path: Path) -> str:
    """Read a file, which may be a pipe. Raises TraceError."""
    try:
        return read_text(path, may_wait=True, most_bytes=MAX_TRACE_BYTES)
    except ConfigError as error:
        raise TraceError(str(error)) from error


def read_table(path: Path) -> Table:
    """Read a trace with all of its columns. Raises TraceError."""
    return parse_table(read_source(path), str(path))


def write_whole(path: Path, text: str) -> None:
    """Write a file that is there whole, or, if that fails, as it was before. Raises Failure."""
    other = path.with_name(f".{path.name}.new")
    try:
        if path.exists() and not path.is_file():
            # What cannot be replaced, such as /dev/stdout.
            path.write_text(text, encoding="utf-8")
            return
        with other.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        other.replace(path)
    except OSError as error:
        with suppress(OSError):
            other.unlink()
        raise Failure(f"{path}: cannot be written: {error.strerror or error}") from error
