"""What befalls the daemons at times that are drawn from the seed."""

import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import trio

from xbd.lab.simulation.daemons.options import TIMED_FAULTS
from xbd.lab.simulation.daemons.trace import Trace
from xbd.lab.simulation.rng import Rng
from xbd.lab.simulation.shell import visitors
from xbd.lab.simulation.shell.faulty_calls import FaultyCalls
from xbd.lab.simulation.shell.keeper import Keeper
from xbd.lab.simulation.shell.reservers import come_in_a_crowd
from xbd.lab.simulation.shell.services import Places

_FULL_MOST_S: Final = 5.0
_CLOCK_MOST_S: Final = 3600.0
_OUTAGE_LEAST_S: Final = 2.0
_OUTAGE_MOST_S: Final = 30.0
_EXILE_MOST_S: Final = 20.0
# Of a day some hours.
_LONG_EXILE_SHARE: Final = 0.01
_LONG_EXILE_MOST_S: Final = 3600.0


class Strikes:
    """The faults of `TIMED_FAULTS` but damage, which is done between lives.

    Args:
        rates: by fault, of a second.
        make_rng: makes the generator of a purpose.
        agent_names: the processes that share the guests.
        keepers, calls, places, trace: of the run.
    """

    def __init__(
        self,
        *,
        rates: Mapping[str, float],
        make_rng: Callable[[str], Rng],
        agent_names: Sequence[str],
        keepers: Mapping[str, Keeper],
        calls: FaultyCalls,
        places: Places,
        trace: Trace,
    ) -> None:
        self._rates = rates
        self._rng_of = {kind: make_rng(f"fault {kind}") for kind in TIMED_FAULTS}
        self._agent_names = agent_names
        self._agents_rng = make_rng("fault of agents")
        self._keepers = keepers
        self._calls = calls
        self._places = places
        self._trace = trace

    async def strike(self) -> None:
        """Do it until cancelled. Raises Violation."""
        deeds: dict[str, Callable[[], Awaitable[None] | None]] = {
            "full-disk": self._fill_disk,
            "drop": lambda: self._one("drop").drop(),
            "drop-midway": self._keepers["hypervisor"].drop_midway,
            "outage": self._keep_down,
            "stop": lambda: self._one("stop").signal(signal.SIGTERM, "stop"),
            "reload": lambda: self._one("reload").signal(signal.SIGHUP, "reload"),
            "second": self._start_second,
            "clock": self._turn_clock,
            "exile": self._exile,
            "crowd": lambda: come_in_a_crowd(self._places.autoballoon, self._trace),
            "deaf": lambda: visitors.be_deaf(self._places.hypervisor, self._trace),
            "stranger": self._strange,
        }
        async with trio.open_nursery() as nursery:
            for kind, deed in deeds.items():
                if self._rates[kind]:
                    nursery.start_soon(self._strike_one, kind, deed)
            await trio.sleep_forever()

    async def _strike_one(self, kind: str, deed: Callable[[], Awaitable[None] | None]) -> None:
        while True:
            await trio.sleep(self._rng_of[kind].exponential(1 / self._rates[kind]))
            doing = deed()
            if doing is not None:
                self._trace.happened[kind] += 1
                await doing

    def _one(self, kind: str) -> Keeper:
        # The hypervisor is every second one's turn.
        names = [*["hypervisor"] * 3, "guests", "autoballoon", "xenstored", "metrics"]
        name = self._rng_of[kind].choice(names)
        if name == "guests":
            name = self._agents_rng.choice(self._agent_names)
            if kind == "drop" and len(self._agent_names) > 1:
                self._trace.sometimes("one of several agent processes was dropped")
        return self._keepers[name]

    async def _start_second(self) -> None:
        # Each of those that take a lock.
        await self._keepers[self._rng_of["second"].choice(("hypervisor", "xenstored", "autoballoon"))].second()

    def _keep_down(self) -> None:
        self._one("outage").drop("outage", self._rng_of["outage"].uniform(_OUTAGE_LEAST_S, _OUTAGE_MOST_S))

    async def _fill_disk(self) -> None:
        self._trace.line("world", "the disk is full")
        self._calls.is_full = True
        await trio.sleep(self._rng_of["full-disk"].uniform(0.1, _FULL_MOST_S))
        self._calls.is_full = False
        self._trace.line("world", "the disk has room")

    async def _exile(self) -> None:
        rng = self._rng_of["exile"]
        most_s = _LONG_EXILE_MOST_S if rng.bernoulli(_LONG_EXILE_SHARE) else _EXILE_MOST_S
        self._trace.line("world", "the agents reach nobody")
        self._calls.exiled.update(self._agent_names)
        try:
            await trio.sleep(rng.uniform(0.1, most_s))
        finally:
            self._calls.exiled.difference_update(self._agent_names)
            self._trace.line("world", "the agents come back")
            self._trace.sometimes("the agents came back")

    def _turn_clock(self) -> None:
        self._calls.clock_ahead_s += self._rng_of["clock"].uniform(-_CLOCK_MOST_S, _CLOCK_MOST_S)
        self._trace.fault("world", "clock")

    async def _strange(self) -> None:
        domains = [
            path
            for directory in (self._places.run, self._places.xenstored.parent)
            for path in sorted((directory / "domains").glob("*.sock"))
        ]
        places = [self._places.hypervisor, self._places.autoballoon, self._places.xenstored, self._places.metrics]
        await visitors.be_strange([*places, *domains], self._rng_of["stranger"], self._trace)
