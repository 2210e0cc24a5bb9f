"""Measures hypercalls of programs under `xbd xen` against direct calls of the client, and how long a start takes."""

import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import trio

from xbd.client.blocking import connect
from xbd.lab.bench.figures import REPEATS, Figure, summarize
from xbd.testing.processes import running_host

_CALLS: Final = 500
_HOST: Final = """
[host]
memory = "256m"
[[guest]]
name = "web{n}"
count = 2
maximum = "64m"
autostart = false
"""


async def measure_xen(directory: Path, repeats: int = REPEATS) -> dict[str, Figure]:
    """Measure in a directory of its own. Raises XbdError: the host does not start."""
    async with running_host(_HOST, directory):
        return await trio.to_thread.run_sync(_measure, directory / "run", repeats)


def _measure(sockets: Path, repeats: int) -> dict[str, Figure]:
    own = [sys.executable, "-m", "xbd", "xen", "--socket", str(sockets)]
    caller = [sys.executable, "-m", "xbd.lab.bench.shell.hypercaller", "1", str(_CALLS), str(repeats + 1)]
    printed = subprocess.run([*own, *caller], check=True, capture_output=True, text=True).stdout  # noqa: S603 - our own
    through = [float(line) for line in printed.splitlines()][1:]
    direct = []
    with connect(sockets) as client:
        for _ in range(repeats + 1):
            start = time.perf_counter()
            for _ in range(_CALLS):
                client.info(1)
            direct.append((time.perf_counter() - start) / _CALLS)
    starts = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run([*own, "true"], check=True)  # noqa: S603 - our own
        starts.append(time.perf_counter() - start)
    base = statistics.median(direct[1:])
    return {
        "xen_hypercall": summarize([1e6 * seconds for seconds in through], "us"),
        "xen_hypercall_to_direct": summarize([seconds / base for seconds in through], "ratio", "a call of the client"),
        "xen_start": summarize([1e3 * seconds for seconds in starts], "ms"),
    }
