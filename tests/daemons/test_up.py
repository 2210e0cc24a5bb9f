"""`xbd up`: a whole host of real processes, started from one file and stopped in order."""

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner

from tests.daemons.runtime.manager import service_manager
from tests.processes import children_of, is_alive, running
from xbd.cli.main import main
from xbd.daemons.runtime import children
from xbd.daemons.supervisor import Supervisor

HOST = """
[host]
memory = "256m"
runtime_dir = "run"
[[guest]]
name = "web{n}"
count = 2
maximum = "32m"
"""


@pytest.fixture
def host_file(tmp_path: Path) -> str:
    """Write a host file whose sockets lie beside it."""
    path = tmp_path / "host.toml"
    path.write_text(HOST)
    return str(path)


def ask(host_file: str, *arguments: str) -> Any:  # noqa: ANN401 - whatever JSON holds
    """Run a command with --json against the host of *host_file*."""
    result = CliRunner().invoke(main, [*arguments, "--json"], env={"XBD_SOCKET": str(Path(host_file).parent / "run")})
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_host_comes_up_works_and_goes(
    host_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
) -> None:
    """Agents are stopped first, the hypervisor audits itself last; exit 0, no socket left; its manager hears of it alone."""
    with service_manager(tmp_path) as manager, monkeypatch.context() as patch:
        patch.setenv("NOTIFY_SOCKET", manager.address)
        check_a_host(host_file, how)
        assert [next(iter(message)) for message in manager.take()] == ["READY", "STOPPING"]


def check_a_host(host_file: str, how: signal.Signals) -> None:
    """Run a host, and see how it ends."""
    with running("up", host_file, "--processes", "2") as up:
        up.wait_until_it_says("2 guests are running")
        pids = children_of(up.process.pid)
        assert pids.keys() == {"hypervisor", "guests 0", "guests 1"}
        assert all(one["outcome"] == "reached" for one in ask(host_file, "mem-set", "*", "50%", "--wait"))
        assert ask(host_file, "audit") == {"violations": []}
        assert up.end(how) == 0
    said = "".join(up.said)
    assert said.index("guests_stopped") < said.index("hypervisor_stopped")
    assert '"violations": []' in said
    assert not any(is_alive(pid) for pid in pids.values())
    assert not list((Path(host_file).parent / "run").rglob("*.sock"))


@pytest.mark.slow
def test_a_guest_plays_its_trace_and_one_whose_trace_is_missing_disturbs_nobody(host_file: str, tmp_path: Path) -> None:
    """The one shows how far it is and what it lacks; of the other the agent's log says why, and its domain waits."""
    plays = 'workload = { trace = "t/web{n}.csv", speed = 100 }\n'
    (tmp_path / "t").mkdir()
    (tmp_path / "t/web1.csv").write_text(
        "t_s,total_pages,free_pages,page_cache_pages\n0,8100,7000,100\n30,8100,100,100\n"
    )
    guests = (f'[[guest]]\nname = "web{n}"\nmaximum = "32m"\ntarget = "16m"\n{plays.replace("{n}", n)}' for n in "12")
    Path(host_file).write_text(HOST.partition("[[guest]]")[0] + "".join(guests))
    with running("up", host_file, "--processes", "1") as up:
        up.wait_until_it_says("web2.csv: cannot be read: No such file or directory")
        assert "agent_ended" in up.said[-1]
        up.wait_until_it_says("demand_unmet")
        while ((playing := ask(host_file, "info", "web1"))["report"] or {"trace_s": 0})["trace_s"] < 30:
            pass
        (said,) = ask(host_file, "explain", "web1")["domains"]
        assert [reason["code"] for reason in said["workload"]][:2] == ["trace", "demand-unmet"]
        assert playing["report"]["unmet_pages"] > 0
        assert ask(host_file, "info", "web2")["state"] == "waiting"
        assert ask(host_file, "audit") == {"violations": []}
        assert up.end() == 0


@pytest.mark.slow
def test_a_killed_hypervisor_is_started_again_from_its_state(tmp_path: Path) -> None:
    """With a state directory its domains are there again, and their guests go on where they were."""
    host_file = tmp_path / "host.toml"
    host_file.write_text(HOST.replace("[[guest]]", 'state_dir = "state"\n[[guest]]'))
    with running("up", str(host_file), "--processes", "1") as up:
        up.wait_until_it_says("2 guests are running")
        assert all(one["outcome"] == "reached" for one in ask(str(host_file), "mem-set", "*", "16m", "--wait"))
        before = children_of(up.process.pid)
        os.kill(before["hypervisor"], signal.SIGKILL)
        up.wait_until_it_says("state_recovered")
        up.wait_until_it_says("hypervisor_ready")
        assert all(one["outcome"] == "reached" for one in ask(str(host_file), "mem-set", "*", "32m", "--wait"))
        domains = ask(str(host_file), "list")
        assert [domain["hypercalls"]["decrease:done"] > 0 for domain in domains] == [True, True]
        assert children_of(up.process.pid)["guests 0"] == before["guests 0"]
        assert ask(str(host_file), "audit") == {"violations": []}
        assert up.end() == 0


@pytest.mark.slow
def test_killed_agents_are_started_again(host_file: str) -> None:
    """Their guests boot anew; the hypervisor, its domains and the other agents have stood all the while."""
    with running("up", host_file, "--processes", "2") as up:
        up.wait_until_it_says("2 guests are running")
        before = children_of(up.process.pid)
        os.kill(before["guests 1"], signal.SIGKILL)
        up.wait_until_it_says("agent process 2/2 died: killed by SIGKILL")
        up.wait_until_it_says("starting agent process 2/2 again; its guests boot anew")
        assert {one["state"] for one in ask(host_file, "wait", "*", "--for", "running")} == {"running"}
        again = children_of(up.process.pid)
        assert {name for name in before if again[name] != before[name]} == {"guests 1"}
        assert ask(host_file, "audit") == {"violations": []}
        assert up.end() == 0


