"""One run of the daemons' simulation: what is started, what befalls it, and what must hold when the faults have ended."""

import gc
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import structlog
import trio

from xbd.client.client import open_client
from xbd.daemons.runtime.state_dir import StateDir, make_machine
from xbd.errors import ConfigError
from xbd.lab.simulation.daemons.options import DaemonOptions, make_plan, rng_for
from xbd.lab.simulation.daemons.points import LOGGED
from xbd.lab.simulation.daemons.trace import Trace
from xbd.lab.simulation.oracle import Violation
from xbd.lab.simulation.shell import visitors
from xbd.lab.simulation.shell.faulty_calls import FaultyCalls
from xbd.lab.simulation.shell.keeper import Keeper
from xbd.lab.simulation.shell.log_pipe import LogPipe, Routed, configure
from xbd.lab.simulation.shell.operators import LOST, Follower, Operator
from xbd.lab.simulation.shell.process import Process, current
from xbd.lab.simulation.shell.services import Mains, Places, replaced_for_daemons
from xbd.lab.simulation.shell.spinning import SpinGuard
from xbd.machine import HostSettings
from xbd.xenstore.codec import Decoder

_RETRY_LOGS_EVERY_S: Final = 0.5
# What nobody uses any more is collected at moments that are the same in each run of a seed.
_COLLECT_EVERY_S: Final = 20.0
_FULL_MOST_S: Final = 5.0
_CLOCK_MOST_S: Final = 3600.0
_DAMAGE_SHARE: Final = 5.0
# By then everything must serve again after the faults: a daemon is down for at most 2 s, a session is given up after
# 10, a peer that does not read after 10, an agent's pause is at most 30.
_HEALED_WITHIN_S: Final = 90.0
_STOPPED_WITHIN_S: Final = 90.0
_POLL_S: Final = 0.5
# How long people go on when the faults have ended.
_AFTERWARDS_S: Final = 5.0


