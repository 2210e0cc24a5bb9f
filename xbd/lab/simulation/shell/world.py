"""One run of the daemons' simulation: what is started, what befalls it, and what must hold when the faults have ended."""

import gc
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import structlog
import trio

from xbd.lab.simulation.daemons.options import DaemonOptions, make_plan, rng_for
from xbd.lab.simulation.daemons.points import LOGGED
from xbd.lab.simulation.daemons.trace import Trace
from xbd.lab.simulation.shell import visitors
from xbd.lab.simulation.shell.damage import damage, damage_store
from xbd.lab.simulation.shell.faulty_calls import FaultyCalls
from xbd.lab.simulation.shell.healing import Healing, descriptors
from xbd.lab.simulation.shell.keeper import Keeper
from xbd.lab.simulation.shell.log_pipe import LogPipe, Routed, configure
from xbd.lab.simulation.shell.operators import MINDED, Follower, Operator, refuse_beyond_bounds
from xbd.lab.simulation.shell.process import Process, current
from xbd.lab.simulation.shell.reservers import Reserver
from xbd.lab.simulation.shell.services import Mains, Places, replaced_for_daemons
from xbd.lab.simulation.shell.spinning import SpinGuard
from xbd.lab.simulation.shell.strikes import Strikes
from xbd.limits import Limits
from xbd.testing.oracle import Violation

_RETRY_LOGS_EVERY_S: Final = 0.5
# What nobody uses any more is collected at moments that are the same in each run of a seed.
_COLLECT_EVERY_S: Final = 60.0
_DAMAGE_SHARE: Final = 5.0
_STOPPED_WITHIN_S: Final = 90.0
# In what share of the hypervisor's lives it is dropped while it starts, for each drop in the middle of a step in a second.
_START_DROP_SHARE: Final = 2.0
# How long people go on when the faults have ended, and all is up.
_AFTERWARDS_S: Final = 2.0


