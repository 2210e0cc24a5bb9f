"""What it takes to look at a host: all its domains, what has changed of them, and commands from their start to their end.

What the daemon takes is its processor time; commands are processes, timed as those who type them have to wait. Guests
are idle and have agents.
"""

import os
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

import trio

from xbd.client.client import Client
from xbd.client.runtime_dir import hypervisor_socket
from xbd.lab.bench.figures import REPEATS, Figure, summarize
from xbd.lab.bench.shell.fleet import idle_host
from xbd.lab.bench.shell.wire import BareClient, connect
from xbd.protocol.codec import VERSION
from xbd.testing.processes import XBD

_FEW, _MANY = 8, 1000
# Calls in one sample, in which the clock of a process is to move.
_CALLS: Final = 50


async def measure_list(
    directory: Path, few: int = _FEW, many: int = _MANY, repeats: int = REPEATS
) -> dict[str, Figure]:
    """Measure a host of a *few* guests and one of *many*, each figure so often; *directory*: for their files."""
    figures: dict[str, Figure] = {}
    for count in (few, many):
        async with idle_host(directory, count, guest_gib=1, memory_gib=count * 2) as (client, run_dir):
            figures |= await (_measure_commands if count == few else _measure_daemon)(client, run_dir, repeats)
    return figures


async def _measure_commands(_client: Client, run_dir: Path, repeats: int) -> dict[str, Figure]:
    """Measure `xbd list`, and an interpreter that does nothing but import click."""
    listing, floor = (*XBD, "--socket", str(run_dir), "list"), (sys.executable, "-c", "import click")
    taken = [(await _run(listing), await _run(floor)) for _ in range(1 + repeats)][1:]
    return {
        "list_command": summarize([command for command, _ in taken], "s"),
        "list_command_vs_click": summarize(
            [command / click for command, click in taken], "ratio", "an interpreter that imports click"
        ),
    }


async def _measure_daemon(client: Client, run_dir: Path, repeats: int) -> dict[str, Figure]:
    """Measure the daemon's part in telling all domains, and that none has changed; and one that is set and waited for."""
    async with connect(hypervisor_socket(run_dir)) as bare:
        await bare.call("hello", {"version": VERSION})
        known = await client.changes()
        whole = [await _daemon_ms(bare, {}) for _ in range(1 + repeats)][1:]
        nothing = [await _daemon_ms(bare, {"since": (await client.changes(known.since)).since}) for _ in range(repeats)]
    command = partial(_run_mem_set, run_dir, known.domains[len(known.domains) // 2].name)
    waited = [await command("50%" if number % 2 else "100%") for number in range(1 + repeats)][1:]
    return {
        "list_all": summarize(whole, "ms"),
        "list_no_changes": summarize(nothing, "ms"),
        "list_no_changes_vs_all": summarize(
            [few / every for few, every in zip(nothing, whole, strict=True)], "ratio", "a list of all"
        ),
        "mem_set_wait": summarize(waited, "s"),
    }


async def _run_mem_set(run_dir: Path, name: str, size: str) -> float:
    return await _run((*XBD, "--socket", str(run_dir), "mem-set", name, size, "--wait"))


async def _run(command: Sequence[str]) -> float:
    """Run a command to its end; returns seconds."""
    start = time.perf_counter()
    await trio.run_process(command, capture_stdout=True)
    return time.perf_counter() - start


async def _daemon_ms(bare: BareClient, params: dict[str, object]) -> float:
    """Ask for a list several times; returns the daemon's processor time for one, in ms."""
    clock = _clock_of(bare.server_pid)
    start = time.clock_gettime(clock)
    for _ in range(_CALLS):
        await bare.call("list", params)
    return (time.clock_gettime(clock) - start) / _CALLS * 1000


def _clock_of(pid: int) -> int:
    """Name the clock that counts a process's processor time (clock_getcpuclockid, on Linux)."""
    assert sys.platform == "linux", f"{os.name} numbers the clocks of processes otherwise"
    return ~pid << 3 | 2