@pytest.mark.slow
async def test_a_hypervisor_for_which_there_is_no_room_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system has none for a moment, a saved host goes on a little later."""
    host_file, said, spawned = tmp_path / "host.toml", list[str](), list[str]()
    host_file.write_text(HOST.replace("[[guest]]", 'state_dir = "state"\n[[guest]]'))
    spawn = children.spawn

    async def failing(stdin: socket.socket, environ: Mapping[str, str], *arguments: str) -> trio.Process:
        spawned.append(arguments[0])
        if spawned.count("hypervisor") == 2 and arguments[0] == "hypervisor":
            raise BlockingIOError(11, "Resource temporarily unavailable")
        process = await spawn(stdin, environ, *arguments)
        if spawned == ["hypervisor"]:
            nursery.start_soon(strike, process)
        return process

    async def strike(hypervisor: trio.Process) -> None:
        while not any("guests are running" in line for line in said):  # noqa: ASYNC110 - other processes
            await trio.sleep(0.02)
        hypervisor.kill()
        while spawned.count("hypervisor") < 3:  # noqa: ASYNC110 - others start it
            await trio.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(children, "spawn", failing)
    up = Supervisor(host_file, tmp_path / "run", 2, said.append, saved=True, processes=1)
    async with trio.open_nursery() as nursery:
        assert await up.run() == 0
    assert "the hypervisor cannot be started: Resource temporarily unavailable" in said


@pytest.mark.slow
async def test_agents_that_refuse_their_settings_are_not_started_again(
    host_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would only refuse them again: everything ends with their exit code, 78, after the first time."""
    spawn = children.spawn

    async def refusing(stdin: socket.socket, environ: Mapping[str, str], *arguments: str) -> trio.Process:
        if arguments[0] != "guests":
            return await spawn(stdin, environ, *arguments)
        return await trio.lowlevel.open_process([sys.executable, "-c", "raise SystemExit(78)"])

    monkeypatch.setattr(children, "spawn", refusing)
    said: list[str] = []
    up = Supervisor(Path(host_file), Path(host_file).parent / "run", 2, said.append, saved=False, processes=1)
    assert await up.run() == 78
    assert said.count("the agents died: exit code 78") == 1


@pytest.mark.slow
def test_a_dead_hypervisor_ends_everything(host_file: str) -> None:
    """Its domains are gone with it; exit 1, and how it ended is said."""
    with running("up", host_file) as up:
        up.wait_until_it_says("2 guests are running")
        pids = children_of(up.process.pid)
        os.kill(pids["hypervisor"], signal.SIGKILL)
        up.wait_until_it_says("the hypervisor died: killed by SIGKILL; its domains are gone with it")
        assert up.process.wait() == 1
        assert not any(is_alive(pid) for pid in pids.values())


async def test_nothing_is_lost_with_a_hypervisor_that_never_answered(
    host_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Domains that there never were are not said to be gone."""

    async def refusing(*_arguments: object) -> trio.Process:
        return await trio.lowlevel.open_process([sys.executable, "-c", "raise SystemExit(78)"])

    monkeypatch.setattr(children, "spawn", refusing)
    said: list[str] = []
    up = Supervisor(Path(host_file), Path(host_file).parent / "run", 2, said.append, saved=False, processes=1)
    assert await up.run() == 78
    assert "the hypervisor died: exit code 78; it had made no domain that anybody could use" in said


@pytest.mark.slow
def test_a_second_host_in_the_same_place_is_refused(host_file: str) -> None:
    """By name, exit 78; the first one does not notice."""
    with running("up", host_file) as up:
        up.wait_until_it_says("hypervisor ready")
        second = CliRunner().invoke(main, ["up", host_file])
        assert second.exit_code == 78
        assert "already; stop it first" in second.stderr
        runtime_dir = str(Path(host_file).parent / "run")
        with running("hypervisor", "--memory", "2m", "--runtime-dir", runtime_dir) as third:
            third.wait_until_it_says("another `xbd hypervisor` runs here")
            assert third.process.wait() == 78
        assert len(ask(host_file, "list")) == 2
        assert up.end() == 0


@pytest.mark.slow
def test_children_do_not_outlive_a_killed_supervisor(host_file: str) -> None:
    """The pipe that it held on their standard input ends, and they stop as they do when told."""
    with running("up", host_file) as up:
        up.wait_until_it_says("2 guests are running")
        pids = children_of(up.process.pid)
        up.process.kill()
        # stderr is the children's, too: it ends when they have.
        up.end()
        while any(is_alive(pid) for pid in pids.values()):
            time.sleep(0.01)  # noqa: TID251 - between closing stderr and being gone lies next to nothing
    assert "hypervisor_stopped" in "".join(up.said)


@pytest.mark.slow
def test_one_guest_has_a_process_of_its_own(host_file: str) -> None:
    """`xbd guest NAME` plays a domain that `xbd guests` leaves alone, until that is shut down."""
    with running("up", host_file) as up:
        up.wait_until_it_says("2 guests are running")
        ask(host_file, "create", "solo", "--target", "32m", "--no-start")
        with running("guest", "solo", "--socket", str(Path(host_file).parent / "run")) as guest:
            assert ask(host_file, "wait", "solo", "--for", "running")[0]["met"]
            assert ask(host_file, "mem-set", "solo", "16m", "--wait")[0]["outcome"] == "reached"
            ask(host_file, "shutdown", "solo")
            assert guest.process.wait() == 0
        assert ask(host_file, "info", "solo")["state"] == "shutdown"
        assert up.end() == 0
