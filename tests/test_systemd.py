"""The systemd units, judged by systemd's own tools, and what their daemons tell a service manager, as real processes."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest
import trio

from tests.daemons.runtime.manager import PATIENCE_S, Manager, service_manager
from tests.processes import Xbd, running
from xbd.client.client import open_client
from xbd.client.runtime_dir import hypervisor_socket
from xbd.daemons.runtime.sockets import bind_unix, descriptors_for

SYSTEMD = Path(__file__).parent.parent / "systemd"
UNITS = sorted(path.name for path in SYSTEMD.iterdir() if path.suffix in (".service", ".socket", ".target"))
SERVICES = [name for name in UNITS if name.endswith(".service")]
CLIENTS = [name for name in SERVICES if name != "xbd-hypervisor.service"]
WORST_EXPOSURE = 2.0
GUESTS_AT_LEAST = 1000

needs_analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")

# What systemd does on the way to exec, in the process that becomes the daemon: the passed socket becomes
# descriptor 3 and is named by this very pid; with "mdwe", memory can no more be mapped to be written and
# executed, the kernel's own way of what MemoryDenyWriteExecute= does (PR_SET_MDWE, Linux 6.3; an older
# kernel says EINVAL, and the daemon runs without).
LAUNCHER: Final = """
import ctypes, errno, os, sys
descriptor, guard, *command = sys.argv[1:]
if guard == "mdwe" and ctypes.CDLL(None, use_errno=True).prctl(65, 1, 0, 0, 0):
    assert ctypes.get_errno() == errno.EINVAL, os.strerror(ctypes.get_errno())
if descriptor != "none":
    os.dup2(int(descriptor), 3)
    os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": "hypervisor"}
os.execv(command[0], command)
"""


def launcher(passed: socket.socket | None = None, guard: str = "") -> Sequence[str]:
    """Spell out the command that goes before an `xbd` command."""
    return [sys.executable, "-c", LAUNCHER, "none" if passed is None else str(passed.fileno()), guard]


def lines_of(unit: str) -> dict[str, list[str]]:
    """Read a unit's settings, each with all its values."""
    settings: dict[str, list[str]] = {}
    for line in (SYSTEMD / unit).read_text().splitlines():
        key, equals, setting = line.partition("=")
        if equals and not line.startswith("#"):
            settings.setdefault(key, []).append(setting)
    return settings


# -- the units


@needs_analyze
def test_systemd_finds_nothing_to_say_of_the_units(tmp_path: Path) -> None:
    """`systemd-analyze verify` is silent, with this interpreter's own `xbd` in the place of an installed one."""
    xbd = tmp_path / "xbd"
    xbd.write_text(f'#!/bin/sh\nexec {sys.executable} -m xbd "$@"\n')
    xbd.chmod(0o755)
    for unit in UNITS:
        text = (SYSTEMD / unit).read_text()
        (tmp_path / unit).write_text(re.sub(r"^ExecStart=xbd ", f"ExecStart={xbd} ", text, flags=re.MULTILINE))
    command = ["systemd-analyze", "verify", "--man=no", *(f"./{unit}" for unit in UNITS)]
    judged = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)  # noqa: S603

    assert (judged.returncode, judged.stdout + judged.stderr) == (0, "")


@needs_analyze
@pytest.mark.parametrize("unit", SERVICES)
def test_the_services_are_hardened(unit: str) -> None:
    """`systemd-analyze security` rates each 2.0 or better (0 is best, 10 is worst)."""
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", f"./{unit}"]
    judged = subprocess.run(command, cwd=SYSTEMD, capture_output=True, text=True, check=True)  # noqa: S603
    overall = re.search(r"Overall exposure level for .*: ([0-9.]+)", judged.stdout)

    assert overall is not None
    assert float(overall[1]) <= WORST_EXPOSURE


@pytest.mark.parametrize("unit", SERVICES)
def test_the_services_say_what_they_must(unit: str) -> None:
    """They notify, are watched, start again unless their configuration is wrong, and know Unix sockets only."""
    settings = lines_of(unit)
    assert settings["Type"] == ["notify"]
    assert settings["Restart"] == ["on-failure"]
    assert settings["RestartPreventExitStatus"] == ["78"]
    assert settings["RestrictAddressFamilies"] == ["AF_UNIX"]
    assert settings["MemoryDenyWriteExecute"] == ["yes"]
    assert int(settings["WatchdogSec"][0]) > 0


@pytest.mark.parametrize("unit", CLIENTS)
def test_the_hypervisor_s_crash_stops_no_client(unit: str) -> None:
    """No client of the hypervisor has a relation to it by which systemd stops or restarts that client when it crashes."""
    settings = lines_of(unit)
    assert not {"BindsTo", "Requires", "Requisite", "PartOf"} & settings.keys()
    assert settings["StopPropagatedFrom"] == ["xbd-services.target"]
    assert settings["After"] == ["xbd-hypervisor.service"]


