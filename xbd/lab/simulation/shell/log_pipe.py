"""A daemon's standard error in a simulation: the sink that ships, and behind it a pipe that can break.

What was written is held against what came out: no line torn, and every line that did not come out is counted.
"""

import io
import json
from collections.abc import Callable
from typing import Final, TextIO, cast

import structlog

from xbd import log
from xbd.daemons.runtime.log_sink import STANDARD_ERROR, LogSink
from xbd.daemons.runtime.outside import calls
from xbd.testing.oracle import Violation

_LOST: Final = "log_lines_lost"


class _Sink(LogSink):
    """A sink that is asked to try again by the simulation's time, instead of by a thread of its own."""

    def _retry_later(self) -> None:
        """Leave it to `retry`."""

    def retry(self) -> None:
        """Write what can be written now of what is left."""
        if self.owes:
            self._catch_up()

    @property
    def under_way(self) -> bytes:
        """The rest of what was written in part: it comes before anything else."""
        return self._unwritten


class LogPipe(io.TextIOBase):
    """What one process writes to, and all that came out at the other end."""

    def __init__(self) -> None:
        super().__init__()
        self.out = bytearray()
        self._lines = 0
        self._sink = _Sink(lambda encoded: calls.write_log(STANDARD_ERROR, encoded), tell=log.lost_line)

    def write(self, text: str, /) -> int:
        """Write as a logger does: a line and its end."""
        self._lines += text.count("\n")
        return self._sink.write(text)

    def flush(self) -> None:
        """Flush as a logger does."""
        self._sink.flush()

    def retry(self) -> None:
        """Let the sink try again."""
        self._sink.retry()

    def check(self, who: str) -> None:
        """Hold what came out against what was written. Raises Violation: a line is torn, or was lost without a word."""
        told, lost = 0, self._sink.lost_lines
        for line in (bytes(self.out) + self._sink.under_way).splitlines():
            try:
                read = json.loads(line)
            except ValueError:
                raise Violation(f"{who}: a log line came out torn: {line[:120]!r}") from None
            if read["event"] == _LOST:
                lost += read["lines"]
            else:
                told += 1
        if told + lost != self._lines:
            raise Violation(f"{who}: of {self._lines} log lines {told} came out and {lost} are counted as lost")


class Routed(io.TextIOBase):
    """The stream that loggers of all processes write to: each line goes to the pipe of the process that logs."""

    def __init__(self, find: Callable[[], LogPipe | None]) -> None:
        super().__init__()
        self._find = find

    def write(self, text: str, /) -> int:
        """Write to the process's own pipe; what no process logs is said by the trace alone."""
        pipe = self._find()
        return len(text) if pipe is None else pipe.write(text)

    def flush(self) -> None:
        """Flush the process's own pipe."""
        pipe = self._find()
        if pipe is not None:
            pipe.flush()


def configure(stream: Routed, note: structlog.typing.Processor) -> None:
    """Log as daemons do, without the time of day, and let *note* see each line before it is rendered."""
    log.configure("info", stream=cast(TextIO, stream))
    steps = [
        step for step in structlog.get_config()["processors"] if not isinstance(step, structlog.processors.TimeStamper)
    ]
    structlog.configure(processors=cast("list[structlog.typing.Processor]", [*steps[:-1], note, steps[-1]]))
