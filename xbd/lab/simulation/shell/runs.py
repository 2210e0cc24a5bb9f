"""Do one run of the daemons and return its outcome."""

import math
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import structlog
import trio
import trio.testing

from xbd.errors import ConfigError
from xbd.lab.simulation.daemons.options import FAULTS, DaemonOptions
from xbd.lab.simulation.daemons.report import DaemonOutcome
from xbd.lab.simulation.outcome import leave_out
from xbd.lab.simulation.shell.daemon_switches import DAEMON_SWITCHES
from xbd.lab.simulation.shell.scheduler import seeded
from xbd.lab.simulation.shell.world import World
from xbd.lab.simulation.switches import find, limits_without, switched_off
from xbd.testing.oracle import Violation

_SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108 - a directory of its own is made in it
_TMPFS: Final = "tmpfs"


def memory_directory() -> Path:
    """Find a directory on a file system in memory: $TMPDIR, or /dev/shm. Raises ConfigError: neither is one."""
    places = [os.environ.get("TMPDIR"), _SHARED_MEMORY]
    for place in places:
        if place and file_system_of(Path(place)) == _TMPFS and os.access(place, os.W_OK):
            return Path(place)
    raise ConfigError(
        _SHARED_MEMORY,
        "",
        "is no file system in memory (tmpfs) that can be written; the daemons' files would wait for a disk, whose pace"
        " no seed decides: mount one there, or name one with $TMPDIR",
    )


def file_system_of(directory: Path) -> str:
    """Name the kind of file system that a directory is on, as the kernel's list of mounts does; "" where it is not there."""
    if not directory.is_dir():
        return ""
    found, kind = "", ""
    real = os.path.realpath(directory)
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines():
        _, mounted, this_kind, *_ = line.split(" ")
        if len(mounted) >= len(found) and Path(real).is_relative_to(mounted):
            found, kind = mounted, this_kind
    return kind


def run(options: DaemonOptions, write: Callable[[str], None] | None = None) -> DaemonOutcome:
    """Do one run. Raises ConfigError: there is no file system in memory; BadArgument: there is no such switch; NotSeeded."""
    missing = find(options.off, DAEMON_SWITCHES, " of daemons")
    base = Path(tempfile.mkdtemp(prefix="xbd-", dir=memory_directory()))
    worlds: list[World] = []
    violation, ended_s = None, [0.0]

    async def live() -> None:
        world = World(options, base, limits_without(missing), write)
        worlds.append(world)
        try:
            await world.run()
        finally:
            ended_s.append(trio.current_time())

    logging = structlog.get_config()
    clock = trio.testing.MockClock(autojump_threshold=0)
    try:
        with seeded(options.seed), switched_off(missing):
            try:
                trio.run(live, clock=clock, restrict_keyboard_interrupt_to_checkpoints=True)
            except (BaseExceptionGroup, Exception) as error:  # noqa: BLE001 - whatever ends a run is a finding
                violation = _first_of(error)
    finally:
        structlog.configure(**logging)
        shutil.rmtree(base, ignore_errors=True)
    (world,) = worlds
    trace = world.trace
    return DaemonOutcome(
        options,
        trace.events,
        ended_s[-1],
        trace.digest,
        violation,
        dict(sorted(trace.happened.items())),
        dict(sorted(trace.reached.items())),
    )


def shrink(found: DaemonOutcome) -> DaemonOutcome:
    """Search for a shorter run with fewer kinds of faults that also fails; the failure may be another one."""
    return leave_out(
        found,
        [kind for kind in FAULTS if found.happened.get(kind)],
        lambda best, kind: run(replace(best.options, without=(*best.options.without, kind))),
        _limit_seconds,
    )


def _limit_seconds(found: DaemonOutcome) -> DaemonOutcome:
    """Let the faults end just after the failure."""
    seconds = math.ceil(found.seconds * 1000 + 1) / 1000
    return replace(found, options=replace(found.options, seconds=min(found.options.seconds, seconds)))


def _first_of(error: BaseException) -> str:
    """Say what ended a run: the first violation, else the first error. Raises what is neither."""
    errors = list(_flat(error))
    for one in errors:
        if isinstance(one, Violation):
            return str(one)
    for one in errors:
        if not isinstance(one, Exception):
            raise error
    return f"{type(errors[0]).__name__}: {errors[0]}"


def _flat(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [one for inner in error.exceptions for one in _flat(inner)]
    return [error]
