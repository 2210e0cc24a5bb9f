"""A whole host in one process on virtual time: a machine, its guests, and nothing between them.

The guests' commands are carried out by direct calls, the moment they are issued, and time moves
only when it is told to. What runs here is what runs behind the sockets, in the same order for the
same seed: guests whose deadlines have come step in the order of their domids.
"""

from dataclasses import dataclass

from xbd.abi import BootInfo
from xbd.guest import Answered, Event, Guest, GuestSettings, LimitSet, TargetSet, Tick
from xbd.guest.workload import Idle, Workload
from xbd.machine import HostSettings, Machine
from xbd.units import SUPER_PAGES

# A guest that goes on issuing commands at one instant of virtual time is broken, not busy.
_ROUNDS_MAX = 1_000_000


@dataclass(slots=True, eq=False)
class _Agent:
    guest: Guest
    deadline: float | None = None


class VirtualHost:
    """A machine with guests on virtual time.

    Attributes: *machine*, to be used like the toolstack does; *now* virtual seconds since the start.
    """

    def __init__(self, superframes: int, settings: HostSettings | None = None, *, seed: int = 0) -> None:
        self.machine = Machine(superframes, settings=settings)
        self.now = 0.0
        self._seed = seed
        self._agents: dict[int, _Agent] = {}

    def create(
        self,
        name: str,
        *,
        max_pages: int,
        target_pages: int,
        gfn_count: int | None = None,
        settings: GuestSettings | None = None,
        workload: Workload | None = None,
    ) -> int:
        """Make a domain and boot a guest in it; returns its domid. Raises as `Machine.create` does."""
        domid = self.machine.create(name, max_pages=max_pages, target_pages=target_pages, gfn_count=gfn_count)
        self._boot(self.machine.reboot(domid), settings, workload)
        return domid

    def _boot(self, boot: BootInfo, settings: GuestSettings | None, workload: Workload | None) -> None:
        seed = self._seed * 65_537 + boot.domid
        self._agents[boot.domid] = _Agent(Guest(boot, settings or GuestSettings(), seed, workload or Idle()))
        self.send(boot.domid, Tick())

    def destroy(self, domid: int) -> None:
        """End a guest and its domain."""
        self.machine.destroy(domid)
        del self._agents[domid]

    def guest(self, domid: int) -> Guest:
        """Find the guest of a domain, to look at it."""
        return self._agents[domid].guest

    def domids(self) -> list[int]:
        """List the domains that have a guest, ascending."""
        return sorted(self._agents)

    def send(self, domid: int, event: Event) -> None:
        """Let an event reach a guest, and carry out whatever it then wants, until it is quiet."""
        agent = self._agents[domid]
        execute = self.machine.execute
        step = agent.guest.step(event, self.now)
        for _ in range(_ROUNDS_MAX):
            if not step.commands:
                agent.deadline = step.deadline
                return
            step = agent.guest.step(Answered([execute(domid, command) for command in step.commands]), self.now)
        raise AssertionError(f"d{domid} issued commands for {_ROUNDS_MAX} rounds at {self.now} s")

    def set_target(self, domid: int, pages: int) -> None:
        """Set a domain's target as the toolstack does: shrinking target before limit, growing limit before target."""
        growing = pages > self.machine.domain(domid).target_pages
        if growing:
            self._set_limit(domid, pages)
        self.machine.set_target(domid, pages)
        self.send(domid, TargetSet(pages))
        if not growing:
            self._set_limit(domid, pages)

    def _set_limit(self, domid: int, pages: int) -> None:
        limit = max(-(-pages // SUPER_PAGES) * SUPER_PAGES, SUPER_PAGES)
        self.machine.set_max_pages(domid, limit)
        self.send(domid, LimitSet(limit))

    def advance(self, until: float) -> None:
        """Move time on to *until*, waking each guest when its deadline comes."""
        while (due := self._next_deadline()) <= until:
            self.now = max(self.now, due)
            for domid in self.domids():
                deadline = self._agents[domid].deadline
                if deadline is not None and deadline <= self.now:
                    self.send(domid, Tick())
        self.now = max(self.now, until)

    def _next_deadline(self) -> float:
        deadlines = [agent.deadline for agent in self._agents.values() if agent.deadline is not None]
        return min(deadlines, default=float("inf"))

    def check(self) -> list[str]:
        """Audit the machine, check each guest, and compare what they think of each other; empty when all is well."""
        wrong = self.machine.audit()
        for domid in self.domids():
            guest = self.guest(domid)
            wrong += [f"d{domid}: {text}" for text in guest.check()]
            tot_pages, current = self.machine.domain(domid).tot_pages, guest.statistics().current_pages
            if tot_pages != current:
                wrong.append(f"d{domid}: the guest counts {current} pages, the machine {tot_pages}")
        return wrong
