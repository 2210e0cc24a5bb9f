"""Logging: structlog to standard error, for a person on a terminal, as JSON lines otherwise.

Event names are fixed snake_case nouns, details are in keys:
`log.warning("peer_dropped", reason=...)`. By impact: error, a request failed or state is unsafe;
warning, worked around; info, a rare change of state; debug, every operation.

Where standard error is systemd's journal, each line begins with its priority, such as `<3>` for an error
(man 3 sd-daemon): `journalctl -p err` shows errors, and no others.
"""

import logging
import os
import sys
from collections.abc import Mapping
from typing import Final, TextIO

import structlog

from xbd.text import printable

# Of man 3 syslog; the journal takes them off again.
_PRIORITIES: Final = {"critical": "<2>", "error": "<3>", "warning": "<4>", "info": "<6>", "debug": "<7>"}


def is_journal(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """Tell whether a stream goes to the journal: $JOURNAL_STREAM has the numbers of its device and inode."""
    told = environ.get("JOURNAL_STREAM")
    if told is None:
        return False
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        # No file is behind it, or it was closed.
        return False
    return told == f"{status.st_dev}:{status.st_ino}"


def mark_for(level: str, stream: TextIO | None = None) -> str:
    """Return what a line of that level begins with: its priority for the journal, nothing anywhere else."""
    return _PRIORITIES[level] if is_journal(stream or sys.stderr) else ""


def _mark(render: structlog.typing.Processor) -> structlog.typing.Processor:
    """Make of a renderer one whose lines begin with their priority."""

    def marked(logger: structlog.typing.WrappedLogger, method: str, told: structlog.typing.EventDict) -> str:
        return _PRIORITIES.get(str(told.get("level")), "") + str(render(logger, method, told))

    return marked


def _printable(
    logger: structlog.typing.WrappedLogger, method: str, told: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Make what peers and files said safe for a terminal; JSON quotes it anyway."""
    del logger, method
    return {key: printable(entry, lines=True) if isinstance(entry, str) else entry for key, entry in told.items()}


def configure(level: str = "info", *, stream: TextIO | None = None) -> None:
    """Set up logging for this process; a later call changes it for all loggers.

    Args:
        level: debug, info, warning or error: what is logged from.
        stream: where to; default standard error. Its being a terminal decides the form.
    """
    stream = stream or sys.stderr
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
    ]
    if stream.isatty():
        processors += [
            _printable,
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            structlog.dev.ConsoleRenderer(),
        ]
    else:
        processors += [
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _mark(structlog.processors.JSONRenderer()) if is_journal(stream) else structlog.processors.JSONRenderer(),
        ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        # A line and its end in one write, so that lines of processes that share a pipe do not mix.
        logger_factory=structlog.WriteLoggerFactory(stream),
        # A daemon that reloads its settings may call this again, and loggers that were used before follow.
        cache_logger_on_first_use=False,
    )


def lost_line(lines: int) -> str:
    """Make the line, without its end, that says how many *lines* were lost, in the form of this process's log."""
    if not structlog.is_configured():
        return f"{lines} lines could not be written here, and are lost"
    entry: structlog.typing.EventDict = {"event": "log_lines_lost", "lines": lines}
    # Not by a logger, whose level might suppress it: the sink writes it before its next line.
    *steps, render = structlog.get_config()["processors"]
    for step in steps:
        entry = step(None, "warning", entry)
    return str(render(None, "warning", entry))
