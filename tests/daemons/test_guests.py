"""Real processes: agents that are killed, and what the daemon and the others make of it."""

import json
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.processes import Xbd, children_of, is_alive, running
from xbd.client.client import Client, open_client
from xbd.client.runtime_dir import hypervisor_socket
from xbd.control.agent_share import AgentShare
from xbd.daemons.agent_processes import describe_agents, describe_processes
from xbd.domain import DomainInfo

# Nothing takes so long; a hung test ends then.
PATIENCE_S = 60.0


async def until(client: Client, **states: str) -> dict[str, DomainInfo]:
    """Look at the domains until each is in its state."""
    with trio.fail_after(PATIENCE_S):
        while True:
            domains = {domain.name: domain for domain in await client.list()}
            if all(domains[name].state == state for name, state in states.items()):
                return domains
            await trio.sleep(0.02)


async def until_it_holds(client: Client, name: str, pages: int) -> None:
    """Look at a domain until it holds *pages*."""
    with trio.fail_after(PATIENCE_S):
        while (await client.info(name)).tot_pages != pages:  # noqa: ASYNC110 - another process moves it
            await trio.sleep(0.02)


@asynccontextmanager
async def hypervisor_of(directory: Path, memory: str) -> AsyncIterator[Client]:
    """Run a hypervisor of so much memory, which ends well in the end; yields a client of it."""
    with running("hypervisor", "--memory", memory, "--runtime-dir", str(directory)) as hypervisor:
        hypervisor.wait_until_it_says("hypervisor_ready")
        async with open_client(hypervisor_socket(directory)) as client:
            yield client
        assert hypervisor.end(signal.SIGTERM) == 0


def kill(agent: Xbd) -> None:
    """Kill it with SIGKILL and wait for its end."""
    assert agent.end(signal.SIGKILL) == -signal.SIGKILL


@pytest.mark.slow
async def test_a_killed_agent_leaves_the_daemon_and_the_others_working(tmp_path: Path) -> None:
    """Its domain waits, keeps its memory, and boots again when an agent comes; others go on; no frame is lost."""
    socket = str(hypervisor_socket(tmp_path))
    async with hypervisor_of(tmp_path, "256m") as client:
        for name, autostart in (("hosted1", True), ("hosted2", True), ("alone", False)):
            guest = {"workload": "steady", "verify": True}
            await client.create(name, max_pages=16384, target_pages=16384, autostart=autostart, guest=guest)
        with running("guests", "--socket", socket) as host:
            await until(client, hosted1="running", hosted2="running", alone="waiting")
            with running("guest", "alone", "--socket", socket) as alone:
                await until(client, alone="running")
                await client.set_target("alone", 8192)
                kill(alone)
            domains = await until(client, hosted1="running", hosted2="running", alone="waiting")
            assert not domains["alone"].agent

            with running("guest", "alone", "--socket", socket):
                await until(client, alone="running")
                await until_it_holds(client, "alone", 8192)
                kill(host)
                await until(client, hosted1="waiting", hosted2="waiting", alone="running")
                await client.set_target("hosted1", 12288)
                with running("guests", "--socket", socket):
                    await until(client, hosted1="running", hosted2="running", alone="running")
                    await until_it_holds(client, "hosted1", 12288)
                    assert await client.audit() == []
    assert not hypervisor_socket(tmp_path).exists()


@pytest.mark.slow
async def test_a_shut_down_guest_ends_its_process(tmp_path: Path) -> None:
    """`xbd guest` ends with 0 when its guest was shut down, with 1 when its domain is destroyed under it."""
    socket = str(hypervisor_socket(tmp_path))
    async with hypervisor_of(tmp_path, "64m") as client:
        await client.create("web", max_pages=4096, target_pages=4096, autostart=False)
        for end, exit_code in ((client.shutdown, 0), (client.destroy, 1)):
            with running("guest", "web", "--socket", socket) as guest:
                await until(client, web="running")
                await end("web")
                with trio.fail_after(PATIENCE_S):
                    while guest.process.poll() is None:  # noqa: ASYNC110 - another process
                        await trio.sleep(0.02)
                assert guest.end() == exit_code


