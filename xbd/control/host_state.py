"""What a hypervisor daemon knows of its host: machine, records, events; how a step changes it, or is undone."""

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid5

from xbd.control.client_sessions import ClientSessions
from xbd.control.domain_record import DomainRecord, Wake
from xbd.control.domain_sockets import DomainSockets
from xbd.control.event_log import EventLog
from xbd.control.listing import Listing
from xbd.control.saved import SavedDaemon, agent_section, daemon_section
from xbd.control.step import Step
from xbd.domain import DomainInfo
from xbd.errors import XbdError
from xbd.machine import Machine
from xbd.machine.domain import told_of
from xbd.machine.recovery import undo_step
from xbd.replaceable import replaceable
from xbd.storage.image import Kind


class HostState:
    """One host, *uuid*: its machine, its domains' records, its events, whose times *clock* tells in seconds since the epoch.

    How old reports are is told by *monotonic*, in seconds, which nobody sets. UUIDs of new domains are made of *seed*. A
    daemon has another one at each start: numbers of births may come again, where a state directory was replaced by an
    earlier copy of it. If the machine's state is saved, records and sessions are saved with it. Whatever changes anything
    is called in a `step`; what is not says so.
    """

    def __init__(
        self,
        machine: Machine,
        *,
        clock: Callable[[], float],
        name: str = "host",
        sockets: DomainSockets | None = None,
        seed: UUID | None = None,
        monotonic: Callable[[], float] | None = None,
    ) -> None:
        self.machine = machine
        self.clock = clock
        self.now_s = monotonic or clock
        self._seed = seed or UUID(int=0)
        self.name = name
        self.sockets = sockets
        self.subscribers: set[Wake] = set()
        # Says why no guest gets its turns; empty while they do.
        self.why_guests_wait: Callable[[], str] = str
        self._records: dict[int, DomainRecord] = {}
        # Name and UUID of each.
        self._zombies: dict[int, tuple[str, str]] = {}
        self._step = Step(self)
        self._is_saved = machine.image.store.undo is not None
        # A machine that was recovered from saved state has domains, whose records are restored from it too.
        self.is_restored = self._is_saved and machine.image.is_recovered
        self.saved: SavedDaemon | None = None
        if self.is_restored:
            self.saved = daemon_section(machine.image, machine.limits, new=False)
        elif self._is_saved:
            # No step: there is no commit yet that one could be undone to.
            self.saved = daemon_section(machine.image, machine.limits, new=True)
            self.saved.write_host_uuid(str(self._seed))
            machine.commit()
        self.clients = ClientSessions(self.saved, machine.limits.clients)
        self.uuid = (self.saved and self.saved.host_uuid) or str(self._seed)
        self.events = EventLog(clock, first_number=self._saved_next_event())
        self.listing = Listing(machine, self._records, self.events, self.told, now_s=self.now_s, life=self._seed.hex)

    def step(self) -> Step:
        """Make the `with` block that changes the host: done whole, or undone if it raises; see `Step`."""
        return self._step

    def undo(self, error: Exception) -> bool:
        """Make everything as it was at the last commit, unless *error* says that nothing has changed, or nothing is saved.

        Connections stay, but that of an agent whose domain was destroyed in the step: it connects again.

        Returns whether it was undone. Raises DamagedState: it cannot be.
        """
        if not self._is_saved or (isinstance(error, XbdError) and self.machine.image.is_at_rest):
            return False
        undo_step(self.machine)
        living = set(self.machine.living_domains())
        self._zombies.clear()
        for domid in self._records.keys() - living:
            self._records.pop(domid).gone = True
            if self.sockets is not None:
                self.sockets.close(domid)
        for record in self._records.values():
            record.reload(self.machine.domain(record.domid))
        for domid in self.machine.domains():
            if domid not in self._records:
                self._take_up(domid)
        self.clients.restore()
        self.events.forget_from(self._saved_next_event())
        return True

    def _save_new(self, record: DomainRecord) -> None:
        if self._is_saved:
            record.saved = agent_section(self.machine.image, record.domid, new=True)
            record.session = record.saved.session
            record.save()

    def _drop_saved(self, domid: int) -> None:
        if (Kind.AGENT, domid) in self.machine.image.sections:
            self.machine.image.drop_section(Kind.AGENT, domid)

    def restore(self) -> None:
        """Take up what an earlier daemon saved of the domains of its machine, and open their sockets.

        Raises:
            DamagedState: it cannot be used.
            HypercallError: a socket cannot be opened.
        """
        for domid in self.machine.domains():
            self._take_up(domid)
        self.clients.restore()
        # Read here, so that damage is refused at the start.
        _ = self.described
        self.machine.image.sweep()

    def _take_up(self, domid: int) -> None:
        domain = self.machine.domain(domid)
        if domid not in self.machine.living_domains():
            self._zombies[domid] = domain.name, domain.uuid
            return
        self._keep(DomainRecord.restored(domain, agent_section(self.machine.image, domid, new=False)))
        if self.sockets is not None:
            self.sockets.open(domid)

    def _keep(self, record: DomainRecord) -> None:
        self._records[record.domid] = record
        self.note_changes(record)

    @replaceable
    def note_changes(self, record: DomainRecord) -> None:
        """Have the listing look at a domain again whenever something is set in its record."""
        record.touched = self.listing.touched

    def _saved_next_event(self) -> int:
        return max(self.saved.next_event, 1) if self.saved else 1

    def _uuid_of(self, birth: int) -> str:
        """Make the UUID of a domain."""
        return str(uuid5(self._seed, str(birth)))

    def add_checks(self) -> None:
        """Give a host that an earlier version saved checks of its content words; a step of its own. Raises OutOfResources."""
        with self.step():
            self.machine.add_checks()

    def give_uuids(self) -> None:
        """Give UUIDs to a host, and its domains, that an earlier version saved without them; a step of its own."""
        if self.saved is None or self.saved.host_uuid:
            return
        with self.step():
            self.saved.write_host_uuid(str(self._seed))
            for domid in self.machine.domains():
                domain = self.machine.domain(domid)
                domain.uuid = self._uuid_of(domain.birth)
                domain.save_identity()
                if domid in self._records:
                    self._records[domid].uuid = domain.uuid
                else:
                    self._zombies[domid] = domain.name, domain.uuid

    @property
    def described(self) -> list[str]:
        """Name the guests that the host file has described so far, where that is saved."""
        return [] if self.saved is None else self.saved.described

    def remember_described(self, names: list[str]) -> None:
        """Save which guests the host file has described so far; a step of its own."""
        if self.saved is not None:
            with self.step():
                self.saved.write_described(names)

    def record(self, domid: int) -> DomainRecord:
        """Find a domain's record. Raises NoSuchDomain, also for a zombie."""
        return self._records[self.machine.living(domid).domid]

    def population(self) -> tuple[int, int]:
        """Count the domains (without zombies), and those of them whose agents are connected."""
        return len(self._records), sum(record.agent for record in self._records.values())

    def domain_info(self, domid: int) -> DomainInfo:
        """Describe a domain. Raises NoSuchDomain."""
        return DomainInfo(**self.told(domid))

    def told(self, domid: int) -> dict[str, Any]:
        """Say what is told of a domain: all parts of `DomainInfo`, the age of its report last. Raises NoSuchDomain."""
        told, record = told_of(self.machine.domain(domid)), self._records.get(domid)
        # A zombie's record was dropped when it was destroyed.
        return DomainInfo(**told).as_map() if record is None else told | record.told(self.now_s())

    def audit(self) -> list[str]:
        """Recompute everything; returns the violations found."""
        unmatched = sorted(set(self.machine.living_domains()) ^ self._records.keys())
        return self.machine.audit() + [
            f"d{domid} is known to the machine or to the daemon alone" for domid in unmatched
        ]

    def _event(self, event: str, record: DomainRecord, **details: object) -> None:
        self._announce(event, domid=record.domid, name=record.name, uuid=record.uuid, **details)

    def _announce(self, event: str, *, domid: int, **details: object) -> None:
        self.listing.touched.add(domid)
        self.events.add(event, domid=domid, **details)
        if self.saved is not None:
            self.saved.write_next_event(self.events.next_number)
        self._wake_subscribers()

    def _wake_subscribers(self) -> None:
        for wake in self.subscribers:
            wake()
