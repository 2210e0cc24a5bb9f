"""The simulated daemon process: it can be killed at any step, and is restarted from its saved state."""

from collections.abc import Callable
from typing import Final, Protocol

from xbd.control.domain_sockets import DomainSockets
from xbd.errors import DamagedState
from xbd.lab.simulation.context import Context
from xbd.lab.simulation.options import Plan
from xbd.lab.simulation.rng import Rng
from xbd.lab.simulation.switches import SWITCHES, find, parts_without, undo_without
from xbd.lab.simulation.watched import Bounds, Oracles, OrderedSet, WatchedController
from xbd.limits import Limits
from xbd.machine import Machine
from xbd.machine.recovery import recover
from xbd.storage.image import Image
from xbd.storage.memory import MemoryStore
from xbd.testing.oracle import Violation
from xbd.units import SUPER_PAGES

# It is killed at one of the next this many notes in the undo log. An operation makes a few: they span several operations.
_NOTES_MOST: Final = 12
_AT_COMMIT_SHARE: Final = 0.3
# How often it is killed again while it starts.
_AT_START_SHARE: Final = 0.1
_DOWN_MOST_S: Final = 0.3
# Grants: fewer than the block I/O of a busy guest takes at times, so that the tables run full, and audits are fast; an
# inbox: twice what all possible senders may fill.
LIMITS: Final = Limits(grants=128, mappings=256, inbox_words=1 << 15)


class DaemonContext(Context, DomainSockets, Protocol):
    """The part of `World` that the daemon uses, domain sockets included."""


class Daemon:
    """The simulated daemon process.

    Args:
        started: called after each restart.

    Attributes: *up*: whether it runs. *store*: its saved state, which outlives it. *host*: its core; while it is not
    *up*, that of the process that ended last.
    """

    def __init__(self, world: DaemonContext, rng: Rng, started: Callable[[], None]) -> None:
        self._world = world
        self._started = started
        plan = world.plan
        self._rng = rng
        self.up = True
        missing = find(world.options.off, SWITCHES)
        self._parts = parts_without(missing)
        self.store = MemoryStore(undo_without(missing))
        self.oracles = Oracles()
        image = Image(self.store)
        machine = Machine(
            plan.superframes,
            settings=plan.settings,
            image=image,
            limits=LIMITS,
            parts=self._parts,
            nodes=plan.nodes,
        )
        self.host = self._new_host(machine, {})
        with self.host.step():
            self._create_dom0(plan)

    def _new_host(self, machine: Machine, limits: dict[int, Bounds]) -> WatchedController:
        host = WatchedController(machine, clock=lambda: self._world.now, sockets=self._world)
        host.oracles, host.limits = self.oracles, limits
        host.subscribers = OrderedSet()
        return host

    def _create_dom0(self, plan: Plan) -> None:
        pages = max(2, plan.superframes // 4) * SUPER_PAGES
        guest = {"verify": True, "block_back_end": {"persistent": self._rng.bernoulli(0.5)}}
        self.host.create_dom0({"name": "dom0", "max_pages": pages, "target_pages": pages, "guest": guest})
        self.host.limits[0] = Bounds(pages, pages)

    # -- stopping

    def stop(self) -> None:
        """Stop in order, as on SIGTERM."""
        self._world.end_connections(in_order=True)
        self._down()

    def kill(self) -> None:
        """Kill it between two steps, or where a step has just raised `Crash`."""
        self._world.end_connections(in_order=False)
        self._down()

    def kill_at_later_step(self) -> None:
        """Kill it at one of the next writes to the undo log, in the middle of a step, or at the end of a step."""
        if self._rng.bernoulli(_AT_COMMIT_SHARE):
            self.host.dies_at_commit = True
        else:
            self.store.crash_after(1 + self._rng.below(_NOTES_MOST))

    def cancel_kill(self) -> None:
        """Cancel a `kill_at_later_step` that has not happened yet."""
        self.store.undo.on_note = None
        self.host.dies_at_commit = False

    def _down(self) -> None:
        self.up = False
        self.cancel_kill()
        self._world.schedule.after(self._rng.uniform(0.01, _DOWN_MOST_S), "daemon starts", self._start)

    # -- starting again

    def _start(self) -> str:
        before = self.host
        noted = self.store.roll_back()
        if not self._world.healing and self._rng.bernoulli(_AT_START_SHARE):
            self.store.crash_after(1)
        try:
            host = self._new_host(recover(self.store, LIMITS, self._parts), before.limits_before)
            host.restore()
        except DamagedState as error:
            raise Violation(f"the daemon cannot be started again: {error}") from error
        self.host = host
        self.up = True
        self._check_limits(before)
        self._check_executed(before)
        self._started()
        return f"{noted} notes undone"

    def _check_limits(self, before: WatchedController) -> None:
        """Compare the domains' limits with those at the last commit."""
        machine = self.host.machine
        found = {
            domid: Bounds(machine.domain(domid).target_pages, machine.domain(domid).max_pages)
            for domid in machine.living_domains()
        }
        if found != before.limits_before:
            raise Violation(f"after a restart the domains are {found}, they were {before.limits_before}")
        self.host.limits = self.host.limits_before = found

    def _check_executed(self, before: WatchedController) -> None:
        """Compare the sessions with the commands executed up to the last commit; those of an uncommitted one were undone."""
        for domid in self.host.machine.living_domains():
            oracle = self._world.oracle(domid)
            if not oracle.booted or oracle.reboot_pending:
                continue
            session = self.host.record(domid).session
            done = session.next_msgid - session.hello_msgid - 1
            if before.uncommitted is not None and domid == before.uncommitted[0]:
                oracle.executed -= 1
                while len(oracle.results) > before.uncommitted[1]:
                    oracle.results.pop()
            if done != oracle.executed:
                raise Violation(
                    f"d{domid}: after a restart {done} calls are done, {oracle.executed} were done at the last commit"
                )
