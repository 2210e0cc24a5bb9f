"""A whole host in one process on virtual time: a machine and its guests, without a protocol between them.

The guests' commands are executed by direct calls when they are issued, and time advances only in `advance`. The code is
that behind the sockets, and it runs in the same order for the same seed: guests whose deadlines are due step in the
order of their domids, and guests that exchange messages take turns, a step each.
"""

from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np

from xbd.abi import BootInfo, DomainType, Frames
from xbd.guest import Answered, Event, Guest, GuestSettings, LimitSet, MemoryFreed, MessagesWaiting, TargetSet, Tick
from xbd.guest.workload import Idle, Workload
from xbd.machine import HostSettings, Machine
from xbd.target_rules import limit_comes_first, limit_of

# More steps than this at one instant of virtual time are an endless loop.
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

    Attributes: *machine*: to be used as the toolstack does; *now*: virtual seconds since the start; *limit_beyond_pages*:
    as `limit_of` takes it; 0: a new domain's limit is its *max_pages*.
    """

    def __init__(self, superframes: int, settings: HostSettings | None = None, *, seed: int = 0) -> None:
        self.machine = Machine(superframes, settings=settings)
        self.limit_beyond_pages = 0
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
        if self.limit_beyond_pages:
            self.machine.set_max_pages(domid, limit_of(target_pages, self.limit_beyond_pages))
        self._boot(self.machine.reboot(domid), settings or GuestSettings(), workload or Idle())
        return domid

    def _boot(self, boot: BootInfo, settings: GuestSettings, workload: Workload) -> None:
        seed = self._seed * 65_537 + boot.domid
        self._agents[boot.domid] = _Agent(Guest(boot, settings, seed, workload), settings, workload)
        self.send(boot.domid, Tick())

    def reboot(self, domid: int) -> None:
        """Kill a guest in the middle of its work, and boot another one with the same settings in its domain."""
        agent = self._agents.pop(domid)
        self._boot(self.machine.reboot(domid), agent.settings, agent.workload)

    def destroy(self, domid: int) -> int:
        """End a guest and its domain; returns how many of its pages were still mapped, as `Machine.destroy` does."""
        still_mapped = self.machine.destroy(domid)
        del self._agents[domid]
        self._run(deque())
        return still_mapped

    def guest(self, domid: int) -> Guest:
        """Return the guest of a domain."""
        return self._agents[domid].guest

    def domids(self) -> list[int]:
        """List the domains that have a guest, ascending."""
        return sorted(self._agents)

    def send(self, domid: int, event: Event) -> None:
        """Deliver an event to a guest, and execute the commands of all guests that it sets off until there are no more."""
        self._run(deque([(domid, event)]))

    def _run(self, events: deque[tuple[int, Event]]) -> None:
        """Deliver events in turn; the events that they cause are appended."""
        for _ in range(_ROUNDS_MAX):
            events.extend((domid, MessagesWaiting()) for domid in self.machine.take_woken() if domid in self._agents)
            events.extend((domid, MemoryFreed()) for domid in self.machine.take_relieved() if self._listens(domid))
            if not events:
                if not self.machine.has_offers:
                    return
                # No events are left: guests that were offered free memory and did not take it will not, so others get it.
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
            f"{sorted({domid for domid, _ in events})} still issue commands after {_ROUNDS_MAX} rounds at {self.now} s"
        )

    def _listens(self, domid: int) -> bool:
        """Whether a guest is to be told of free memory; without a step, the state of any other guest stays the same."""
        agent = self._agents.get(domid)
        return agent is not None and agent.settings.driver.wake_when_told

    def set_target(self, domid: int, pages: int) -> None:
        """Set a domain's target and limit as the toolstack does: the limit is first only where it would be the lower one."""
        limit_first = limit_comes_first(pages, self.machine.domain(domid).max_pages)
        if limit_first:
            self._set_limit(domid, pages)
        self.machine.set_target(domid, pages)
        self.send(domid, TargetSet(pages))
        if not limit_first:
            self._set_limit(domid, pages)

    def _set_limit(self, domid: int, pages: int) -> None:
        limit = limit_of(pages, self.limit_beyond_pages)
        self.machine.set_max_pages(domid, limit)
        self.send(domid, LimitSet(limit))

    def advance(self, until: float) -> None:
        """Advance time to *until*, stepping each guest at its deadlines."""
        # Calls on the machine itself may have freed memory.
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
        """Audit the machine, check each guest, and compare both; returns the discrepancies."""
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
        """Compare a domain's mapped slots and grants with its guest's; a guest may have slots that are not mapped."""
        domain, guest = self.machine.domain(domid), self.guest(domid)
        mappings, grants = domain.mappings, domain.grants
        mapped = mappings.gfn[mappings.in_use()] - 1 if mappings is not None else _NOTHING
        strange = np.setdiff1d(mapped, guest.slots())
        wrong = [f"d{domid}: gfn {gfn:#x} is mapped, and no slot of its guest" for gfn in strange.tolist()]
        granted = grants.in_use() if grants is not None else _NOTHING
        left_over = np.setxor1d(granted, guest.grants())
        wrong += [f"d{domid}: only one of guest and machine knows of grant {ref}" for ref in left_over.tolist()]
        return wrong