class World:
    """A run.

    Args:
        options: of the run.
        base: an empty directory, on a file system in memory.
        limits: of the host.
        write: takes each line of the trace, or None.

    Attributes: *trace*.
    """

    def __init__(self, options: DaemonOptions, base: Path, limits: Limits, write: Callable[[str], None] | None) -> None:
        self._options = options
        self._plan = make_plan(options)
        self._places = Places(base, self._plan.superframes)
        self.trace = Trace(trio.current_time, str(base), write)
        self._calls = FaultyCalls(self._plan.rates, rng_for(options.seed, "calls"), self.trace)
        mains = Mains(self._places, self.trace, limits, self._plan, options.seed)
        self._store_is_saved = True
        # By domid, which agent process played it.
        self._players: dict[int, str] = {}
        self._two_players = ""
        self._keepers = {name: self._keeper(name, main) for name, main in mains.by_name.items()}
        self._operators = [
            Operator(
                name,
                self._places.hypervisor,
                self._rng(name),
                self.trace,
                self._up_since_s,
                sets_targets=name != MINDED,
                names=self._plan.names,
                calm=self._plan.calm,
                nodes=self._plan.nodes.count if self._plan.nodes else 1,
            )
            for name in (*(f"op{number}" for number in range(self._plan.operators)), MINDED)
        ]
        self._clients = [
            visitors.StoreClient(
                f"xs{number}",
                self._places.xenstored,
                self._rng(f"xs{number}"),
                self.trace,
                is_saved=lambda: self._store_is_saved,
                calm=self._plan.calm,
            )
            for number in range(self._plan.store_clients)
        ]
        self._healing = Healing(self._places, self._keepers, self._operators, self._clients, self.trace)

    def _rng(self, purpose: str) -> Any:  # noqa: ANN401
        return rng_for(self._options.seed, purpose)

    def _keeper(self, name: str, main: Callable[[Process], Awaitable[int]]) -> Keeper:
        states = {"hypervisor": self._places.state, "xenstored": self._places.store}
        return Keeper(
            name,
            main,
            self.trace,
            self._rng(name),
            state=states.get(name),
            is_mapped=name == "hypervisor",
            damages=damage if name == "hypervisor" else damage_store,
            damage_share=min(1.0, self._plan.rates["damage"] * _DAMAGE_SHARE),
        )

    def _up_since_s(self) -> float | None:
        keeper = self._keepers["hypervisor"]
        process = keeper.process
        return None if process is None or not process.is_ready or process.told else keeper.up_since_s

    # -- a run

    async def run(self) -> None:
        """Do all of it. Raises Violation, alone or in a group."""
        configure(Routed(_pipe_of_process), self._note_log)
        self._places.run.mkdir(mode=0o700)
        # A trace's own file is opened by its first line.
        self.trace.line("world", f"begins with a host of {self._plan.superframes} superframes")
        before = descriptors()
        with self._calls.in_place(), replaced_for_daemons(self._calls, self._rng("chance")):
            guard = SpinGuard()
            trio.lowlevel.add_instrument(guard)
            try:
                with guard.scope:
                    await self._live()
            finally:
                trio.lowlevel.remove_instrument(guard)
            guard.check()
            gc.collect()
            self._healing.check_left(before, self._calls.not_removed)

    async def _live(self) -> None:
        async with trio.open_nursery() as nursery:
            for keeper in self._keepers.values():
                nursery.start_soon(keeper.keep)
            nursery.start_soon(self._look_after)
            async with trio.open_nursery() as people:
                self._start_people(people)
                self._calls.active = True
                hypervisor = self._keepers["hypervisor"]
                hypervisor.start_drop_share = self._plan.rates["drop-midway"] * _START_DROP_SHARE
                with trio.move_on_after(self._options.seconds):
                    await Strikes(
                        rates=self._plan.rates,
                        make_rng=self._rng,
                        agent_names=self._plan.agent_names,
                        keepers=self._keepers,
                        calls=self._calls,
                        places=self._places,
                        trace=self.trace,
                    ).strike()
                self._calls.active = self._calls.is_full = False
                hypervisor.start_drop_share = 0.0
                self.trace.line("world", "the faults end")
                await self._healing.await_all()
                await trio.sleep(_AFTERWARDS_S)
                people.cancel_scope.cancel()
            await self._healing.heal()
            if self._two_players:
                raise Violation(self._two_players)
            if self._plan.rates["deaf"]:
                await visitors.be_deaf(self._places.hypervisor, self.trace)
            await self._healing.raise_a_limit()
            if self._plan.stops_agents:
                await self._healing.stop_agents(self._calls, self._plan.agent_names)
            if self._plan.has_another_host:
                await self._healing.visit_another_host()
            self._calls.is_full = self._plan.ends_full
            with trio.fail_after(_STOPPED_WITHIN_S):
                for keeper in reversed(self._keepers.values()):
                    await keeper.retire(signal.SIGTERM)
            self._calls.is_full = False
            for name in ("hypervisor", "xenstored"):
                await self._keepers[name].start_damaged()
            nursery.cancel_scope.cancel()

    def _start_people(self, nursery: trio.Nursery) -> None:
        for operator in self._operators:
            nursery.start_soon(operator.work)
        for client in self._clients:
            nursery.start_soon(client.work)
        calm = self._plan.calm
        holder = self._keepers["autoballoon"]
        reserver = Reserver(self._places.autoballoon, self.trace, self._rng("reserver"), calm, lambda: holder.process)
        nursery.start_soon(reserver.work)
        nursery.start_soon(Follower(self._places.hypervisor, self.trace).follow)
        nursery.start_soon(visitors.scrape_for_ever, self._places.metrics, self.trace, self._rng("scraper"), calm)

    async def _look_after(self) -> None:
        """Let log sinks try again, and collect what nobody uses, now and then."""
        collected_s = trio.current_time()
        while True:
            await trio.sleep(_RETRY_LOGS_EVERY_S)
            for keeper in self._keepers.values():
                keeper.retry_log()
            if trio.current_time() - collected_s >= _COLLECT_EVERY_S:
                collected_s = trio.current_time()
                gc.collect()

    def _note_log(self, _: object, name: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
        """Write a log line into the trace, and note what it shows."""
        process = current.get()
        who = "nobody" if process is None else process.name
        if process is not None and process.dropped:
            return line
        event = line["event"]
        if event in LOGGED:
            self.trace.sometimes(LOGGED[event])
        if who == "autoballoon" and event in ("target_set", "refused"):
            refuse_beyond_bounds(line["domid"], line["pages"])
        if event in ("xenstore_not_saved", "xenstore_saved_again"):
            self._store_is_saved = event == "xenstore_saved_again"
        if event == "xenstored_ready":
            self._store_is_saved = True
        if process is not None and event.endswith("_ready"):
            process.is_ready = True
        if who in self._plan.agent_names and "domid" in line:
            self._see_who_plays(who, line["domid"])
        told = " ".join(f"{key}={line[key]}" for key in sorted(line) if key not in ("event", "level"))
        self.trace.line(who, f"{name} {event} {told}".rstrip())
        return line

    def _see_who_plays(self, name: str, domid: int) -> None:
        """Note which agent process has to do with a domain; it is always the same."""
        if self._players.setdefault(domid, name) != name:
            self._two_players = f"d{domid} is played by {self._players[domid]}, and by {name}, too"


def _pipe_of_process() -> LogPipe | None:
    process = current.get()
    return None if process is None or process.dropped else process.pipe
