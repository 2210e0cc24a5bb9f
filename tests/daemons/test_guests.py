"""Real processes: agents that are killed, and what the daemon and the others make of it."""

import signal
from pathlib import Path

import pytest
import trio

from tests.processes import Xbd, running
from xbd.client.client import Client, open_client
from xbd.client.runtime_dir import hypervisor_socket
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


def kill(agent: Xbd) -> None:
    """Kill it with SIGKILL and wait for its end."""
    assert agent.end(signal.SIGKILL) == -signal.SIGKILL


@pytest.mark.slow
async def test_a_killed_agent_leaves_the_daemon_and_the_others_working(tmp_path: Path) -> None:
    """Its domain waits, keeps its memory, and boots again when an agent comes; others go on; no frame is lost."""
    socket = str(hypervisor_socket(tmp_path))
    with running("hypervisor", "--memory", "256m", "--runtime-dir", str(tmp_path)) as hypervisor:
        hypervisor.wait_until_it_says("hypervisor_ready")
        async with open_client(socket) as client:
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
        assert hypervisor.end(signal.SIGTERM) == 0
    assert not hypervisor_socket(tmp_path).exists()


@pytest.mark.slow
async def test_a_shut_down_guest_ends_its_process(tmp_path: Path) -> None:
    """`xbd guest` ends with 0 when its guest was shut down, with 1 when its domain is destroyed under it."""
    socket = str(hypervisor_socket(tmp_path))
    with running("hypervisor", "--memory", "64m", "--runtime-dir", str(tmp_path)) as hypervisor:
        hypervisor.wait_until_it_says("hypervisor_ready")
        async with open_client(socket) as client:
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
