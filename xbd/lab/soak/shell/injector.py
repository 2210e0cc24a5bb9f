"""Injects the faults of a plan, each at its time."""

import signal
import socket
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

import trio

from xbd.client.client import open_client
from xbd.client.discovery import NoHypervisor
from xbd.client.runtime_dir import domain_socket
from xbd.domain import DomainInfo
from xbd.errors import AlreadyExists, HypercallError, NoSuchDomain, PeerLost
from xbd.lab.bench.flooding import FLOOD_MAX_PAGES, FLOOD_PAGES
from xbd.lab.bench.shell.flood import flood
from xbd.lab.bench.shell.flooder import KINDS
from xbd.lab.soak.population import FLOODER, SIZES_MIB, STORM
from xbd.lab.soak.schedule import Fault
from xbd.lab.soak.shell.checker import Checker
from xbd.lab.soak.shell.processes import Member, SoakProcesses
from xbd.lab.soak.shell.traffic import TimedClient, Traffic
from xbd.protocol.codec import VERSION, encode_request
from xbd.units import MIB_PAGES

_POLL_EVERY_S: Final = 0.03
# How many calls a slow reader makes without reading an answer; each is a list of all domains.
_UNREAD_CALLS: Final = 300
_CUT_MOST: Final = 6
# The host takes an agent that is not back after this for dead (`records.CRASHED_AFTER_S`).
_AGENTS_BACK_MOST_S: Final = 5.0
# An agent process needs this long to recover after it was killed or slowed.
_RECOVERS_S: Final = 5.0
# An agent process has heard of a new domain, and booted it, after this.
_STORM_PAUSE_S: Final = 0.2
# While one of these is active, not all agents can be expected to be back at once.
_DISTURBING: Final = ("kill-agents", "stop-agents", "slow-agents", "stop-daemon", "full-disk")