def test_a_stop_and_a_start_of_the_hypervisor_reach_its_clients() -> None:
    """A stop by the target between them, which each client starts; a start reaches those that are enabled."""
    target = lines_of("xbd-services.target")
    assert target["PartOf"] == target["After"] == ["xbd-hypervisor.service"]
    for unit in CLIENTS:
        assert lines_of(unit)["Wants"] == ["xbd-hypervisor.service xbd-services.target"]
        assert lines_of(unit)["WantedBy"] == ["xbd-hypervisor.service"]


def test_a_hypervisor_that_cannot_start_is_not_started_by_its_socket_again_and_again() -> None:
    """Its failure reaches a target that conflicts with the socket; starting it again by hand opens the socket."""
    hypervisor = lines_of("xbd-hypervisor.service")
    assert hypervisor["OnFailure"] == ["xbd-hypervisor-failed.target"]
    assert lines_of("xbd-hypervisor-failed.target")["Conflicts"] == ["xbd-hypervisor.socket"] == hypervisor["Requires"]


def test_they_are_hardened_alike() -> None:
    """What one of them must not do, none of them does."""
    blocks = {(SYSTEMD / unit).read_text().partition("# Hardening.")[2].partition("[Install]")[0] for unit in SERVICES}
    assert len(blocks) == 1


def test_a_thousand_guests_have_their_descriptors() -> None:
    """In the daemon and in the agent host."""
    assert int(lines_of("xbd-hypervisor.service")["LimitNOFILE"][0]) >= descriptors_for(GUESTS_AT_LEAST)
    assert int(lines_of("xbd-guests.service")["LimitNOFILE"][0]) >= GUESTS_AT_LEAST + 64


def test_the_socket_lies_where_the_daemon_takes_it() -> None:
    """In the run-time directory that the service is given, and that outlives it."""
    service, listening = lines_of("xbd-hypervisor.service"), lines_of("xbd-hypervisor.socket")
    directory = Path("%t") / service["RuntimeDirectory"][0]
    assert listening["ListenStream"] == [str(hypervisor_socket(directory))]
    assert service["RuntimeDirectoryPreserve"] == ["yes"]
    assert listening["SocketMode"] == ["0660"]


def test_the_user_can_be_made(tmp_path: Path) -> None:
    """`systemd-sysusers` understands its file."""
    sysusers = shutil.which("systemd-sysusers")
    if sysusers is None:
        pytest.skip("there is no systemd-sysusers")
    (tmp_path / "etc").mkdir()
    command = [sysusers, f"--root={tmp_path}", str(SYSTEMD / "xbd-sysusers.conf")]
    subprocess.run(command, capture_output=True, check=True)  # noqa: S603

    users = {lines_of(unit)["User"][0] for unit in SERVICES}
    assert users == {"xbd"}
    assert re.search("^xbd:", (tmp_path / "etc" / "passwd").read_text(), flags=re.MULTILINE)


# -- the daemons

HOST = '[host]\nmemory = "256m"\n'
WEB = '[[guest]]\nname = "web"\nmaximum = "64m"\n'
DB = '[[guest]]\nname = "db"\nmaximum = "64m"\n'


def watched(monkeypatch: pytest.MonkeyPatch, manager: Manager, within_s: float = 0.1) -> None:
    """Have daemons notify *manager*, and be watched by it, closely."""
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    monkeypatch.setenv("WATCHDOG_USEC", f"{within_s * 1e6:.0f}")


def relative(path: Path) -> str:
    """Spell a path as seen from here."""
    return os.path.relpath(path)


async def hang_up(daemon: Xbd, manager: Manager) -> None:
    """Send a SIGHUP and wait until the daemon is ready again."""
    daemon.process.send_signal(signal.SIGHUP)
    await manager.until(RELOADING="1")
    await manager.until(READY="1")


def told(said: Sequence[str]) -> list[dict[str, object]]:
    """Read a daemon's log."""
    return [json.loads(line) for line in said if line.startswith("{")]


