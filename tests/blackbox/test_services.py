"""What all daemons have in common, each tried as a process: their end, hang-ups, journal, lost hypervisors, directories of others."""

import json
import math
import os
import re
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import forked
from tests.blackbox.daemons import DAEMONS, Daemon, answers, domains, running_with, until
from tests.blackbox.host_directory import EX_CONFIG, tree
from tests.blackbox.rpc import PATIENCE_S, Caller
from tests.blackbox.users import needs_root
from xbd.testing.processes import XBD, Process, end

pytestmark = pytest.mark.slow

every_daemon = pytest.mark.parametrize("daemon", DAEMONS, ids=[daemon.name for daemon in DAEMONS])
FOLLOWERS = [daemon for daemon in DAEMONS if daemon.name in ("guests", "guest", "autoballoon", "xenstored")]
# How much of the processor it has had is where in its start a daemon is, however busy the machine is. Without imports a
# start takes some 25 ms of it, so the last moments are after it.
MOMENTS_MS = range(0, 45, 3)
STRANGER = 12345
LEVELS = {"error": "<3>", "warning": "<4>", "info": "<6>", "debug": "<7>"}


@contextmanager
def hypervisor(run: Path, *more: object) -> Iterator[Process]:
    """Run a hypervisor with two domains, one of which wants an agent of its own; there is one at its socket then."""
    command = [*XBD, "hypervisor", "--memory", "128m", "--runtime-dir", str(run), *map(str, more)]
    with running_with(command, subprocess.DEVNULL) as process:
        until(lambda: answers(run / "hypervisor.sock"))
        if not domains(run):
            with Caller(run / "hypervisor.sock") as caller:
                for name, autostart in (("web1", True), ("solo", False)):
                    caller.call("create", name=name, max_pages=8192, target_pages=8192, autostart=autostart, guest={})
        yield process


def fresh(directory: Path) -> Path:
    """Make a directory, empty, that only this user may write in."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o700)
    return directory


def used_ms(process: Process) -> float:
    """Tell how much of the processor a process's first thread has had; endless, when it has ended."""
    try:
        return int(Path(f"/proc/{process.pid}/schedstat").read_text().split()[0]) / 1e6
    except OSError:
        return math.inf


def until_used(process: Process, ms: float) -> None:
    """Wait until a process has had so much of the processor, or has been idle for a while."""
    deadline = time.monotonic() + PATIENCE_S
    before, since = -1.0, time.monotonic()
    while (used := used_ms(process)) < ms and time.monotonic() < deadline:
        if used != before:
            before, since = used, time.monotonic()
        elif time.monotonic() > since + 0.3:
            return  # it is up, and idle
        time.sleep(0.001)  # noqa: TID251 - another process gets there


@every_daemon
def test_sigterm_at_any_moment_ends_it_and_leaves_nothing_in_the_way(daemon: Daemon, tmp_path: Path) -> None:
    """From its first instant to the middle of its work: it ends with 0, or, before it hears signals, of the signal.

    The next one, in the same directories, serves, and ends with 0.
    """
    with hypervisor(fresh(tmp_path / "host")):
        own = fresh(tmp_path / "own")
        command = daemon.command(tmp_path / "host", own)
        for ms in MOMENTS_MS:
            with running_with(command, subprocess.DEVNULL) as process:
                until_used(process, ms)
                assert end(process) in (0, -signal.SIGTERM), ms
        # A host lists the agents of the one before for a moment, which would be taken for those of the next.
        until(lambda: not daemon.serves(tmp_path / "host", own))
        with running_with(command, subprocess.DEVNULL) as process:
            until(lambda: daemon.serves(tmp_path / "host", own))
            assert end(process) == 0


@every_daemon
def test_a_hang_up_ends_none_but_up(daemon: Daemon, tmp_path: Path) -> None:
    """Each says what it has read again, or that there is nothing, and serves on; `up` ends with its host."""
    with hypervisor(fresh(tmp_path / "host")), (tmp_path / "log").open("wb") as log:
        own = fresh(tmp_path / "own")
        with running_with(daemon.command(tmp_path / "host", own), log.fileno()) as process:
            until(lambda: daemon.serves(tmp_path / "host", own))
            process.send_signal(signal.SIGHUP)
            if daemon.name == "up":
                assert process.wait(PATIENCE_S) == 0
                return
            until(
                lambda: (
                    re.search(rb'"event": "(nothing_to_reload|reloaded)"', (tmp_path / "log").read_bytes()) is not None
                )
            )
            assert daemon.serves(tmp_path / "host", own)
            assert end(process) == 0


def events_in(log: Path) -> list[str]:
    """List the events of a log, in order."""
    return [json.loads(line)["event"] for line in log.read_text().splitlines() if line.startswith("{")]


