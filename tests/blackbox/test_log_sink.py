"""Daemons whose log cannot be written: its reader leaves or does not read, its disk is full, and what they say afterwards."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.blackbox.daemons import DAEMONS, Daemon, answers, domains, running_with, until
from tests.blackbox.rpc import Caller
from xbd.testing.processes import Process, end

pytestmark = pytest.mark.slow
# A hypervisor that serves all tests here is killed then.
ALL_TESTS_S = 1200.0
# Between two looks; and after how long a daemon has surely tried again to write what is left.
SOON_S = 0.1
RETRIED_WITHIN_S = 5.0
every_daemon = pytest.mark.parametrize("daemon", DAEMONS, ids=[daemon.name for daemon in DAEMONS])


@pytest.fixture(scope="module")
def long_lived_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Run a hypervisor, with a log of its own, that the other daemons are of use to."""
    directory = tmp_path_factory.mktemp("host")
    command = [sys.executable, "-m", "xbd", "hypervisor", "--memory", "128m", "--runtime-dir", str(directory)]
    with running_with(command, subprocess.DEVNULL, within_s=ALL_TESTS_S):
        until(lambda: answers(directory / "hypervisor.sock"))
        with Caller(directory / "hypervisor.sock") as caller:
            for name, autostart in (("web1", True), ("solo", False)):
                caller.call("create", name=name, max_pages=8192, target_pages=8192, autostart=autostart, guest={})
        yield directory


@pytest.fixture
def host(long_lived_host: Path) -> Path:
    """Wait until the host lists no agent of an earlier test's daemon, which would be taken for that of the next one."""
    until(lambda: not any(domain["agent"] for domain in domains(long_lived_host).values()))
    return long_lived_host


def fill(writing: int) -> None:
    """Fill a pipe until nothing more goes in; its writer's other descriptors stay blocking."""
    own = os.open(f"/proc/self/fd/{writing}", os.O_WRONLY | os.O_NONBLOCK)
    try:
        for size in (4096, 1):
            with suppress(BlockingIOError):
                while True:
                    os.write(own, b"\n" * size)
    finally:
        os.close(own)


def drained(reading: int) -> bytes:
    """Read what is in a pipe now."""
    os.set_blocking(reading, False)
    read = b""
    try:
        while more := os.read(reading, 65536):
            read += more
    except BlockingIOError:
        pass
    return read


def ends_in_order(process: Process, own: Path) -> None:
    """Check that a daemon ends with 0, and that the state that it has saved, if any, has its checksums."""
    assert end(process) == 0
    if (own / "state").exists():
        assert (own / "state" / "checksums.json").exists()


@every_daemon
def test_a_reader_that_leaves_takes_no_daemon_along(daemon: Daemon, host: Path, tmp_path: Path) -> None:
    """As in `xbd hypervisor 2>&1 | head -n1`: the daemon serves on, and SIGTERM ends it with 0 and checksums."""
    reading, writing = os.pipe()
    with running_with(daemon.command(host, tmp_path), writing) as process:
        os.close(writing)
        until(lambda: daemon.serves(host, tmp_path))
        os.close(reading)
        if daemon.name != "up":
            process.send_signal(signal.SIGHUP)
        assert daemon.serves(host, tmp_path)
        ends_in_order(process, tmp_path)


@every_daemon
def test_a_reader_that_does_not_read_holds_nobody_up(daemon: Daemon, host: Path, tmp_path: Path) -> None:
    """Into a pipe that is full from the start, nothing can be written: the daemon comes up, serves and ends as ever."""
    reading, writing = os.pipe()
    fill(writing)
    with running_with(daemon.command(host, tmp_path), writing) as process:
        until(lambda: daemon.serves(host, tmp_path))
        ends_in_order(process, tmp_path)
    os.close(reading)
    os.close(writing)


@every_daemon
def test_a_full_disk_under_the_log_stops_nobody(daemon: Daemon, host: Path, tmp_path: Path) -> None:
    """With every write refused (/dev/full) the daemon comes up, serves and ends as ever."""
    full = os.open("/dev/full", os.O_WRONLY)
    with running_with(daemon.command(host, tmp_path), full) as process:
        os.close(full)
        until(lambda: daemon.serves(host, tmp_path))
        ends_in_order(process, tmp_path)


@every_daemon
def test_what_was_lost_is_said_when_somebody_reads_again(daemon: Daemon, host: Path, tmp_path: Path) -> None:
    """Lines that found the pipe full are counted; once it is read, a line says how many, without another event."""
    reading, writing = os.pipe()
    fill(writing)
    with running_with(daemon.command(host, tmp_path), writing) as process:
        until(lambda: daemon.serves(host, tmp_path))

        def is_said() -> bool:
            # Not every daemon says something when it starts; each but `up`, which would end, says something of this.
            if daemon.name != "up":
                process.send_signal(signal.SIGHUP)
            threading.Event().wait(SOON_S)
            said, until_s = b"", time.monotonic() + RETRIED_WITHIN_S
            while not (is_told := b"log_lines_lost" in said or b"lines could not be written here" in said):
                if time.monotonic() > until_s:
                    break
                said += drained(reading)
                threading.Event().wait(SOON_S)
            fill(writing)
            return is_told

        until(is_said)
        ends_in_order(process, tmp_path)
    os.close(reading)
    os.close(writing)


def test_a_closed_standard_error_is_no_reason_to_end(tmp_path: Path) -> None:
    """A daemon that is started with `2>&-` runs, and no file of its state gets what is written to descriptor 2."""
    command = DAEMONS[0].command(tmp_path, tmp_path)
    with running_with(["sh", "-c", 'exec "$@" 2>&-', "sh", *command], subprocess.DEVNULL) as process:
        until(lambda: answers(tmp_path / "run" / "hypervisor.sock"))
        assert Path(f"/proc/{process.pid}/fd/2").readlink() == Path(os.devnull)
        ends_in_order(process, tmp_path)


def test_the_flags_of_a_shared_standard_error_stay(tmp_path: Path) -> None:
    """The daemon does not wait for its log, and yet whoever shares the pipe still writes to it in blocking mode."""
    reading, writing = os.pipe()
    with running_with(DAEMONS[0].command(tmp_path, tmp_path), writing) as process:
        until(lambda: answers(tmp_path / "run" / "hypervisor.sock"))
        assert os.get_blocking(writing)
        ends_in_order(process, tmp_path)
    os.close(reading)
    os.close(writing)


def test_a_refusal_keeps_its_exit_code_when_nobody_reads_it(tmp_path: Path) -> None:
    """A daemon with a host file that makes no sense ends with 78, also if the sentence cannot be written."""
    (tmp_path / "host.toml").write_text("[host]\nmemory = 'much'\n")
    command = DAEMONS[0].command(tmp_path, tmp_path)
    (tmp_path / "host.toml").write_text("[host]\nmemory = 'much'\n")
    reading, writing = os.pipe()
    os.close(reading)
    with running_with(command, writing) as process:
        assert process.wait(60) == 78
    os.close(writing)
