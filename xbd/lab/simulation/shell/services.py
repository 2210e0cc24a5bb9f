"""The daemons that a simulation runs, each by the function that its command calls: the only place that knows them."""

import os
import secrets
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from socket import socket
from typing import Any, Final

import trio

from xbd.client.runtime_dir import autoballoon_socket, hypervisor_socket
from xbd.control.agent_share import AgentShare
from xbd.control.controller import Controller
from xbd.daemons import hypervisor
from xbd.daemons.autoballoon import run_autoballoon
from xbd.daemons.config_files import load_autoballoon_config
from xbd.daemons.guests import run_guests
from xbd.daemons.metrics import run_metrics
from xbd.daemons.runtime import outside, sockets, state_dir
from xbd.daemons.runtime.state_files import section_name
from xbd.daemons.xenstored import run_xenstored
from xbd.lab.simulation.daemons.options import DaemonPlan
from xbd.lab.simulation.daemons.trace import Trace
from xbd.lab.simulation.rng import Rng
from xbd.lab.simulation.shell.client_streams import connect_through
from xbd.lab.simulation.shell.faulty_calls import FaultyCalls
from xbd.lab.simulation.shell.operators import MINDED
from xbd.lab.simulation.shell.process import Process, signals_of_processes
from xbd.lab.simulation.wild_policy import fails_now_and_then
from xbd.limits import Limits
from xbd.machine import HostSettings, Machine, domain, frame_table
from xbd.storage.image import Kind
from xbd.testing.oracle import Violation
from xbd.units import SUPER_PAGES

_HALF_UUID: Final = 1 << 62
# Variables of a service manager, under which the simulation itself may run: its daemons have none.
_NOT_THEIRS: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


@dataclass(frozen=True, slots=True)
class Places:
    """Where a run's files are. *superframes*: of the host that is made there."""

    base: Path
    superframes: int

    @property
    def run(self) -> Path:
        """The run-time directory."""
        return self.base / "run"

    @property
    def state(self) -> Path:
        """The hypervisor's state directory."""
        return self.base / "state"

    @property
    def another(self) -> Path:
        """The state directory of another host."""
        return self.base / "another"

    @property
    def store(self) -> Path:
        """The XenStore's state directory."""
        return self.base / "store"

    @property
    def hypervisor(self) -> Path:
        """The toolstack's socket."""
        return hypervisor_socket(self.run)

    @property
    def autoballoon(self) -> Path:
        """The socket of those who reserve memory."""
        return autoballoon_socket(self.run)

    @property
    def autoballoon_file(self) -> Path:
        """What autoballoon reads as it starts, and when it is told to."""
        return self.base / "autoballoon.toml"

    @property
    def xenstored(self) -> Path:
        """The store's socket."""
        return self.run / "xenstored" / "socket"

    @property
    def metrics(self) -> Path:
        """The scraper's socket."""
        return self.base / "metrics.sock"


def _autoballoon_file(plan: DaemonPlan, seed: int) -> str:
    """Write the file of an autoballoon that minds the domains of one operator by the policy of a plan."""
    name, settings = plan.policy, ""
    if plan.policy_fails:
        name = f"{fails_now_and_then.__module__}:{fails_now_and_then.__name__}"
        settings = f'settings = {{ inner = "{plan.policy}", seed = {seed} }}\n'
    return (
        f'[autoballoon]\nheadroom = "2m"\nthreshold = "2m"\nmin_interval_s = 1.0\n'
        f'domains = ["{MINDED}-*"]\npolicy = "{name}"\n{settings}'
    )


class PlacedState(state_dir.StateDir):
    """A state directory that knows what of it has its place on the disk: what has none may end the daemon (SIGBUS)."""

    def __init__(self, path: Path) -> None:
        self._placed: set[tuple[Kind, int, int, int]] = set()
        super().__init__(path)

    def allocate(self, kind: Kind, number: int, spans: Sequence[tuple[int, int]]) -> None:
        """Give words of a section their place on the disk. Raises OSError."""
        super().allocate(kind, number, spans)
        self._placed |= {(kind, number, *span) for span in spans}

    def check(self, machine: Machine) -> None:
        """See that what is read whole has its place. Raises Violation."""
        read_whole = {Kind.HOST: frame_table.READ_WHOLE, Kind.DOMAIN: domain.READ_WHOLE}
        for key, section in machine.image.sections.items():
            for name in read_whole.get(key[0], ()):
                if (*key, *section.span(name)) not in self._placed:
                    raise Violation(f"{section_name(*key)}: {name} has no place on the disk, and is read whole")


