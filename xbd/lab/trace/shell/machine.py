"""What the machine at hand says of its memory, and its clocks."""

import os
import time
from contextlib import suppress
from pathlib import Path

from xbd.errors import TraceError
from xbd.lab.trace.proc import FILES, MEMINFO
from xbd.lab.trace.watch import Moment


def read_proc() -> dict[str, str]:
    """Read those of FILES that can be read, by their paths. Raises TraceError: there is no /proc/meminfo."""
    texts: dict[str, str] = {}
    for name in FILES:
        # A kernel without it, or one that shows it to nobody: ENOENT, EACCES, EOPNOTSUPP (PSI that is switched off).
        with suppress(OSError):
            texts[name] = Path(name).read_text(encoding="ascii")
    if MEMINFO not in texts:
        raise TraceError(f"{MEMINFO}: cannot be read: a trace is recorded on Linux")
    return texts


def read_clocks() -> Moment:
    """Read the clocks."""
    return Moment(time.clock_gettime(time.CLOCK_BOOTTIME), time.clock_gettime(time.CLOCK_MONOTONIC), time.time())


def page_bytes() -> int:
    """Tell the size of this machine's pages."""
    return os.sysconf("SC_PAGE_SIZE")