class World:
    """A run.

    Args:
        options: of the run.
        base: an empty directory, on a file system in memory.
        write: takes each line of the trace, or None.

    Attributes: *trace*.
    """

    def __init__(self, options: DaemonOptions, base: Path, write: Callable[[str], None] | None) -> None:
        self._options = options
        self._plan = make_plan(options)
        self._places = Places(base, self._plan.superframes)
        self.trace = Trace(trio.current_time, str(base), write)
        self._calls = FaultyCalls(self._plan.rates, rng_for(options.seed, "calls"), self.trace)
        mains = Mains(self._places, self.trace)
        self._store_is_saved = True
        self._keepers = {name: self._keeper(name, main) for name, main in mains.by_name.items()}
        self._operators = [
            Operator(f"op{number}", self._places.hypervisor, self._rng(f"op{number}"), self.trace, self._up_since_s)
            for number in range(self._plan.operators)
        ]
        self._clients = [
            visitors.StoreClient(
                f"xs{number}",
                self._places.xenstored,
                self._rng(f"xs{number}"),
                self.trace,
                lambda: self._store_is_saved,
            )
            for number in range(self._plan.store_clients)
        ]
        self._people: trio.CancelScope | None = None

    def _rng(self, purpose: str) -> Any:  # noqa: ANN401
        return rng_for(self._options.seed, purpose)

    def _keeper(self, name: str, main: Callable[[Process], Awaitable[int]]) -> Keeper:
        saved = name == "hypervisor"
        return Keeper(
            name,
            main,
            self.trace,
            self._rng(name),
            state=self._places.state if saved else None,
            damage_share=min(1.0, self._plan.rates["damage"] * _DAMAGE_SHARE) if saved else 0.0,
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
        before = _descriptors()
        with self._calls.in_place(), replaced_for_daemons(self._calls.wall_clock):
            guard = SpinGuard()
            trio.lowlevel.add_instrument(guard)
            try:
                with guard.scope:
                    await self._live()
            finally:
                trio.lowlevel.remove_instrument(guard)
            guard.check()
            gc.collect()
            self._check_left(before)

    async def _live(self) -> None:
        async with trio.open_nursery() as nursery:
            for keeper in self._keepers.values():
                nursery.start_soon(keeper.keep)
            nursery.start_soon(self._look_after)
            async with trio.open_nursery() as people:
                self._start_people(people)
                self._calls.active = True
                with trio.move_on_after(self._options.seconds):
                    await self._strike()
                self._calls.active = self._calls.is_full = False
                self.trace.line("world", "the faults end")
                await trio.sleep(_AFTERWARDS_S)
                people.cancel_scope.cancel()
            await self._heal()
            with trio.fail_after(_STOPPED_WITHIN_S):
                for keeper in reversed(self._keepers.values()):
                    await keeper.retire(signal.SIGTERM)
            await self._keepers["hypervisor"].start_damaged()
            nursery.cancel_scope.cancel()

    def _start_people(self, nursery: trio.Nursery) -> None:
        for operator in self._operators:
            nursery.start_soon(operator.work)
        for client in self._clients:
            nursery.start_soon(client.work)
        nursery.start_soon(Follower(self._places.hypervisor, self.trace).follow)
        nursery.start_soon(visitors.scrape_for_ever, self._places.metrics, self.trace, self._rng("scraper"))

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
        if event in ("xenstore_not_saved", "xenstore_saved_again"):
            self._store_is_saved = event == "xenstore_saved_again"
        if event == "xenstored_ready":
            self._store_is_saved = True
        if process is not None and event.endswith("_ready"):
            process.is_ready = True
        told = " ".join(f"{key}={line[key]}" for key in sorted(line) if key not in ("event", "level"))
        self.trace.line(who, f"{name} {event} {told}".rstrip())
        return line

    # -- faults at times of their own

    async def _strike(self) -> None:
        """Do what befalls them at times that are drawn, until cancelled."""
        hypervisor = self._keepers["hypervisor"]
        deeds: dict[str, Callable[[], Awaitable[None] | None]] = {
            "full-disk": self._fill_disk,
            "drop": self._drop,
            "drop-midway": hypervisor.drop_midway,
            "stop": lambda: self._one("stop").signal(signal.SIGTERM, "stop"),
            "reload": lambda: self._one("reload").signal(signal.SIGHUP, "reload"),
            "second": self._start_second,
            "clock": self._turn_clock,
            "deaf": lambda: visitors.be_deaf(self._places.hypervisor, self.trace),
            "stranger": self._strange,
        }
        self._rng_of = {kind: self._rng(f"fault {kind}") for kind in deeds}
        async with trio.open_nursery() as nursery:
            for kind, deed in deeds.items():
                if self._plan.rates[kind]:
                    nursery.start_soon(self._strike_one, kind, deed)
            await trio.sleep_forever()

    async def _strike_one(self, kind: str, deed: Callable[[], Awaitable[None] | None]) -> None:
        while True:
            await trio.sleep(self._rng_of[kind].exponential(1 / self._plan.rates[kind]))
            doing = deed()
            if doing is not None:
                self.trace.happened[kind] += 1
                await doing

    def _one(self, kind: str) -> Keeper:
        # The hypervisor is every second one's turn.
        names = [*["hypervisor"] * 3, "guests", "autoballoon", "xenstored", "metrics"]
        return self._keepers[self._rng_of[kind].choice(names)]

    async def _start_second(self) -> None:
        await self._keepers[self._rng_of["second"].choice(("hypervisor", "xenstored"))].second()

    def _drop(self) -> None:
        self._one("drop").drop()

    async def _fill_disk(self) -> None:
        self.trace.line("world", "the disk is full")
        self._calls.is_full = True
        await trio.sleep(self._rng_of["full-disk"].uniform(0.1, _FULL_MOST_S))
        self._calls.is_full = False
        self.trace.line("world", "the disk has room")

    def _turn_clock(self) -> None:
        self._calls.clock_ahead_s += self._rng_of["clock"].uniform(-_CLOCK_MOST_S, _CLOCK_MOST_S)
        self.trace.fault("world", "clock")

    async def _strange(self) -> None:
        domains = [
            path
            for directory in (self._places.run, self._places.xenstored.parent)
            for path in sorted((directory / "domains").glob("*.sock"))
        ]
        places = [self._places.hypervisor, self._places.autoballoon, self._places.xenstored, self._places.metrics]
        await visitors.be_strange([*places, *domains], self._rng_of["stranger"], self.trace)

    # -- afterwards

    async def _heal(self) -> None:
        """See that everything serves again, and that all is there that was promised. Raises Violation."""
        why = "nothing was tried"
        with trio.move_on_after(_HEALED_WITHIN_S):
            # It looks from outside, where nobody is told that something has changed.
            while why := await self._what_is_missing():  # noqa: ASYNC110
                await trio.sleep(_POLL_S)
        if why:
            raise Violation(f"{_HEALED_WITHIN_S:g} s after the faults: {why}")
        self.trace.line("world", "all serves again")
        if self._plan.rates["deaf"]:
            await visitors.be_deaf(self._places.hypervisor, self.trace)

    async def _what_is_missing(self) -> str:
        """Look once at everything; says what does not serve yet, or nothing."""
        for name, keeper in self._keepers.items():
            if keeper.process is None or not keeper.process.is_ready:
                return f"{name} is down"
        try:
            missing = await self._missing_of_host()
            for client in self._clients:
                async with await trio.open_unix_socket(str(self._places.xenstored)) as stream:
                    await client.check(stream, Decoder())
            async with open_client(self._places.autoballoon):
                pass  # it was greeted
            if not await visitors.scrape(self._places.metrics, self.trace):
                missing = missing or "the page of figures says that no host is up"
        except (*LOST, OSError, trio.BrokenResourceError) as error:
            return f"somebody is not answered: {type(error).__name__} {error}"
        return missing

    async def _missing_of_host(self) -> str:
        async with open_client(self._places.hypervisor) as client:
            for operator in self._operators:
                await operator.look(client)
            violations = await client.audit()
            if violations:
                raise Violation(f"the audit finds {violations[0]}")
            for domain in await client.list():
                if domain.autostart and domain.state in ("waiting", "lost"):
                    return f"{domain.name} has no agent, and is {domain.state}"
        return ""

    def _check_left(self, before: dict[int, str]) -> None:
        """See that nothing is left but what is saved, and that a next daemon can use that. Raises Violation."""
        after = _descriptors()
        left = sorted(after[number] for number in after.keys() - before.keys())
        if left:
            raise Violation(f"descriptors are left open: {left}")
        files = sorted(
            str(path.relative_to(self._places.base))
            for path in self._places.base.rglob("*")
            if path.is_socket() or path.suffix == ".new"
        )
        if files:
            raise Violation(f"files are left: {files}")
        try:
            state = StateDir(self._places.state)
            machine = make_machine(state, self._places.superframes, HostSettings())
        except ConfigError as error:
            raise Violation(f"what was saved cannot be used: {error}") from error
        violations = machine.audit()
        state.close(in_order=False)
        if violations:
            raise Violation(f"the audit of what was saved finds {violations[0]}")


def _pipe_of_process() -> LogPipe | None:
    process = current.get()
    return None if process is None or process.dropped else process.pipe


def _descriptors() -> dict[int, str]:
    """List this process's open descriptors and what they are."""
    found = {}
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - no paths are wanted
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}").partition(":")[0]  # noqa: PTH115
        except FileNotFoundError:
            continue  # the one that the listing itself had open
    return found
