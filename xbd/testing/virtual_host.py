"""A whole host in one process on virtual time: a machine, its guests, and nothing between them.

The guests' commands are carried out by direct calls, the moment they are issued, and time moves
only when it is told to. What runs here is what runs behind the sockets, in the same order for the
same seed: guests whose deadlines have come step in the order of their domids, and guests that talk
to each other by turns, each a step.
"""

from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np

from xbd.abi import BootInfo, DomainType, Frames
from xbd.guest import Answered, Event, Guest, GuestSettings, LimitSet, MemoryFreed, MessagesWaiting, TargetSet, Tick
from xbd.guest.workload import Idle, Workload
from xbd.machine import HostSettings, Machine
from xbd.units import SUPER_PAGES

# Guests that go on issuing commands at one instant of virtual time are broken, not busy.
_ROUNDS_MAX = 1_000_000
_NOTHING: Final[Frames] = np.zeros(0, dtype=np.int64)


@dataclass(slots=True, eq=False)
class _Agent:
    guest: Guest
    settings: GuestSettings
    workload: Workload
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
        domid: int | None = None,
        domain_type: DomainType = DomainType.PVH,
        min_pages: int = 0,
        settings: GuestSettings | None = None,
        workload: Workload | None = None,
    ) -> int:
        """Make a domain and boot a guest in it; returns its domid. Raises as `Machine.create` does."""
        domid = self.machine.create(
            name,
            max_pages=max_pages,
            target_pages=target_pages,
            gfn_count=gfn_count,
            domid=domid,
            domain_type=domain_type,
            min_pages=min_pages,
        )
        self._boot(self.machine.reboot(domid), settings or GuestSettings(), workload or Idle())
        return domid

    def _boot(self, boot: BootInfo, settings: GuestSettings, workload: Workload) -> None:
        seed = self._seed * 65_537 + boot.domid
        self._agents[boot.domid] = _Agent(Guest(boot, settings, seed, workload), settings, workload)
        self.send(boot.domid, Tick())

    def reboot(self, domid: int) -> None:
        """End a guest in the middle of things and boot another one like it in its domain."""
        agent = self._agents.pop(domid)
        self._boot(self.machine.reboot(domid), agent.settings, agent.workload)

    def destroy(self, domid: int) -> int:
        """End a guest and its domain; returns how many of its pages were still mapped, as `Machine.destroy` does."""
        still_mapped = self.machine.destroy(domid)
        del self._agents[domid]
        self._run(deque())
        return still_mapped

    def guest(self, domid: int) -> Guest:
        """Find the guest of a domain, to look at it."""
        return self._agents[domid].guest

    def domids(self) -> list[int]:
        """List the domains that have a guest, ascending."""
        return sorted(self._agents)

    def send(self, domid: int, event: Event) -> None:
        """Let an event reach a guest, and carry out whatever it and those that it talks to then want, until all is quiet."""
        self._run(deque([(domid, event)]))

    def _run(self, events: deque[tuple[int, Event]]) -> None:
        """Let guests step by turns: each event is a turn, and what comes of it is put behind the others."""
        for _ in range(_ROUNDS_MAX):
            events.extend((domid, MessagesWaiting()) for domid in self.machine.take_woken() if domid in self._agents)
            events.extend((domid, MemoryFreed()) for domid in self.machine.take_relieved() if self._listens(domid))
            if not events:
                if not self.machine.has_offers:
                    return
                # All is quiet: who was told of free memory and has not asked for it will not, and others may.
                self.machine.withdraw_offers()
                continue
            domid, event = events.popleft()
            agent = self._agents[domid]
            step = agent.guest.step(event, self.now)
            agent.deadline = step.deadline
            if step.commands:
                results = [self.machine.execute(domid, command) for command in step.commands]
                events.append((domid, Answered(results)))
        raise AssertionError(
            f"{sorted({domid for domid, _ in events})} go on after {_ROUNDS_MAX} rounds at {self.now} s"
        )

    def _listens(self, domid: int) -> bool:
        """Whether a guest wants to hear of free memory; a step less leaves one that does not exactly as it was."""
        agent = self._agents.get(domid)
        return agent is not None and agent.settings.driver.wake_when_told

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
        # What was done to the machine itself may have freed memory.
        self._run(deque())
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
            wrong += self._check_grants(domid)
        return wrong

    def _check_grants(self, domid: int) -> list[str]:
        """Say which slots and grants of a domain its guest knows nothing of; mapped slots may be fewer than it has."""
        domain, guest = self.machine.domain(domid), self.guest(domid)
        mappings, grants = domain.mappings, domain.grants
        mapped = mappings.gfn[mappings.in_use()] - 1 if mappings is not None else _NOTHING
        strange = np.setdiff1d(mapped, guest.slots())
        wrong = [f"d{domid}: gfn {gfn:#x} is mapped, and no slot of its guest" for gfn in strange.tolist()]
        granted = grants.in_use() if grants is not None else _NOTHING
        left_over = np.setxor1d(granted, guest.grants())
        wrong += [f"d{domid}: only one of guest and machine knows of grant {ref}" for ref in left_over.tolist()]
        return wrong
