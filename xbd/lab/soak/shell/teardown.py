"""The end of a soak: all faults stop, all guests settle and are removed, and nothing of them may be left."""

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
from xbd.domain import DOM0, DomainInfo
from xbd.errors import NoSuchDomain
from xbd.lab.soak import population
from xbd.lab.soak.shell.agreement import disagreements
from xbd.lab.soak.shell.checker import Checker
from xbd.lab.soak.shell.processes import Member, SoakProcesses
from xbd.lab.soak.shell.traffic import Traffic

_POLL_EVERY_S: Final = 0.2
# Long enough for the back-off of a Linux driver (32 s at most), and for all guests to boot at once.
_SETTLE_S: Final = 60.0
_LET_GO_S: Final = 20.0
# An agent process without a guest: the interpreter's, trio's and logging's own, and one client.
_AGENT_DESCRIPTORS: Final = 24
_OWN: Final = (population.CHECKER, population.FLOODER)


class Teardown:
    """The end of one soak.

    Attributes: *settled*: how many guests settled, by outcome; *leaks*: how much was left, by name, 0: nothing.
    """

    def __init__(self, processes: SoakProcesses, traffic: Traffic, checker: Checker) -> None:
        self._processes = processes
        self._traffic = traffic
        self._checker = checker
        self.settled: Counter[str] = Counter()
        self.leaks: dict[str, int] = {}

    async def run(self) -> None:
        """Run all steps of the teardown."""
        await self.heal()
        async with open_client(self._processes.socket) as client:
            await self._agree(client, autoballoon=self._processes.autoballoon.process is not None)
            await self._processes.autoballoon.end(signal.SIGTERM)
            await self._wait_for_agents(client)
            await self._settle(client)
            await self._agree(client, autoballoon=False)
            await self._finish_checker()
            await self._audit(client, "when all had settled")
            await self._remove_guests(client)
        await self._restart_in_order()

    async def heal(self) -> None:
        """Undo all faults: continue stopped processes, start killed ones, empty the disk."""
        processes = self._processes
        processes.empty_disk()
        for member in (processes.daemon, *processes.agents().values(), *self._traffic.single_agents().values()):
            member.send(signal.SIGCONT)
        if processes.daemon.process is None:
            await processes.start_daemon()
        if processes.xenstored.process is None:
            await processes.xenstored.start()
        for member in processes.agents().values():
            if member.process is None:
                await member.start()

    async def _agree(self, client: Client, *, autoballoon: bool) -> None:
        """See that XenStore and, if it runs, autoballoon come to say of the domains what the host says."""
        processes, wrong = self._processes, ["nobody was asked"]

        async def all_agree() -> bool:
            with suppress(OSError, trio.BrokenResourceError):
                beside = processes.socket if autoballoon else None
                wrong[:] = await disagreements(client, processes.store_socket, autoballoon=beside)
            return not wrong

        if not await _becomes_true(all_agree, _SETTLE_S):
            for one in wrong:
                processes.found(f"{_SETTLE_S:g} s after the last fault: {one}")

    # -- settling

    async def _wait_for_agents(self, client: Client) -> None:
        """Destroy domains that have ended, and wait until all others have agents."""
        without = ["nobody was asked"]

        async def all_have_agents() -> bool:
            domains = await client.list()
            for domain in domains:
                if domain.state in ("shutdown", "crashed") and domain.domid != DOM0:
                    await self._destroy(client, domain)
            without[:] = [
                f"{domain.name} ({domain.state})"
                for domain in domains
                if not (domain.agent or domain.name in _OWN or domain.state == "zombie")
            ]
            return not without

        if not await _becomes_true(all_have_agents, _SETTLE_S):
            self._processes.found(f"without an agent {_SETTLE_S:g} s after the last fault: {', '.join(without)}")

    async def _settle(self, client: Client) -> None:
        following = []
        for domain in await client.list():
            if domain.domid != DOM0 and domain.name not in _OWN and domain.agent:
                target_pages = population.final_target(domain.static_max_pages)
                # Autoballoon may have lowered it.
                await client.set_max(domain.domid, domain.static_max_pages)
                await client.set_target(domain.domid, target_pages)
                following.append(
                    Following(
                        domain.domid, domain.name, domain.life, domain.tot_pages, target_pages, trio.current_time()
                    )
                )

        async def all_settled() -> bool:
            now = trio.current_time()
            observe_all(following, await client.list(), now, stuck_after_s=_SETTLE_S / 2, deadline_s=_SETTLE_S)
            return all(one.settled for one in following)

        await _becomes_true(all_settled, 2 * _SETTLE_S)
        for one in following:
            self.settled[str(one.outcome)] += 1
            if not one.settled:
                self._processes.found(
                    f"{one.name} has not settled: {one.distance_pages} pages from its target, and moving"
                )
            elif one.reason:
                self._processes.tally.remarks[f"{one.name} is not at its target: {one.reason}"] += 1

    async def _finish_checker(self) -> None:
        self._checker.finishing.set()
        with trio.move_on_after(_SETTLE_S) as patience:
            await self._checker.finished.wait()
        if patience.cancelled_caught:
            self._processes.found("the checker guest did not finish")

    async def _audit(self, client: Client, when: str) -> None:
        for violation in await client.audit():
            self._processes.found(f"audit {when}: {violation}")

    # -- leaks

    async def _destroy(self, client: Client, domain: DomainInfo) -> None:
        try:
            await client.destroy(domain.domid)
        except NoSuchDomain:
            if domain.on_crash != "destroy":
                self._processes.found(f"{domain.name} was gone before it was destroyed")

    async def _remove_guests(self, client: Client) -> None:
        for domain in await client.list():
            if domain.domid != DOM0 and domain.state != "zombie":
                await self._destroy(client, domain)
        await self._traffic.stop_agents()

        async def dom0_alone() -> bool:
            return len(await client.list()) == 1 and not any(_dom0_mappings(await client.info(DOM0)).values())

        await _becomes_true(dom0_alone, _LET_GO_S)
        domains = await client.list()
        dom0 = await client.info(DOM0)
        host = await client.host()
        self.leaks = {"zombies": sum(domain.state == "zombie" for domain in domains)}
        self.leaks["domains"] = len(domains) - 1 - self.leaks["zombies"]
        self.leaks |= _dom0_mappings(dom0)
        self.leaks["frames"] = abs(int(host["frames"]) - int(host["free_frames"]) - dom0.tot_pages)
        self.leaks["state files"] = self._stray_files({domain.domid for domain in domains})
        self.leaks["descriptors of agent processes"] = sum(
            max(open_files(member).total() - _AGENT_DESCRIPTORS, 0) for member in self._processes.hosts.values()
        )
        await self._audit(client, "when all guests were gone")

    def _stray_files(self, domids: set[int]) -> int:
        """Count state files of domains that do not exist, and unknown files."""
        expected = {f"{kind}-{domid}" for domid in domids for kind in ("domain", "agent")}
        expected |= {"host-0", "daemon-0", "manifest-0", "check-0", "undo", "state.json", "lock"}
        strays = {path.name for path in self._processes.state_dir.iterdir()} - expected
        for name in sorted(strays):
            known = "of a domain that is gone" if is_of_state(name) else "of an unknown kind"
            self._processes.found(f"a file {name} {known} is in the state directory")
        return len(strays)

    async def _restart_in_order(self) -> None:
        """Restart the daemon in order; descriptors that the old one had and the new one has not were leaked."""
        processes = self._processes
        await trio.sleep(_LET_GO_S / 10)  # our own client has just disconnected
        before = open_files(processes.daemon)
        code = await processes.daemon.end(signal.SIGTERM)
        if code != 0:
            processes.found(f"the hypervisor ended with {code} when it was asked to; see logs/hypervisor.log")
        await processes.start_daemon()

        async def as_many() -> bool:
            return not before - open_files(processes.daemon)

        await _becomes_true(as_many, _LET_GO_S / 2)
        leaked = before - open_files(processes.daemon)
        self.leaks["descriptors of the daemon"] = sum(leaked.values())
        if leaked:
            processes.found(f"descriptors that a new daemon does not have: {dict(leaked)}")
        async with open_client(processes.socket) as client:
            await self._audit(client, "after a restart in order")
        for name, count in self.leaks.items():
            if count:
                processes.found(f"leaked: {count} {name}")


def _dom0_mappings(dom0: DomainInfo) -> dict[str, int]:
    """Count the pages of other domains that dom0's back end holds."""
    slots, mapped = (int(dom0.reported.get(name) or 0) for name in ("slots", "io_mapped_pages"))
    return {"slots": slots, "mapped pages": mapped, "mapped grants": dom0.mapped_grants}


def open_files(member: Member) -> Counter[str]:
    """Count the open descriptors of a process, by kind or path; none if it does not run."""
    opened: Counter[str] = Counter()
    if member.process is not None:
        for link in Path(f"/proc/{member.process.pid}/fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                opened[str(link.readlink()).partition(":[")[0]] += 1
    return opened


async def _becomes_true(condition: Callable[[], Awaitable[bool]], within_s: float) -> bool:
    """Poll *condition* until it holds; returns False if it did not within *within_s*."""
    with trio.move_on_after(within_s):
        while not await condition():  # noqa: ASYNC110 - other processes
            await trio.sleep(_POLL_EVERY_S)
        return True
    return False
