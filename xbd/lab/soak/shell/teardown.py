"""How a soak ends: all faults stop, everything settles, all guests go, and nothing of them may be left."""

import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio

from xbd.cli.progress import Following, observe_all
from xbd.client.client import Client, open_client
from xbd.daemons.runtime.state_files import is_of_state
from xbd.errors import NoSuchDomain
from xbd.lab.soak import population
from xbd.lab.soak.shell.checker import Checker
from xbd.lab.soak.shell.processes import Member, SoakProcesses
from xbd.lab.soak.shell.traffic import Traffic
from xbd.protocol.views import DOM0, DomainView

_LOOK_EVERY_S: Final = 0.2
# Long enough for what backs off (32 s at most in a Linux driver), and for all guests to boot at once.
_SETTLE_S: Final = 60.0
_LET_GO_S: Final = 20.0
# An agent process without a guest: the interpreter's, trio's and logging's own, and one client.
_AGENT_DESCRIPTORS: Final = 24
_OWN: Final = (population.CHECKER, population.FLOODER)


class Teardown:
    """The end of one soak.

    Attributes: *settled*: how many guests came to what; *leaks*: what was left, by name, 0 where nothing was.
    """

    def __init__(self, processes: SoakProcesses, traffic: Traffic, checker: Checker) -> None:
        self._stage = processes
        self._traffic = traffic
        self._witness = checker
        self.settled: Counter[str] = Counter()
        self.leaks: dict[str, int] = {}

    async def play(self) -> None:
        """Do all of it."""
        await self.heal()
        async with open_client(self._stage.socket) as client:
            await self._wait_for_agents(client)
            await self._settle(client)
            await self._finish_witness()
            await self._audit(client, "when all had settled")
            await self._let_all_go(client)
        await self._restart_in_order()

    async def heal(self) -> None:
        """Let everything that was stopped, killed or filled be as it was."""
        processes = self._stage
        processes.empty_disk()
        await processes.autoballoon.end(signal.SIGTERM)
        for member in (processes.daemon, *processes.agents().values(), *self._traffic.playing().values()):
            member.send(signal.SIGCONT)
        if processes.daemon.process is None:
            await processes.start_daemon()
        for member in processes.agents().values():
            if member.process is None:
                await member.start()

    # -- settling

    async def _wait_for_agents(self, client: Client) -> None:
        """Remove who has ended, and wait until everybody else is played."""

        async def all_played() -> bool:
            domains = await client.list()
            for domain in domains:
                if domain.state in ("shutdown", "crashed") and domain.domid != DOM0:
                    await self._destroy(client, domain)
            return all(domain.agent or domain.name in _OWN for domain in domains if domain.state != "zombie")

        if not await _come_true(all_played, _SETTLE_S):
            without = [domain.name for domain in await client.list() if not domain.agent and domain.name not in _OWN]
            self._stage.found(f"without an agent {_SETTLE_S:g} s after the last fault: {', '.join(without)}")

    async def _settle(self, client: Client) -> None:
        following = []
        for domain in await client.list():
            if domain.domid != DOM0 and domain.name not in _OWN and domain.agent:
                target_pages = population.last_target(domain.static_max_pages)
                await client.set_target(domain.domid, target_pages)
                following.append(
                    Following(domain.domid, domain.name, domain.tot_pages, target_pages, trio.current_time())
                )

        async def all_settled() -> bool:
            now = trio.current_time()
            observe_all(following, await client.list(), now, stuck_after_s=_SETTLE_S / 2, deadline_s=_SETTLE_S)
            return all(one.settled for one in following)

        await _come_true(all_settled, 2 * _SETTLE_S)
        for one in following:
            self.settled[str(one.outcome)] += 1
            if not one.settled:
                self._stage.found(f"{one.name} has not settled: {one.distance_pages} pages from its target, and moving")
            elif one.reason:
                self._stage.tally.remarks[f"{one.name} is not at its target: {one.reason}"] += 1

    async def _finish_witness(self) -> None:
        self._witness.finishing.set()
        with trio.move_on_after(_SETTLE_S) as patience:
            await self._witness.finished.wait()
        if patience.cancelled_caught:
            self._stage.found("the witness did not finish")

    async def _audit(self, client: Client, when: str) -> None:
        for violation in await client.audit():
            self._stage.found(f"audit {when}: {violation}")

    # -- leaks

    async def _destroy(self, client: Client, domain: DomainView) -> None:
        try:
            await client.destroy(domain.domid)
        except NoSuchDomain:
            if domain.told.get("on_crash") != "destroy":
                self._stage.found(f"{domain.name} was gone before it was destroyed")

    async def _let_all_go(self, client: Client) -> None:
        for domain in await client.list():
            if domain.domid != DOM0 and domain.state != "zombie":
                await self._destroy(client, domain)
        await self._traffic.end_playing()

        async def dom0_alone() -> bool:
            return len(await client.list()) == 1 and not any(_dom0_holds(await client.info(DOM0)).values())

        await _come_true(dom0_alone, _LET_GO_S)
        domains = await client.list()
        dom0 = await client.info(DOM0)
        host = await client.host()
        self.leaks = {"zombies": sum(domain.state == "zombie" for domain in domains)}
        self.leaks["domains"] = len(domains) - 1 - self.leaks["zombies"]
        self.leaks |= _dom0_holds(dom0)
        self.leaks["frames"] = abs(int(host["frames"]) - int(host["free_frames"]) - dom0.tot_pages)
        self.leaks["state files"] = self._stray_files({domain.domid for domain in domains})
        self.leaks["descriptors of agent processes"] = sum(
            max(open_files(member).total() - _AGENT_DESCRIPTORS, 0) for member in self._stage.hosts.values()
        )
        await self._audit(client, "when all guests were gone")

    def _stray_files(self, domids: set[int]) -> int:
        """Count sections of domains that are gone, and files that nobody knows."""
        expected = {f"{kind}-{domid}" for domid in domids for kind in ("domain", "agent")}
        expected |= {"host-0", "daemon-0", "undo", "state.json", "lock"}
        strays = {path.name for path in self._stage.state_dir.iterdir()} - expected
        for name in sorted(strays):
            known = "of a domain that is gone" if is_of_state(name) else "that nobody knows"
            self._stage.found(f"a file {name} {known} is in the state directory")
        return len(strays)

    async def _restart_in_order(self) -> None:
        """End the daemon in order and start it again: what it holds more than the new one does, it has leaked."""
        processes = self._stage
        await trio.sleep(_LET_GO_S / 10)  # our own client has just left
        before = open_files(processes.daemon)
        code = await processes.daemon.end(signal.SIGTERM)
        if code != 0:
            processes.found(f"the hypervisor ended with {code} when it was asked to; see logs/hypervisor.log")
        await processes.start_daemon()

        async def as_many() -> bool:
            return not before - open_files(processes.daemon)

        await _come_true(as_many, _LET_GO_S / 2)
        leaked = before - open_files(processes.daemon)
        self.leaks["descriptors of the daemon"] = sum(leaked.values())
        if leaked:
            processes.found(f"descriptors that a new daemon does not have: {dict(leaked)}")
        async with open_client(processes.socket) as client:
            await self._audit(client, "after a restart in order")
        for name, count in self.leaks.items():
            if count:
                processes.found(f"leaked: {count} {name}")


def _dom0_holds(dom0: DomainView) -> dict[str, int]:
    """Count what the back end holds of other domains."""
    slots, mapped = (int(dom0.report.get(name) or 0) for name in ("slots", "io_mapped_pages"))
    return {"slots": slots, "mapped pages": mapped, "mapped grants": int(dom0.told.get("mapped_grants") or 0)}


def open_files(member: Member) -> Counter[str]:
    """Count what a process has open, by kind or path; nothing when it is gone."""
    opened: Counter[str] = Counter()
    if member.process is not None:
        for link in Path(f"/proc/{member.process.pid}/fd").iterdir():
            with suppress(OSError):  # closed while we looked
                opened[str(link.readlink()).partition(":[")[0]] += 1
    return opened


async def _come_true(is_so: Callable[[], Awaitable[bool]], within_s: float) -> bool:
    """Look again and again until something is so; False when it was not in time."""
    with trio.move_on_after(within_s):
        while not await is_so():  # noqa: ASYNC110 - other processes
            await trio.sleep(_LOOK_EVERY_S)
        return True
    return False