class Injector:
    """Injects faults into the processes of a soak.

    Attributes: *seen*: the domains, as the watcher saw them last.
    """

    def __init__(self, processes: SoakProcesses, traffic: Traffic, checker: Checker) -> None:
        self._processes = processes
        self._traffic = traffic
        self._checker = checker
        self._flooding = trio.Lock()
        self._disk = trio.Lock()
        self._storming = trio.Lock()
        self.seen: Sequence[DomainInfo] = ()
        self._methods: Final[dict[str, Callable[[Fault], Awaitable[None]]]] = {
            "kill-daemon": self._kill_daemon,
            "kill-agents": self._kill_agents,
            "stop-daemon": self._stop_daemon,
            "stop-agents": self._stop_agents,
            "cut": self._cut,
            "full-disk": self._full_disk,
            "slow-reader": self._slow_reader,
            "slow-agents": self._slow_agents,
            "flood": self._flood,
            "kill-xenstored": self._kill_xenstored,
            "storm": self._storm,
        }

    async def inject(self, plan: Sequence[Fault]) -> None:
        """Inject a plan's faults, each at its time; several may be active at once."""
        async with trio.open_nursery() as nursery:
            for fault in plan:
                await trio.sleep_until(self._processes.started_at + fault.at_s)
                nursery.start_soon(self._inject, fault)

    async def _inject(self, fault: Fault) -> None:
        processes = self._processes
        processes.disturbed += 1
        processes.agents_disturbed += fault.kind in _DISTURBING
        processes.disturbances += fault.kind in _DISTURBING
        try:
            await self._methods[fault.kind](fault)
            processes.tally.faults[fault.kind] += 1
        finally:
            processes.disturbed -= 1
            processes.agents_disturbed -= fault.kind in _DISTURBING

    # -- the daemon

    async def _kill_daemon(self, _: Fault) -> None:
        processes = self._processes
        async with processes.daemon_lock:
            disturbances = processes.disturbances
            alone = processes.agents_disturbed == 0
            before = {domain.name: domain.domid for domain in self.seen if domain.agent}
            await processes.daemon.end(signal.SIGKILL)
            processes.tally.samples.clear()
            ready = await processes.start_daemon()
            processes.tally.restarts += 1
        with trio.move_on_after(_AGENTS_BACK_MOST_S * 2):
            try:
                back = await self._agents_back(before)
                if alone and disturbances == processes.disturbances:
                    processes.tally.took("agents_back", trio.current_time() - ready)
                    self._report_rebooted(back)
                await self._audit()
            except (PeerLost, NoHypervisor):
                return  # the daemon was killed again
            return
        if alone and disturbances == processes.disturbances:
            processes.found(f"not all agents were back {2 * _AGENTS_BACK_MOST_S:g} s after a restart of the daemon")

    def _report_rebooted(self, rebooted: list[str]) -> None:
        if rebooted:
            self._processes.found(
                f"rebooted by a restart of the daemon, although their agents lived: {', '.join(rebooted)}"
            )

    async def _agents_back(self, before: dict[str, int]) -> list[str]:
        """Wait until each domain of *before* that still exists has an agent; returns the names of those that were rebooted."""
        # Who had stopped as the daemon was killed boots anew of its own accord.
        stopped: set[str] = set()
        async with open_client(self._processes.socket) as client:
            while True:
                domains = {domain.name: domain for domain in await client.list()}
                stopped |= {name for name, domain in domains.items() if domain.state == "shutdown"}
                waited_for = [
                    name
                    for name, domid in before.items()
                    if name in domains and domains[name].domid == domid and not domains[name].agent
                    and domains[name].state != "shutdown"
                ]  # fmt: skip
                if not waited_for:
                    break
                await trio.sleep(_POLL_EVERY_S)
            booted = []
            async for event in client.events(follow=False):
                if event["event"] == "agent_connected" and not event.get("resumed"):
                    name = str(event.get("name"))
                    if before.get(name) == event.get("domid") and name not in stopped:
                        booted.append(name)
            return booted

    async def _audit(self) -> None:
        async with open_client(self._processes.socket) as client:
            for violation in await client.audit():
                self._processes.found(f"audit after a restart: {violation}")
        self._processes.tally.operations["audits"] += 1

    async def _stop_daemon(self, fault: Fault) -> None:
        async with self._processes.daemon_lock:
            await self._stop(self._processes.daemon, fault.length_s)

    async def _stop(self, member: Member, length_s: float) -> None:
        try:
            if member.send(signal.SIGSTOP):
                await trio.sleep(length_s)
        finally:
            member.send(signal.SIGCONT)

    # -- agents

    def _pick(self, draw: float) -> tuple[Member, bool]:
        """Pick an agent process; returns whether it runs a single guest, so that `Traffic` starts it again."""
        shared = list(self._processes.agents().values())
        alone = list(self._traffic.single_agents().values())
        every = shared + alone
        number = int(draw * len(every))
        return every[number], number >= len(shared)

    async def _kill_agents(self, fault: Fault) -> None:
        member, alone = self._pick(fault.draw)
        if alone:
            await member.end(signal.SIGKILL)
        else:
            await member.restart()
        await trio.sleep(_RECOVERS_S)

    async def _stop_agents(self, fault: Fault) -> None:
        member, _ = self._pick(fault.draw)
        await self._stop(member, fault.length_s)
        await trio.sleep(min(fault.length_s, 1.0))

    async def _cut(self, fault: Fault) -> None:
        if fault.draw < 0.5:
            await self._checker.cut()
        else:
            self._processes.relay.write_line(
                f"cut {1 + int((fault.draw - 0.5) * 2 * _CUT_MOST)} {fault.draw * 2 - 1:.6f}"
            )
        await trio.sleep(1.0)

    async def _slow_agents(self, fault: Fault) -> None:
        self._processes.relay.write_line(f"slow {fault.length_s:.3f}")
        await trio.sleep(fault.length_s + _RECOVERS_S)

    # -- others

    async def _full_disk(self, fault: Fault) -> None:
        if self._processes.no_disk is not None:
            return
        async with self._disk:
            try:
                await trio.to_thread.run_sync(self._processes.fill_disk)
                await trio.sleep(fault.length_s)
            finally:
                self._processes.empty_disk()
        await trio.sleep(1.0)

    async def _slow_reader(self, fault: Fault) -> None:
        """Subscribe to the events, make many calls, and read nothing."""
        calls = [
            encode_request(0, "hello", {"version": VERSION}),
            encode_request(1, "events", {"since": 0}),
            *(encode_request(2 + number, "list", {}) for number in range(_UNREAD_CALLS)),
        ]
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as reader:
            try:
                reader.connect(str(self._processes.socket))
                reader.send(b"".join(calls))
            except OSError:
                return  # the daemon is not running at the moment
            await trio.sleep(fault.length_s)

    async def _flood(self, fault: Fault) -> None:
        """Create a domain that floods its socket, in one of the known ways."""
        kind = list(KINDS)[int(fault.draw * len(KINDS))]

        async def flooding(client: TimedClient) -> None:
            try:
                answer = await client.call(
                    "create", name=FLOODER, max_pages=FLOOD_MAX_PAGES, target_pages=FLOOD_PAGES, autostart=False
                )
            except HypercallError as error:
                # The host is full of other guests.
                self._processes.tally.remarks[f"no flood: {error.errno}"] += 1
                return
            path = domain_socket(self._processes.runtime_dir, answer["domid"])
            try:
                async with flood(path, kind, stderr=subprocess.DEVNULL):
                    await trio.sleep(fault.length_s)
            except AssertionError:
                # The daemon was killed before the flood had begun.
                self._processes.tally.remarks["a flood did not start"] += 1
            finally:
                with trio.CancelScope(shield=True):
                    try:
                        await client.call("destroy", domid=FLOODER)
                    except NoSuchDomain:
                        self._processes.found("the flooder's domain was gone before it was destroyed")

        async with self._flooding:
            await self._traffic.retry(flooding)

    async def _kill_xenstored(self, _: Fault) -> None:
        await self._processes.xenstored.restart()

    async def _storm(self, fault: Fault) -> None:
        """Create and destroy a domain under one name, as fast as the host answers; one in four is left for long enough to boot."""

        async def storming(client: TimedClient) -> None:
            until_s, number = trio.current_time() + fault.length_s, 0
            while trio.current_time() < until_s:
                pages = SIZES_MIB[number % len(SIZES_MIB)] * MIB_PAGES
                try:
                    # There already: the client before this one was lost with the host's answer.
                    with suppress(AlreadyExists):
                        await client.call("create", name=STORM, max_pages=pages, target_pages=pages // 2)
                except HypercallError as error:
                    self._processes.tally.remarks[f"no domain in a storm: {error.errno}"] += 1
                    await trio.sleep(_STORM_PAUSE_S)
                    continue
                await trio.sleep(0 if number % 4 else _STORM_PAUSE_S)
                try:
                    await client.call("destroy", domid=STORM)
                except NoSuchDomain:
                    self._processes.found("the domain of a storm was gone before it was destroyed")
                self._processes.tally.operations["domains of storms"] += 1
                number += 1

        async with self._storming:
            await self._traffic.retry(storming)
