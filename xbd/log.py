"""Logging: structlog to standard error, for a person on a terminal, as JSON lines otherwise.

Event names are fixed snake_case nouns, details are in keys:
`log.warning("peer_dropped", reason=...)`. By impact: error, a request failed or state is unsafe;
warning, worked around; info, a rare change of state; debug, every operation.
"""

import logging
import sys
from typing import TextIO

import structlog


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
        processors += [structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False), structlog.dev.ConsoleRenderer()]
    else:
        processors += [
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
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