@pytest.mark.slow
async def test_a_guest_is_not_played_on_for_another_domain(tmp_path: Path) -> None:
    """Where a host was begun anew, a domain of the same number and name is another one: `xbd guest` ends with 1."""
    socket = str(hypervisor_socket(tmp_path))
    hypervisor = ("hypervisor", "--memory", "64m", "--runtime-dir", str(tmp_path))
    with running(*hypervisor) as first:
        first.wait_until_it_says("hypervisor_ready")
        async with open_client(socket) as client:
            await client.create("web", max_pages=1024, target_pages=1024, autostart=False)
            with running("guest", "web", "--socket", socket) as guest:
                await until(client, web="running")
                kill(first)
                with running(*hypervisor) as second:
                    second.wait_until_it_says("hypervisor_ready")
                    async with open_client(socket) as again:
                        await again.create("web", max_pages=1024, target_pages=1024, autostart=False)
                        assert await trio.to_thread.run_sync(guest.process.wait) == guest.end() == 1
                        assert "domain_destroyed" in guest.said[-1]
                        assert (await again.info("web")).state == "waiting"
                    assert second.end() == 0


@pytest.mark.slow
async def test_a_killed_process_takes_only_its_own_guests_along(tmp_path: Path) -> None:
    """It is started again and its guests boot anew; those of the other one notice nothing, and all lines are whole."""
    socket = str(hypervisor_socket(tmp_path))
    async with hypervisor_of(tmp_path, "256m") as client:
        domids = [
            await client.create(f"web{n}", max_pages=4096, target_pages=4096, guest={"workload": "steady"})
            for n in range(6)
        ]
        everybody = {f"web{n}": "running" for n in range(6)}
        with running("guests", "--processes", "2", "--socket", socket) as agents:
            agents.wait_until_it_says("agent_processes_ready")
            await until(client, **everybody)
            first = max([event["number"] async for event in client.events(follow=False)])
            before = children_of(agents.process.pid)
            os.kill(before["guests 1"], signal.SIGKILL)
            agents.wait_until_it_says("agent process 2/2 died: killed by SIGKILL")
            agents.wait_until_it_says("starting agent process 2/2 again; its guests boot anew")
            agents.wait_until_it_says("guests_ready")
            await until(client, **everybody)
            events = [event async for event in client.events(first + 1, follow=False)]
            theirs = {domid for domid in domids if AgentShare(1, 2).holds(domid)}
            assert {event["domid"] for event in events if event["event"] == "agent_lost"} == theirs
            assert 0 < len(theirs) < len(domids)
            after = children_of(agents.process.pid)
            assert after["guests 0"] == before["guests 0"]
            assert await client.audit() == []
            assert agents.end(signal.SIGTERM) == 0
            assert not any(is_alive(pid) for pid in after.values())
    said = [json.loads(line)["event"] for line in agents.said]
    assert said.count("guests_stopped") == 2


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["", "guests_ready", "agent_processes_ready"])
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_agent_processes_end_with_their_parent(tmp_path: Path, moment: str, how: signal.Signals) -> None:
    """However it ends, and at whatever moment: none is left, and there is no hypervisor to wait for."""
    with running("guests", "--processes", "3", "--socket", str(tmp_path)) as agents:
        if moment:
            agents.wait_until_it_says(moment)
        else:
            while not children_of(agents.process.pid):
                time.sleep(0.01)  # noqa: TID251 - until the first has been started
        pids = children_of(agents.process.pid).values()
        # Their standard error is the parent's: it ends when the last of them has.
        assert agents.end(how) in (0, -how)
        while any(is_alive(pid) for pid in pids):
            time.sleep(0.01)  # noqa: TID251 - between closing stderr and being gone lies next to nothing


def test_all_processes_are_told_in_a_line() -> None:
    """Of those that are ready, how many agents they run together, and how each stands with the hypervisor, once."""
    statuses = [describe_agents(1200, "connected"), describe_agents(1, "connected"), describe_agents(0, "trying")]
    assert describe_processes(statuses, 4) == "1,201 agents in 3 of 4 processes; connected; trying"
    assert describe_processes([], 2) == "0 agents in 0 of 2 processes"