@pytest.mark.slow
async def test_the_hypervisor_tells_of_its_whole_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ready when it can be connected to, status, alive, reloading (a broken file, too), stopping, in this order."""
    file, run = tmp_path / "host.toml", tmp_path / "run"
    host = HOST + 'runtime_dir = "run"\nlog_level = "warning"\n'
    file.write_text(host + WEB)
    with service_manager(tmp_path) as manager:
        watched(monkeypatch, manager)
        # By a relative path, as people name files: what it says is relative to it all the same.
        command = ["hypervisor", "--config", relative(file)]
        with running(*command, launcher=launcher(None, "mdwe")) as xbd:
            ready = await manager.until(READY="1")
            assert ready["STATUS"] == "1 domain, 0 agents connected; 192 MiB of 256 MiB free"
            await manager.until(WATCHDOG="1")
            async with open_client(hypervisor_socket(run)) as client:
                await client.create("more", max_pages=16384, target_pages=16384)
                await manager.until(STATUS="2 domains, 0 agents connected; 128 MiB of 256 MiB free")

                file.write_text(host + WEB + DB + "[[guest]\n")
                await hang_up(xbd, manager)
                assert {domain.name for domain in await client.list()} == {"web", "more"}
                file.write_text(host.replace("256m", "1g").replace("warning", "info") + WEB + DB)
                await hang_up(xbd, manager)
                assert {domain.name for domain in await client.list()} == {"web", "more", "db"}
            await manager.until(WATCHDOG="1")
            assert xbd.end(signal.SIGTERM) == 0
        manager.take()
    # What it said while it logged warnings only, and from the second reload on.
    failed, left, reloaded, *_ = told(xbd.said)
    assert (failed["event"], "is not TOML" in str(failed["reason"])) == ("reload_failed", True)
    assert (left["event"], left["key"]) == ("not_reloaded", "host.memory")
    assert (reloaded["event"], reloaded["guests"]) == ("reloaded", ["db"])
    assert reloaded["applied"] == ["host.log_level"]
    states = [next(iter(message)) for message in manager.heard]
    assert [state for state in states if state not in ("STATUS", "WATCHDOG")] == [
        *("READY", "RELOADING", "READY", "RELOADING", "READY", "STOPPING")
    ]
    assert states.index("READY") < states.index("WATCHDOG")


@pytest.mark.slow
async def test_clients_wait_while_the_daemon_restarts(tmp_path: Path) -> None:
    """A passed socket outlives the daemon: who connects meanwhile is served by the next one."""
    path = hypervisor_socket(tmp_path)
    command = ("hypervisor", "--memory", "64m", "--runtime-dir", str(tmp_path))
    with bind_unix(path) as passed:
        by, descriptors = launcher(passed), [passed.fileno()]
        with running(*command, launcher=by, pass_fds=descriptors) as first:
            async with open_client(path) as client:
                await client.create("web", max_pages=4096, target_pages=4096)
            assert first.end(signal.SIGTERM) == 0
        assert path.is_socket()

        served = trio.Event()

        async def connect() -> None:
            async with open_client(path) as client:
                assert await client.list() == []
                served.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(connect)
            await trio.testing.wait_all_tasks_blocked()
            assert not served.is_set()
            with running(*command, launcher=by, pass_fds=descriptors), trio.fail_after(PATIENCE_S):
                await served.wait()
    assert path.is_socket()


def test_a_passed_socket_that_lies_elsewhere_ends_the_start(tmp_path: Path) -> None:
    """With exit code 78 and the two paths, before anything is made."""
    with bind_unix(tmp_path / "other.sock") as passed:
        command = ("hypervisor", "--memory", "64m", "--runtime-dir", str(tmp_path / "run"))
        with running(*command, launcher=launcher(passed), pass_fds=[passed.fileno()]) as xbd:
            assert xbd.process.wait() == 78
            xbd.end()
    assert f"the passed socket 'hypervisor' is bound to '{tmp_path}/other.sock'" in "".join(xbd.said)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
async def test_the_agents_tell_of_their_whole_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent host's and one guest's: ready, status, alive, nothing to reload, stopping."""
    file, run = tmp_path / "host.toml", tmp_path / "run"
    file.write_text(HOST + WEB + DB + "autostart = false\n")
    with running("hypervisor", "--config", str(file), "--runtime-dir", str(run)) as hypervisor:
        hypervisor.wait_until_it_says("hypervisor_ready")
        for command, status in (
            (["guests", "--processes", "1"], "1 agent; connected to the hypervisor"),
            (["guests", "--processes", "2"], "1 agent in 2 of 2 processes; connected to the hypervisor"),
            (["guest", "db"], "plays db (d2)"),
        ):
            directory = tmp_path / "".join(command)
            directory.mkdir()
            with service_manager(directory) as manager:
                # Of agents that share their guests, the parent kills the one that is not well for so long.
                watched(monkeypatch, manager, 4)
                with running(*command, "--socket", str(run), launcher=launcher(None, "mdwe")) as agents:
                    await manager.until(STATUS=status)
                    await manager.until(WATCHDOG="1")
                    await hang_up(agents, manager)
                    assert agents.end(signal.SIGTERM) == 0
                manager.take()
            assert "nothing_to_reload" in {entry["event"] for entry in told(agents.said)}
            states = [next(iter(message)) for message in manager.heard]
            assert [state for state in states if state not in ("STATUS", "WATCHDOG")] == [
                *("READY", "RELOADING", "READY", "STOPPING")
            ]


def test_a_terminal_that_is_closed_ends_the_daemon(tmp_path: Path) -> None:
    """Its SIGHUP means just that: nobody would read the log, nobody could press Ctrl-C."""
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "xbd", "hypervisor", "--memory", "64m", "--runtime-dir", str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=theirs) as daemon:  # noqa: S603
        os.close(theirs)
        shown = b""
        while not re.search(rb"hypervisor_ready.*\n", shown):
            shown += os.read(ours, 4096)
        os.close(ours)
        daemon.send_signal(signal.SIGHUP)
        assert daemon.wait() == 0
    assert not hypervisor_socket(tmp_path).exists()
