"""`xbd up`: a whole host of real processes, started from one file and stopped in order."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner

from tests.processes import children_of, is_alive, running
from xbd.cli.main import main
from xbd.daemons import supervisor

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
def test_a_host_comes_up_works_and_goes(host_file: str, how: signal.Signals) -> None:
    """Agents are stopped first, the hypervisor audits itself last; exit 0, no socket left."""
    with running("up", host_file) as up:
        up.wait_until_it_says("2 guests are running")
        children = children_of(up.process.pid)
        assert children.keys() == {"hypervisor", "guests"}
        assert all(one["outcome"] == "reached" for one in ask(host_file, "mem-set", "*", "50%", "--wait"))
        assert ask(host_file, "audit") == {"violations": []}
        assert up.end(how) == 0
    said = "".join(up.said)
    assert said.index("guests_stopped") < said.index("hypervisor_stopped")
    assert '"violations": []' in said
    assert not any(is_alive(pid) for pid in children.values())
    assert not list((Path(host_file).parent / "run").rglob("*.sock"))


@pytest.mark.slow
def test_a_killed_hypervisor_is_started_again_from_its_state(tmp_path: Path) -> None:
    """With a state directory its domains are there again, and their guests go on where they were."""
    host_file = tmp_path / "host.toml"
    host_file.write_text(HOST.replace("[[guest]]", 'state_dir = "state"\n[[guest]]'))
    with running("up", str(host_file)) as up:
        up.wait_until_it_says("2 guests are running")
        assert all(one["outcome"] == "reached" for one in ask(str(host_file), "mem-set", "*", "16m", "--wait"))
        before = children_of(up.process.pid)
        os.kill(before["hypervisor"], signal.SIGKILL)
        up.wait_until_it_says("state_recovered")
        up.wait_until_it_says("hypervisor_ready")
        assert all(one["outcome"] == "reached" for one in ask(str(host_file), "mem-set", "*", "32m", "--wait"))
        domains = ask(str(host_file), "list")
        assert [domain["hypercalls"]["decrease:done"] > 0 for domain in domains] == [True, True]
        assert children_of(up.process.pid)["guests"] == before["guests"]
        assert ask(str(host_file), "audit") == {"violations": []}
        assert up.end() == 0


@pytest.mark.slow
def test_killed_agents_are_started_again(host_file: str) -> None:
    """Their guests boot anew; the hypervisor and its domains have stood all the while."""
    with running("up", host_file) as up:
        up.wait_until_it_says("2 guests are running")
        before = children_of(up.process.pid)
        os.kill(before["guests"], signal.SIGKILL)
        up.wait_until_it_says("the agents died: killed by SIGKILL")
        up.wait_until_it_says("starting the agents again")
        assert {one["state"] for one in ask(host_file, "wait", "*", "--for", "running")} == {"running"}
        assert children_of(up.process.pid)["hypervisor"] == before["hypervisor"]
        assert ask(host_file, "audit") == {"violations": []}
        assert up.end() == 0


@pytest.mark.slow
async def test_agents_that_refuse_their_settings_are_not_started_again(
    host_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would only refuse them again: everything ends with their exit code, 78, after the first time."""
    spawn = supervisor._spawn

    async def refusing(*arguments: str) -> trio.Process:
        if arguments[0] != "guests":
            return await spawn(*arguments)
        return await trio.lowlevel.open_process([sys.executable, "-c", "raise SystemExit(78)"])

    monkeypatch.setattr(supervisor, "_spawn", refusing)
    said: list[str] = []
    up = supervisor.Supervisor(Path(host_file), Path(host_file).parent / "run", 2, said.append, saved=False)
    assert await up.run() == 78
    assert said.count("the agents died: exit code 78") == 1


@pytest.mark.slow
def test_a_dead_hypervisor_ends_everything(host_file: str) -> None:
    """Its domains are gone with it; exit 1, and how it ended is said."""
    with running("up", host_file) as up:
        up.wait_until_it_says("2 guests are running")
        children = children_of(up.process.pid)
        os.kill(children["hypervisor"], signal.SIGKILL)
        up.wait_until_it_says("the hypervisor died: killed by SIGKILL; its domains are gone with it")
        assert up.process.wait() == 1
        assert not is_alive(children["guests"])


async def test_nothing_is_lost_with_a_hypervisor_that_never_answered(
    host_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Domains that there never were are not said to be gone."""

    async def refusing(*_arguments: str) -> trio.Process:
        return await trio.lowlevel.open_process([sys.executable, "-c", "raise SystemExit(78)"])

    monkeypatch.setattr(supervisor, "_spawn", refusing)
    said: list[str] = []
    up = supervisor.Supervisor(Path(host_file), Path(host_file).parent / "run", 2, said.append, saved=False)
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
        children = children_of(up.process.pid)
        up.process.kill()
        # stderr is the children's, too: it ends when they have.
        up.end()
        while any(is_alive(pid) for pid in children.values()):
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
