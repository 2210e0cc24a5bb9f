"""Files of traces: read by whoever plays them, an agent process or a command of the lab."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

import trio

from xbd.config.guest import PlaysTrace
from xbd.control.guest_settings import FindTrace, no_trace, plan_guest, workload_of
from xbd.daemons.config_files import read_text
from xbd.domain import plays_trace
from xbd.errors import ConfigError, TraceError
from xbd.guest.workload import Trace, parse_trace

# Two weeks of a row a second. It is read whole, which takes some four times as much memory for a moment.
MAX_TRACE_BYTES: Final = 256 << 20


def read_trace(path: Path) -> Trace:
    """Read one trace file, which may be a pipe; the trace is called as the file is, without folder and suffix.

    Raises:
        TraceError: naming the file and what is wrong with it.
    """
    return replace(_read(path, may_wait=True), name=path.stem)


def _read(path: Path, *, may_wait: bool) -> Trace:
    try:
        text = read_text(path, may_wait=may_wait, most_bytes=MAX_TRACE_BYTES)
    except ConfigError as error:
        raise TraceError(f"{error} (expected a trace, a CSV file as `xbd docs lab` describes)") from error
    return parse_trace(text, str(path))


@dataclass(frozen=True, slots=True)
class TraceFiles:
    """The traces that the guests of one process play: a file that several of them play is read, and held, once."""

    _held: WeakValueDictionary[tuple[object, ...], Trace] = field(default_factory=WeakValueDictionary)
    _one_at_a_time: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(1))

    async def load(self, settings: Mapping[str, object], gfn_count: int) -> FindTrace:
        """Read what a guest plays, as `finder` does, in a thread: a long trace takes seconds, and other guests go on meanwhile."""
        if not plays_trace(settings):
            return no_trace
        # One after the other, so that the next one finds what the one before has read.
        return await trio.to_thread.run_sync(
            self.finder, settings, gfn_count, limiter=self._one_at_a_time, abandon_on_cancel=True
        )

    def find(self, path: Path) -> Trace:
        """Return the trace of a file, as it is now. Raises TraceError."""
        try:
            found = path.stat()
        except OSError:
            return _read(path, may_wait=False)
        key = (path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
        if (trace := self._held.get(key)) is None:
            trace = self._held[key] = _read(path, may_wait=False)
        return trace

    def finder(self, settings: Mapping[str, object], gfn_count: int) -> FindTrace:
        """Read what a guest of these settings plays, if it plays a trace; returns what finds just that. Takes time.

        Raises:
            TraceError: it cannot be played in a guest of *gfn_count* pages.
            BadSetting: the guest's settings cannot be used.
        """
        plan = plan_guest(settings)
        if not isinstance(plan.workload, PlaysTrace):
            return no_trace
        named = Path(plan.workload.trace)
        trace = self.find(named)
        workload_of(plan, gfn_count, lambda _: trace)
        return lambda path: trace if path == named else no_trace(path)
