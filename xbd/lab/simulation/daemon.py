"""The daemon's process in a simulation: it runs, dies at any step, and is started again from what it saved."""

from collections.abc import Callable
from typing import Final, Protocol

from xbd.control.domain_sockets import Doors
from xbd.errors import DamagedState
from xbd.lab.simulation.context import Context
from xbd.lab.simulation.options import Plan
from xbd.lab.simulation.rng import Lots
from xbd.lab.simulation.violation import Violation
from xbd.lab.simulation.watched import Books, InOrder, Limits, WatchedHost
from xbd.machine import Machine
from xbd.machine.recovery import recover
from xbd.storage.image import Image
from xbd.storage.memory import MemoryStore
from xbd.units import SUPER_PAGES

# An operation makes a few notes; so many reach into the one after the next.
_NOTES_MOST: Final = 12
_AT_COMMIT_SHARE: Final = 0.3
# It may die again before it is there again.
_AT_START_SHARE: Final = 0.1
_DOWN_MOST_S: Final = 0.3


class Outside(Context, Doors, Protocol):
    """The world around a daemon, doors included."""


class Daemon:
    """The daemon's process.

    Args:
        started: is called when it is there again.

    Attributes: *store*: what outlives it. *host*: its core; of the last life while it is not *up*.
    """

    def __init__(self, world: Outside, lots: Lots, started: Callable[[], None]) -> None:
        self._world = world
        self._started = started
        plan = world.plan
        self._lots = lots
        self.up = True
        self.store = MemoryStore()
        self.oracles = Books()
        machine = Machine(plan.superframes, settings=plan.settings, image=Image(self.store))
        self.host = self._new_host(machine, {})
        self._create_dom0(plan)
        self.host.commit()

    def _new_host(self, machine: Machine, limits: dict[int, Limits]) -> WatchedHost:
        host = WatchedHost(machine, doors=self._world)
        host.oracles, host.limits = self.oracles, limits
        host.subscribers = InOrder()
        return host

    def _create_dom0(self, plan: Plan) -> None:
        pages = max(2, plan.superframes // 4) * SUPER_PAGES
        guest = {"verify": True, "block_back_end": {"persistent": self._lots.chance(0.5)}}
        self.host.create_dom0({"name": "dom0", "max_pages": pages, "target_pages": pages, "guest": guest})
        self.host.limits[0] = Limits(pages, pages)

    # -- dying

    def stop(self) -> None:
        """End in order."""
        self._world.end_connections(in_order=True)
        self.host.commit()
        self._down()

    def kill(self) -> None:
        """Be killed between two steps, or where a step has just raised `Crash`."""
        self._world.end_connections(in_order=False)
        self._down()

    def kill_within(self) -> None:
        """Be killed at one of the next notes, in the middle of whatever that is about, or at the end of a step."""
        if self._lots.chance(_AT_COMMIT_SHARE):
            self.host.dies_at_commit = True
        else:
            self.store.crash_after(1 + self._lots.below(_NOTES_MOST))

    def spare(self) -> None:
        """Let it live, if it was to be killed soon."""
        self.store.undo.on_note = None
        self.host.dies_at_commit = False

    def _down(self) -> None:
        self.up = False
        self.spare()
        self._world.schedule.after(self._lots.between(0.01, _DOWN_MOST_S), "daemon starts", self._start)

    # -- starting again

    def _start(self) -> str:
        before = self.host
        noted = self.store.roll_back()
        if not self._world.healing and self._lots.chance(_AT_START_SHARE):
            self.store.crash_after(1)
        try:
            host = self._new_host(recover(self.store), before.limits_before)
            host.restore()
        except DamagedState as error:
            raise Violation(f"the daemon cannot be started again: {error}") from error
        host.commit()
        self.host = host
        self.up = True
        self._find_limits(before)
        self._find_executed(before)
        self._started()
        return f"{noted} notes undone"

    def _find_limits(self, before: WatchedHost) -> None:
        """Hold the domains' limits against what they were at the last commit."""
        machine = self.host.machine
        found = {
            domid: Limits(machine.domain(domid).target_pages, machine.domain(domid).max_pages)
            for domid in machine.living_domains()
        }
        if found != before.limits_before:
            raise Violation(f"after a restart the domains are {found}, they were {before.limits_before}")
        self.host.limits = self.host.limits_before = found

    def _find_executed(self, before: WatchedHost) -> None:
        """Hold the sessions against what was done at the last commit: a command that was in hand is not."""
        for domid in self.host.machine.living_domains():
            oracle = self._world.oracle(domid)
            if not oracle.booted or oracle.unsure:
                continue
            session = self.host.record(domid).session
            done = session.next_msgid - session.hello_msgid - 1
            if domid == before.in_hand:
                oracle.executed -= 1
                oracle.results.pop()
            if done != oracle.executed:
                raise Violation(f"d{domid}: after a restart {done} commands are done, they were {oracle.executed}")