@pytest.mark.parametrize("daemon", FOLLOWERS, ids=[daemon.name for daemon in FOLLOWERS])
def test_a_hypervisor_is_lost_once_and_back_once(daemon: Daemon, tmp_path: Path) -> None:
    """Killed, gone for a while, and started again from its state: two lines each time, and it is served as before."""
    host, own, state = fresh(tmp_path / "host"), fresh(tmp_path / "own"), tmp_path / "state"
    losses, log = 2, tmp_path / "log"
    with (
        hypervisor(host, "--state-dir", state) as first,
        log.open("wb") as stream,
        running_with(daemon.command(host, own), stream.fileno(), within_s=4 * PATIENCE_S) as process,
    ):
        until(lambda: daemon.serves(host, own))
        first.kill()
        first.wait()
        for loss in range(1, losses + 1):
            until(lambda loss=loss: events_in(log).count("hypervisor_lost") == loss)  # type: ignore[misc]
            found = events_in(log).count("hypervisor_found")
            with hypervisor(host, "--state-dir", state) as again:
                until(lambda found=found: events_in(log).count("hypervisor_found") == found + 1)  # type: ignore[misc]
                until(lambda: daemon.serves(host, own))
                again.kill()
                again.wait()
        assert end(process) == 0
    events = [event for event in events_in(log) if event in ("hypervisor_lost", "hypervisor_found")]
    first_found = [] if events[0] == "hypervisor_lost" else ["hypervisor_found"]
    one = ["hypervisor_lost", "hypervisor_found"]
    assert events in ([*first_found, *one * losses], [*first_found, *one * losses, "hypervisor_lost"])


def with_journal(command: Sequence[str], log: Path) -> list[str]:
    """Spell a command whose $JOURNAL_STREAM says that *log*, its standard error, is the journal."""
    status = log.stat()
    return ["env", f"JOURNAL_STREAM={status.st_dev}:{status.st_ino}", *command]


def check_marks(log: Path) -> list[str]:
    """Hold each line of a log to having its own level's priority; returns all priorities."""
    lines = log.read_text().splitlines()
    for line in lines:
        assert re.match("<[2-7]>.", line), line
        if line[3:].startswith("{"):
            assert line[:3] == LEVELS[json.loads(line[3:])["level"]]
    return [line[:3] for line in lines]


@every_daemon
def test_the_journal_is_told_the_priority_of_each_line(daemon: Daemon, tmp_path: Path) -> None:
    """Of its log, of what `up` and `metrics` tell a person, and of the children that `up` starts; none is an error."""
    with hypervisor(fresh(tmp_path / "host")), (tmp_path / "log").open("wb") as log:
        own = fresh(tmp_path / "own")
        command = with_journal(daemon.command(tmp_path / "host", own), tmp_path / "log")
        with running_with(command, log.fileno()) as process:
            until(lambda: daemon.serves(tmp_path / "host", own))
            assert end(process) == 0
    marks = check_marks(tmp_path / "log")
    assert "<6>" in marks
    assert "<3>" not in marks


@every_daemon
def test_what_a_daemon_cannot_start_for_is_an_error_in_the_journal(daemon: Daemon, tmp_path: Path) -> None:
    """The sentence on standard error, as `journalctl -p err` is to show it."""
    nowhere = tmp_path / ("x" * 120)
    own = fresh(tmp_path / "own")
    # A path that is too long for a socket, whichever of the two it is that this daemon uses.
    command = [part.replace(str(own / "run"), str(nowhere)) for part in daemon.command(nowhere, own)]
    log = tmp_path / "log"
    log.touch()
    with log.open("wb") as stream:
        code = subprocess.run(with_journal(command, log), stderr=stream, timeout=PATIENCE_S, check=False).returncode  # noqa: S603
    assert code == EX_CONFIG, log.read_text()
    assert set(check_marks(log)) == {"<3>"}


STATES = {
    "hypervisor": lambda own, state: [
        "hypervisor",
        "--memory",
        "64m",
        "--runtime-dir",
        own / "run",
        "--state-dir",
        state,
    ],
    "xenstored": lambda own, state: [
        "--socket",
        own,
        "xenstored",
        "--xenstore-socket",
        own / "s",
        "--state-dir",
        state,
    ],
}


@needs_root
@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("whose", ["everybody's", "another group's", "another user's", "another user's link"])
def test_a_state_directory_that_others_can_change_is_refused(name: str, whose: str, tmp_path: Path) -> None:
    """Exit code 78, in a sentence with what to do; nothing in it has changed."""
    own, state = fresh(tmp_path / "own"), fresh(tmp_path / "state")
    command = [*XBD, *map(str, STATES[name](own, state))]
    with running_with(command, subprocess.DEVNULL) as process:
        until(lambda: any(state.glob("*.json")) or any(state.glob("*.save")))
        until(lambda: (own / "s").exists() or answers(own / "run" / "hypervisor.sock"))
        assert end(process) == 0
    match whose:
        case "everybody's":
            state.chmod(0o777)
        case "another group's":
            os.chown(state, -1, STRANGER)
            state.chmod(0o770)
        case "another user's":
            os.chown(state, STRANGER, -1)
        case "another user's link":
            state.rename(tmp_path / "kept")
            state.symlink_to(tmp_path / "kept")
            os.chown(state, STRANGER, -1, follow_symlinks=False)
    before, mode = tree(state), stat.S_IMODE(state.stat().st_mode)
    ended = forked.run(command[len(XBD) :], PATIENCE_S)
    # A mode can be mended; another user's is not ours to mend.
    way_out = "use another directory" if "user" in whose else "chmod it"
    assert (ended.returncode, "the state directory" in ended.stderr, way_out in ended.stderr) == (
        EX_CONFIG,
        True,
        True,
    )
    assert (tree(state), stat.S_IMODE(state.stat().st_mode)) == (before, mode)
