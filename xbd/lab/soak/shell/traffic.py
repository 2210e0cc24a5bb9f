"""The load of a soak: targets that change, guests that are created and removed."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import numpy as np
import trio

from xbd.client.client import Client, open_client
from xbd.client.discovery import NoHypervisor
from xbd.domain import ZOMBIE, DomainSpec
from xbd.errors import AlreadyExists, HypercallError, NoSuchDomain, PeerLost, XbdError
from xbd.lab.soak import population
from xbd.lab.soak.population import draw_guest, draw_target
from xbd.lab.soak.shell.processes import Member, SoakProcesses
from xbd.protocol.toolstack_session import RESUME_WITHIN_S

MOVERS: Final = 4
# The mean time between two target changes of a mover, and between two removals of a guest.
_MOVE_EVERY_S: Final = 0.12
_CHANGE_EVERY_S: Final = 1.0
_REAP_EVERY_S: Final = 0.5
_RETRY_S: Final = 0.1
# A hypervisor that has served for so long was found again by whoever looked for it.
_ENOUGH_TO_RESUME_S: Final = 3.0
# The share of removals by shutdown; the others destroy the domain in the middle of its work, such as block I/O.
_SHUT_DOWN_SHARE: Final = 0.5


class Traffic:
    """The guests of a soak, and the tasks that change them.

    Attributes: *guests*: by name, those that were created and not removed; *full*: set when all were created.
    """

    def __init__(self, processes: SoakProcesses, guests: int, rng: np.random.Generator) -> None:
        self._processes = processes
        self._wanted = guests
        self._singles = population.singles_of(guests)
        self._rng = rng
        self._number = 0
        self._single_agents: dict[str, tuple[Member, trio.CancelScope]] = {}
        self.guests: dict[str, DomainSpec] = {}
        self.full = trio.Event()

    # -- clients

    @asynccontextmanager
    async def client(self) -> AsyncIterator["TimedClient"]:
        """Open a client that resumes its session; its calls are timed and counted."""
        async with open_client(self._processes.socket, resume=True) as client:
            yield TimedClient(client, self._processes)

    async def retry(self, work: Callable[["TimedClient"], Awaitable[None]]) -> None:
        """Run *work* with a client until it returns; again with a new client when the session is lost."""
        while True:
            opened: TimedClient | None = None
            try:
                async with self.client() as opened:
                    await work(opened)
                    return
            except (NoHypervisor, PeerLost) as error:
                # Before hello is answered there is nothing to resume, nor where there was no room for a session.
                if opened is not None and opened.has_session:
                    self._session_lost(error)
                await trio.sleep(_RETRY_S)

    def _session_lost(self, error: XbdError) -> None:
        """Record that a client has given up; while the hypervisor hardly served, because it was killed again, it may."""
        if self._processes.served_in_a_row_s(RESUME_WITHIN_S) < _ENOUGH_TO_RESUME_S:
            self._processes.tally.remarks["a client gave up while the hypervisor was away"] += 1
        else:
            self._processes.found(f"a client's session was lost: {error}")

    # -- targets

    async def move(self, rng: np.random.Generator) -> None:
        """Set random targets, for ever."""

        async def moving(client: "TimedClient") -> None:
            while True:
                await trio.sleep(float(rng.exponential(_MOVE_EVERY_S)))
                if names := [name for name in self.guests if not self._processes.is_governed(name)]:
                    spec = self.guests[str(rng.choice(names))]
                    try:
                        await client.call("set_target", domid=spec.name, pages=draw_target(spec.max_pages, rng))
                    except NoSuchDomain:
                        # It was removed meanwhile, or has crashed and is destroyed then.
                        self._processes.tally.operations["toolstack calls refused"] += 1

        await self.retry(moving)

    # -- guests that come and go

    async def populate(self) -> None:
        """Create the wanted number of guests, then remove and replace guests for ever."""
        await self.retry(self._come_and_go)

    async def _come_and_go(self, client: "TimedClient") -> None:
        while True:
            while len(self.guests) < self._wanted:
                await self._create(client)
            self.full.set()
            await trio.sleep(float(self._rng.exponential(_CHANGE_EVERY_S)))
            if len(self.guests) >= self._wanted:
                name = str(self._rng.choice(list(self.guests)))
                await self._remove(client, name)

    async def _create(self, client: "TimedClient") -> None:
        self._number += 1
        single = sum(name[0] == population.SINGLE for name in self.guests) < self._singles
        spec = draw_guest(self._number, self._rng, single=single, traces=self._processes.traces, guests=self._wanted)
        try:
            await client.call("create", **spec.as_params())
        except AlreadyExists:
            self._processes.found(f"{spec.name}, created once, existed already: a call was done twice")
        except HypercallError as error:
            if error.errno != "ENOMEM":
                raise
            # The host is full of other guests; some will be removed soon.
            self._processes.tally.remarks["a guest was not created: the host was full"] += 1
            await trio.sleep(_REAP_EVERY_S)
            return
        self._processes.tally.guests_came += 1
        self.guests[spec.name] = spec
        if not spec.autostart:
            scope, agent = trio.CancelScope(), self._processes.single_agent(spec.name)
            self._single_agents[spec.name] = (agent, scope)
            self._processes.nursery.start_soon(self._run_agent, agent, scope)

    async def _remove(self, client: "TimedClient", name: str) -> None:
        spec = self.guests.pop(name)
        shut_down = self._rng.random() < _SHUT_DOWN_SHARE
        self._processes.tally.guests_went["shut down" if shut_down else "destroyed"] += 1
        if shut_down:
            await self._end(client, "shutdown", spec)
        else:
            await self._end(client, "destroy", spec)
            await self._stop_agent(name)

    async def _end(self, client: "TimedClient", how: str, spec: DomainSpec) -> None:
        try:
            await client.call(how, domid=spec.name)
        except NoSuchDomain:
            if spec.on_crash != "destroy":
                self._processes.found(f"{spec.name} was gone before `{how}`: a call was done twice, or it was lost")

    async def _stop_agent(self, name: str) -> None:
        if name in self._single_agents:
            agent, scope = self._single_agents.pop(name)
            scope.cancel()
            await agent.end()

    async def _run_agent(self, agent: Member, scope: trio.CancelScope) -> None:
        """Run the agent process of a guest, and start it again when it ends, until cancelled."""
        with scope:
            while True:
                await agent.start()
                while agent.process is not None:  # noqa: ASYNC110 - another process
                    await trio.sleep(_RETRY_S)
                await trio.sleep(_REAP_EVERY_S)

    def single_agents(self) -> dict[str, Member]:
        """List the agent processes that run a single guest, by its name."""
        return {name: agent for name, (agent, _) in self._single_agents.items()}

    async def reap(self) -> None:
        """Destroy guests that have shut down or crashed, and forget those that the host destroyed, for ever."""

        async def reaping(client: "TimedClient") -> None:
            while True:
                await trio.sleep(_REAP_EVERY_S)
                there = await client.domains()
                await self._forget_crashed({domain["name"] for domain in there})
                for domain in there:
                    name, state = domain["name"], domain["state"]
                    if state not in ("shutdown", "crashed") or name in (population.CHECKER, population.FLOODER):
                        continue
                    if state == "crashed":
                        self.guests.pop(name, None)
                        self._processes.tally.guests_went["crashed and preserved"] += 1
                    try:
                        await client.call("destroy", domid=domain["domid"])
                    except NoSuchDomain:
                        continue
                    await self._stop_agent(name)

        await self.retry(reaping)

    async def _forget_crashed(self, there: set[str]) -> None:
        """Forget guests that the host destroyed after a crash; *there*: the names of the living domains."""
        for name, spec in tuple(self.guests.items()):
            if name not in there and spec.on_crash == "destroy":
                self.guests.pop(name, None)
                self._processes.tally.guests_went["crashed and destroyed"] += 1
                await self._stop_agent(name)

    async def stop_agents(self) -> None:
        """Stop all agent processes that run a single guest."""
        for name in tuple(self._single_agents):
            await self._stop_agent(name)


class TimedClient:
    """A client whose calls are timed and counted."""

    def __init__(self, client: Client, processes: SoakProcesses) -> None:
        self._client = client
        self._processes = processes

    @property
    def has_session(self) -> bool:
        """Whether it is resumed when its connection is lost."""
        return self._client.session.name is not None

    async def call(self, method: str, **params: object) -> dict[str, Any]:
        """Make a call, time and count it; see `Client.call`."""
        tally = self._processes.tally
        started, calm = trio.current_time(), self._processes.disturbed == 0
        answer = await self._client.call(method, params)
        took_s = trio.current_time() - started
        tally.took("audit" if method == "audit" else "toolstack", took_s)
        if calm and self._processes.disturbed == 0 and method != "audit":
            tally.took("toolstack_undisturbed", took_s)
        tally.operations["audits" if method == "audit" else "toolstack calls"] += 1
        return answer

    async def domains(self) -> list[dict[str, Any]]:
        """List the domains without zombies, as maps."""
        domains = (await self.call("list")).get("domains")
        if not isinstance(domains, list):
            raise XbdError(f"a list answer {domains!r:.80}")
        return [domain for domain in domains if domain["state"] != ZOMBIE]