class Mains:
    """What each daemon's process runs, by name; *plan*: which policy autoballoon's file names."""

    def __init__(self, places: Places, trace: Trace, limits: Limits, plan: DaemonPlan, seed: int) -> None:
        places.autoballoon_file.write_text(_autoballoon_file(plan, seed))
        self._places = places
        self._limits = limits
        self._nodes = plan.nodes
        self._trace = trace
        self.by_name: dict[str, Callable[[Process], Awaitable[int]]] = {
            "hypervisor": self.hypervisor,
            **{
                name: partial(self.guests, AgentShare(index, plan.agent_processes))
                for index, name in enumerate(plan.agent_names)
            },
            "autoballoon": self.autoballoon,
            "xenstored": self.xenstored,
            "metrics": self.metrics,
        }

    async def hypervisor(self, process: Process) -> int:
        """Be `xbd hypervisor --state-dir`."""
        state = PlacedState(self._places.state)
        state.undo.on_note = lambda: process.reach("note")
        if state.undone:
            self._trace.sometimes("a step was undone")
        try:
            machine = state_dir.make_machine(
                state, self._places.superframes, HostSettings(), limits=self._limits, nodes=self._nodes
            )
            state.check(machine)
            code = await hypervisor.run(machine, self._places.run, state=state)
            state.check(machine)
            return code
        finally:
            # As the end of a process does, whatever it was doing.
            state.close(in_order=False)

    async def guests(self, share: AgentShare, process: Process) -> int:
        """Be `xbd guests`, or one of its processes, which plays a share of the guests."""
        del process
        return await run_guests(self._places.hypervisor, share=share)

    async def autoballoon(self, process: Process) -> int:
        """Be `xbd autoballoon --config`."""
        del process
        path = self._places.autoballoon_file
        return await run_autoballoon(self._places.hypervisor, load_autoballoon_config(path), path, self._limits)

    async def xenstored(self, process: Process) -> int:
        """Be `xbd xenstored --state-dir`."""
        del process
        return await run_xenstored(self._places.hypervisor, self._places.xenstored, self._places.store)

    async def metrics(self, process: Process) -> int:
        """Be `xbd metrics --listen PATH`."""
        bound: list[socket] = []

        async def bind() -> tuple[Sequence[socket], str]:
            bound.append(sockets.bind_unix(self._places.metrics))
            return bound, "here"

        def say(line: str) -> None:
            process.is_ready = True
            self._trace.line(process.name, line)

        try:
            return await run_metrics(self._places.hypervisor, bind, say)
        finally:
            # As the end of a process does.
            for one in bound:
                one.close()


def make_another_host(places: Places, name: str, domid: int) -> None:
    """Leave the state of another host, with one domain, of number *domid*, where `places.another` is."""
    state = state_dir.StateDir(places.another)
    machine = state_dir.make_machine(state, places.superframes, HostSettings())
    host = Controller(machine, clock=time.time, name="another")
    asked = {"name": name, "max_pages": 2 * SUPER_PAGES, "target_pages": SUPER_PAGES}
    for _ in range(1, domid):
        with host.step():
            host.call("destroy", {"domid": host.call("create", asked)["domid"]})
    with host.step():
        host.call("create", asked)
    state.begin()
    state.close(in_order=True)


async def _at_once(work: Any, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - it stands for trio's own
    """Be `trio.to_thread.run_sync` without a thread, whose pace would be the machine's."""
    del options
    await trio.lowlevel.checkpoint()
    return work(*args)


@contextmanager
def _replaced(where: object, name: str, other: object) -> Iterator[None]:
    """Replace a function of a library for the length of a `with` block."""
    original = getattr(where, name)
    setattr(where, name, other)
    try:
        yield
    finally:
        setattr(where, name, original)


@contextmanager
def replaced_for_daemons(calls: FaultyCalls, rng: Rng) -> Iterator[None]:
    """Give daemons the simulation's signals, clients' connections, time of day and chance, no threads, and no service manager."""
    kept = {name: os.environ.pop(name) for name in _NOT_THEIRS if name in os.environ}
    try:
        with (
            _replaced(trio.to_thread, "run_sync", _at_once),
            _replaced(trio, "open_unix_socket", connect_through(calls, trio.open_unix_socket)),
            _replaced(time, "time", calls.wall_clock),
            # Where time is virtual, nothing takes any of the processor's; asking for it costs a call of the system.
            _replaced(time, "thread_time", lambda: 0.0),
            # What is drawn by chance reaches the log.
            _replaced(
                uuid, "uuid4", lambda: uuid.UUID(int=rng.below(_HALF_UUID) << 64 | rng.below(_HALF_UUID), version=4)
            ),
            _replaced(secrets, "randbelow", rng.below),
            outside.replaced(signals=signals_of_processes),
        ):
            yield
    finally:
        os.environ.update(kept)
