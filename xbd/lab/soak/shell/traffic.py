"""What goes on at a host all the time: targets that move, guests that come and go."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import numpy as np
import trio

from xbd.client.client import Client, open_client
from xbd.client.discovery import NoHypervisor
from xbd.errors import AlreadyExists, HypercallError, NoSuchDomain, PeerLost, XbdError
from xbd.lab.soak import population
from xbd.lab.soak.population import Spec, draw_guest, draw_target
from xbd.lab.soak.shell.processes import Member, SoakProcesses
from xbd.protocol.views import ZOMBIE

MOVERS: Final = 4
# Each of the movers tells a guest so often on average, and somebody comes or goes so often.
_MOVE_EVERY_S: Final = 0.12
_CHANGE_EVERY_S: Final = 1.0
_REAP_EVERY_S: Final = 0.5
_RETRY_S: Final = 0.1
# How a guest goes: asked to, or at once, whatever it is doing (its block I/O, say).
_SHUT_DOWN_SHARE: Final = 0.5


class Traffic:
    """The guests that there are, and who moves them.

    Attributes: *guests*: by name, those that were created and not told to go.
    """

    def __init__(self, processes: SoakProcesses, guests: int, rng: np.random.Generator) -> None:
        self._stage = processes
        self._wanted = guests
        self._singles = population.singles_of(guests)
        self._rng = rng
        self._number = 0
        self._players: dict[str, tuple[Member, trio.CancelScope]] = {}
        self.guests: dict[str, Spec] = {}
        self.full = trio.Event()

    # -- clients

    @asynccontextmanager
    async def client(self) -> AsyncIterator["TimedClient"]:
        """Open a client that resumes its session; its calls are timed and counted."""
        async with open_client(self._stage.socket, resume=True) as client:
            yield TimedClient(client, self._stage)

    async def persist(self, work: Callable[["TimedClient"], Awaitable[None]]) -> None:
        """Do *work* with a client until it returns, with a new one if its session is lost for good."""
        while True:
            opened = False
            try:
                async with self.client() as client:
                    opened = True
                    await work(client)
                    return
            except (NoHypervisor, PeerLost) as error:
                # Before hello is answered there is nothing to resume.
                if opened:
                    self._stage.found(f"a client's session was lost: {error}")
                await trio.sleep(_RETRY_S)

    # -- targets

    async def move(self, rng: np.random.Generator) -> None:
        """Set targets for ever."""

        async def moving(client: "TimedClient") -> None:
            while True:
                await trio.sleep(float(rng.exponential(_MOVE_EVERY_S)))
                if self.guests:
                    spec = self.guests[str(rng.choice(list(self.guests)))]
                    try:
                        await client.call("set_target", domid=spec.name, pages=draw_target(spec.max_pages, rng))
                    except NoSuchDomain:
                        # It was told to go meanwhile, or has crashed and is one that goes then.
                        self._stage.tally.operations["toolstack calls refused"] += 1

        await self.persist(moving)

    # -- guests that come and go

    async def populate(self) -> None:
        """Create guests up to the number that is wanted, then let them come and go for ever."""
        await self.persist(self._come_and_go)

    async def _come_and_go(self, client: "TimedClient") -> None:
        while True:
            while len(self.guests) < self._wanted:
                await self._create(client)
            self.full.set()
            await trio.sleep(float(self._rng.exponential(_CHANGE_EVERY_S)))
            if len(self.guests) >= self._wanted:
                name = str(self._rng.choice(list(self.guests)))
                await self._let_go(client, name)

    async def _create(self, client: "TimedClient") -> None:
        self._number += 1
        alone = sum(name[0] == population.SINGLE for name in self.guests) < self._singles
        spec = draw_guest(self._number, self._rng, alone=alone)
        try:
            await client.call(
                "create",
                name=spec.name,
                type=spec.domain_type.value,
                max_pages=spec.max_pages,
                target_pages=spec.target_pages,
                autostart=spec.autostart,
                on_crash=spec.on_crash,
                guest=spec.guest,
            )
        except AlreadyExists:
            self._stage.found(f"{spec.name}, created once, was there already: a call was done twice")
        except HypercallError as error:
            if error.errno != "ENOMEM":
                raise
            # The host is full of other guests; they will have given some of it back soon.
            self._stage.tally.remarks["a guest was not created: the host was full"] += 1
            await trio.sleep(_REAP_EVERY_S)
            return
        self._stage.tally.guests_came += 1
        self.guests[spec.name] = spec
        if not spec.autostart:
            scope, player = trio.CancelScope(), self._stage.player(spec.name)
            self._players[spec.name] = (player, scope)
            self._stage.nursery.start_soon(self._play, player, scope)

    async def _let_go(self, client: "TimedClient", name: str) -> None:
        spec = self.guests.pop(name)
        shut_down = self._rng.random() < _SHUT_DOWN_SHARE
        self._stage.tally.guests_went["shut down" if shut_down else "destroyed"] += 1
        if shut_down:
            await self._end(client, "shutdown", spec)
        else:
            await self._end(client, "destroy", spec)
            await self._stop_playing(name)

    async def _end(self, client: "TimedClient", how: str, spec: Spec) -> None:
        try:
            await client.call(how, domid=spec.name)
        except NoSuchDomain:
            if spec.on_crash != "destroy":
                self._stage.found(f"{spec.name} was gone before `{how}`: a call was done twice, or it was lost")

    async def _stop_playing(self, name: str) -> None:
        if name in self._players:
            player, scope = self._players.pop(name)
            scope.cancel()
            await player.end()

    async def _play(self, player: Member, scope: trio.CancelScope) -> None:
        """Have a process play a guest, and another one when that has ended, until the guest is gone."""
        with scope:
            while True:
                await player.start()
                while player.process is not None:  # noqa: ASYNC110 - another process
                    await trio.sleep(_RETRY_S)
                await trio.sleep(_REAP_EVERY_S)

    def playing(self) -> dict[str, Member]:
        """List the processes that play a guest each."""
        return {name: player for name, (player, _) in self._players.items()}

    async def reap(self) -> None:
        """Remove guests that have shut down or crashed, and forget those that went by themselves, for ever."""

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
                        self._stage.tally.guests_went["crashed and preserved"] += 1
                    try:
                        await client.call("destroy", domid=domain["domid"])
                    except NoSuchDomain:
                        continue
                    await self._stop_playing(name)

        await self.persist(reaping)

    async def _forget_crashed(self, there: set[str]) -> None:
        """Forget guests that the host has destroyed because they crashed."""
        for name, spec in tuple(self.guests.items()):
            if name not in there and spec.on_crash == "destroy":
                self.guests.pop(name, None)
                self._stage.tally.guests_went["crashed and destroyed"] += 1
                await self._stop_playing(name)

    async def end_playing(self) -> None:
        """End all processes that play a guest each."""
        for name in tuple(self._players):
            await self._stop_playing(name)


class TimedClient:
    """A client whose calls are timed and counted."""

    def __init__(self, client: Client, processes: SoakProcesses) -> None:
        self._client = client
        self._stage = processes

    async def call(self, method: str, **params: object) -> dict[str, Any]:
        """Call; see `Client.call`."""
        tally = self._stage.tally
        started, calm = trio.current_time(), self._stage.disturbed == 0
        answer = await self._client.call(method, params)
        took_s = trio.current_time() - started
        tally.took("audit" if method == "audit" else "toolstack", took_s)
        if calm and self._stage.disturbed == 0 and method != "audit":
            tally.took("toolstack_undisturbed", took_s)
        tally.operations["audits" if method == "audit" else "toolstack calls"] += 1
        return answer

    async def domains(self) -> list[dict[str, Any]]:
        """List the domains but zombies, as maps."""
        domains = (await self.call("list")).get("domains")
        if not isinstance(domains, list):
            raise XbdError(f"a list answer {domains!r:.80}")
        return [domain for domain in domains if domain["state"] != ZOMBIE]
