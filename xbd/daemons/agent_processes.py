"""`xbd guests --processes N`: the guests of a host, shared out over agent processes, so that they use all cores.

Each process plays the guests of its share (`xbd.control.agent_share`), and looks after them by itself. The one that
starts them plays none. It starts again the one that dies, or hangs, whose guests then boot anew; the others' guests notice
nothing. When one keeps dying all end, and whoever started them decides.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import structlog
import trio

from xbd.client.runtime_dir import check_socket_path
from xbd.control.agent_share import AgentShare
from xbd.daemons.runtime.children import Child, Ending, first_of
from xbd.daemons.runtime.service import Service, run_service
from xbd.units import counted

_log = structlog.get_logger(__name__)

NOTHING_TO_RELOAD: Final = "agents have no settings of their own; the hypervisor's host file has"
FAREWELL: Final = "agents disconnect"
# Agents only disconnect, when they are done with what a thousand guests were at.
GUESTS_GRACE_S: Final = 30.0
# More would only share the cores that there are; each takes some 40 MiB.
MOST_PROCESSES: Final = 256


def usable_cores() -> int:
    """Count the cores that this process may use, as far as there can be agent processes for them."""
    return min(len(os.sched_getaffinity(0)), MOST_PROCESSES)


def describe_agents(agents: int, hypervisor: str) -> str:
    """Say in a line how an agent process is: how many agents it runs, and how it stands with the hypervisor."""
    return f"{counted(agents, 'agent')}; {hypervisor}"


def describe_processes(statuses: Sequence[str], processes: int) -> str:
    """Say in a line how all are, by the *statuses* of those of *processes* that are ready, made by `describe_agents`."""
    parts = [status.partition("; ") for status in statuses]
    agents = sum(int(part[0].partition(" ")[0].replace(",", "")) for part in parts)
    running = f"{len(statuses)} of {processes} processes"
    return "; ".join([f"{counted(agents, 'agent')} in {running}", *dict.fromkeys(part[2] for part in parts)])


def agent_processes(
    ending: Ending, processes: int, socket_path: Path, only: str = "*", *, log_level: str, watchdog_s: float | None
) -> list[Child]:
    """Make the children that together are the agents of a host; none is started.

    Args:
        ending: their parent's.
        processes: how many there are to be.
        socket_path: the toolstack's socket.
        only: a shell pattern: whose agents they are for.
        log_level: what they log from.
        watchdog_s: as for `Child`.
    """
    shares = [AgentShare(index, processes) for index in range(processes)]
    command = ("guests", "--socket", str(socket_path), "--only", only, "--log-level", log_level)
    return [
        Child(
            ending,
            "the agents" if processes == 1 else f"agent process {share}",
            *(*command, "--processes", str(processes), "--share", str(share.index)),
            watchdog_s=watchdog_s,
        )
        for share in shares
    ]


async def keep_all(agents: Sequence[Child]) -> None:
    """Keep agent processes running until all is to end."""
    async with trio.open_nursery() as nursery:
        for child in agents:
            nursery.start_soon(child.keep, "their guests boot anew" if len(agents) == 1 else "its guests boot anew")


async def end_all(agents: Sequence[Child]) -> None:
    """End agent processes, all at the same time, when all is to end."""
    async with trio.open_nursery() as nursery:
        for child in agents:
            nursery.start_soon(child.end, GUESTS_GRACE_S)


async def run_agent_processes(
    socket_path: Path, only: str = "*", *, processes: int, log_level: str = "info", supervised: bool = False
) -> int:
    """Be the parent of the agent processes of the hypervisor at *socket_path*, until SIGTERM or SIGINT.

    Args:
        socket_path: the toolstack's socket.
        only: a shell pattern: whose agents they are for.
        processes: how many there are to be.
        log_level: what they log from.
        supervised: end with whoever supervises it, too.

    Returns:
        The exit code: not 0 when one kept dying, refused its settings (78), or ended badly.

    Raises:
        ConfigError: the path is longer than a socket's can be.
    """
    check_socket_path(socket_path)
    ending = Ending(
        lambda line: _log.warning("agent_processes", reason=line), lambda why: _log.info("stop_asked", signal=why)
    )

    async def start(service: Service) -> int:
        agents = agent_processes(
            ending, processes, socket_path, only, log_level=log_level, watchdog_s=service.manager.watchdog_s
        )

        def describe() -> str:
            return describe_processes([child.status for child in agents if child.is_ready], processes)

        async def all_ready() -> None:
            while not all(child.is_ready for child in agents):
                await ending.changed.wait()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(keep_all, agents)
                await first_of(all_ready, ending.begun.wait)
                if not ending.begun.is_set():
                    _log.info("agent_processes_ready", processes=processes)
                    async with service.ready(describe, ending.changed.wait):
                        await ending.begun.wait()
        finally:
            ending.begun.set()
            service.manager.stopping(FAREWELL)
            with trio.CancelScope(shield=True):
                await end_all(agents)
        return ending.exit_code

    code = await run_service(start, reload=NOTHING_TO_RELOAD, stop=ending.stop, supervised=supervised)
    _log.info("agent_processes_stopped")
    return code
