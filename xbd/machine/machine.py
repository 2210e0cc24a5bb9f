"""The hypervisor: one host's frames, its domains, and the operations on them.

Guests call `Machine.execute`; the other methods are the toolstack's. A machine does no I/O, knows no
clock and never waits; one call is one turn.
"""

from collections.abc import Sequence
from uuid import UUID

from xbd import abi
from xbd.domain import DomainInfo
from xbd.errors import BadArgument, HypercallError, NoSuchDomain
from xbd.limits import LIMITS, Limits
from xbd.machine import claims, grants, mapping, messages, offline, placement, provision
from xbd.machine.audit import audit
from xbd.machine.audit_grants import audit_grants
from xbd.machine.content_check import add_checks
from xbd.machine.creation import Asked, build, check_creation
from xbd.machine.domain import Domain, DomainState, told_of
from xbd.machine.domains import DomainTable
from xbd.machine.frame_map import FrameMap, frame_map
from xbd.machine.frame_table import READ_WHOLE, host_layout, save_has_checks, save_host
from xbd.machine.nodes import Nodes, affinity_of
from xbd.machine.operations import NO_OPERATION, UNCOUNTED, bind, features_of
from xbd.machine.parts import PARTS, Parts
from xbd.machine.reboot import Reboot
from xbd.machine.settings import HostSettings
from xbd.machine.statistics import HostStatistics, NodeStatistics, node_statistics, statistics
from xbd.storage.image import Image, Kind
from xbd.target_rules import Bound, broken_bound, static_max_pages
from xbd.units import SUPER_ORDER, exact_size


def _refused(error: HypercallError) -> abi.Refused:
    return abi.Refused(error.errno, error.message, error.expected)


class Machine:
    """A host of *superframes* superframes (2 MiB each) with no domain; *nodes* of it, default one."""

    def __init__(
        self,
        superframes: int,
        *,
        settings: HostSettings | None = None,
        image: Image | None = None,
        limits: Limits = LIMITS,
        parts: Parts = PARTS,
        nodes: Nodes | None = None,
    ) -> None:
        if superframes < 1:
            raise BadArgument(f"a host of {superframes} superframes", "at least one")
        nodes = nodes or Nodes((superframes,))
        if sum(nodes.superframes) != superframes:
            raise BadArgument(f"nodes of {sum(nodes.superframes)} superframes together", f"the host's {superframes}")
        self.settings = settings or HostSettings()
        self.limits, self.parts = limits, parts
        self.image = image or Image()
        section = self.image.sections.get((Kind.HOST, 0))
        is_new = section is None
        if section is None:
            section = self.image.add_section(Kind.HOST, 0, host_layout(superframes))
            self.image.allocate_once(section, *map(section.span, READ_WHOLE))
            save_host(section, superframes, self.settings, nodes)
        self.host = parts.frame_table(nodes, self.settings, self.image, section)
        self.domain_table = DomainTable(self.image, section, limits, parts)
        self._domains = self.domain_table.domains
        self._operations = bind(self.domain_table, self.host)
        if is_new:
            self.add_checks()

    def add_checks(self) -> None:
        """Have checks of the content words from the commit of this step on, if the host is saved and has none.

        Raises OSError: there is no room for them; nothing has changed.
        """
        if self.image.store.undo is not None and self.host.checks is None:
            self.host.checks = add_checks(self.image, self.host.written, self.host.content_rows)
            save_has_checks(self.image.sections[Kind.HOST, 0])

    # -- the toolstack's operations

    def create(
        self,
        name: str,
        *,
        max_pages: int,
        target_pages: int,
        gfn_count: int | None = None,
        domid: int | None = None,
        domain_type: abi.DomainType = abi.DomainType.PVH,
        min_pages: int = 0,
        uuid: str | None = None,
        nodes: Sequence[int] = (),
        is_hard: bool = False,
    ) -> int:
        """Make a domain and populate gfns 0..target, order 9 first; returns its domid.

        Args:
            name: not taken by another domain.
            max_pages: the cap, in whole superframes.
            target_pages: what it holds at first, in whole superframes, at most max_pages.
            gfn_count: the gfn space in pages (static maximum); default max_pages.
            domid: default the next one, see `DomainTable.free_domid`.
            domain_type: which operations it has.
            min_pages: no target is set below it; in whole superframes, at most target_pages.
            uuid: one that no other domain ever had; default its birth, which no other domain of this machine has.
            nodes: those that its memory should lie on; default any.
            is_hard: whether it must lie there; else what these nodes have not comes from those nearest to the first.

        Raises:
            BadArgument, AlreadyExists, OutOfFrames, OutOfResources: nothing is left behind.

        Source: xl create; the balloon of what is above target is xbd's own ("create", semantics).
        """
        gfn_count = max_pages if gfn_count is None else gfn_count
        if domid is None:
            domid = self.domain_table.free_domid()
        affinity = affinity_of(self.host.nodes, nodes, is_hard=is_hard)
        sequence = self.host.sequence(affinity)
        asked = Asked(name, domid, max_pages, target_pages, min_pages, gfn_count, affinity)
        check_creation(asked, self.domain_table, placement.obtainable(self.host, None, sequence, 0))
        whole = placement.obtainable(self.host, None, sequence, SUPER_ORDER)
        p2m, section = provision.make_tables(self.domain_table, domid, gfn_count, target_pages, whole)
        birth = self.domain_table.next_birth()
        domain = Domain(
            domid,
            name,
            p2m,
            section,
            max_pages,
            target_pages,
            min_pages=min_pages,
            domain_type=domain_type,
            features=features_of(self.settings, domain_type),
            birth=birth,
            uuid=uuid or str(UUID(int=birth)),
            node_claims=[0] * self.host.nodes.count,
            affinity=affinity,
            sequence=sequence,
            by_node=self.host.pages_by_node(),
        )
        self.domain_table.add(domain)
        build(self.host, domain, target_pages)
        return domid

    def destroy(self, domid: int) -> int:
        """End a domain: its mappings end, its frames go back to the heap, scrubbed.

        Raises NoSuchDomain, OutOfResources: nothing has changed.

        Returns:
            How many of its pages others still map. Those stay its own, and it stays as a zombie until they let go;
            its name is free at once.
        """
        domain = self.domain_table.living(domid)
        contacts = provision.reserve_end(self.domain_table, self.host, domain, f"d{domid} is not destroyed")
        self.host.stop_waiting(domid)
        claims.release(self.host, domain)
        grants.release_mappings(self.domain_table, self.host, domain)
        messages.announce_departure(self.domain_table, domain, grants.mappers_of(domain), contacts)
        mapping.release_everything(self.host, domain, domain.granted_pages())
        self.domain_table.retire(domain)
        left = domain.tot_pages
        if left:
            domain.state = DomainState.ZOMBIE
            domain.save()
        else:
            self.domain_table.remove(domain)
        return left

    def set_max_pages(self, domid: int, max_pages: int) -> None:
        """Set a domain's cap; below tot_pages nothing can be populated until enough was given back.

        What its claims promise beyond it is taken back.
        It may be beyond the gfn space, as toolstacks set it: then that is what bounds the domain.

        Raises NoSuchDomain, BadArgument (beyond any gfn space, or below its minimum): nothing changed.
        Source: Xen XEN_DOMCTL_max_mem, which knows no minimum.
        """
        domain = self._bounded("limit", domid, max_pages, abi.MAX_DOMAIN_PAGES)
        domain.max_pages = max_pages
        domain.save()
        claims.fit(self.host, domain)

    def set_target(self, domid: int, target_pages: int) -> None:
        """Note what a domain should hold; moving there is its guest's part. Raises NoSuchDomain, BadArgument."""
        domain = self._bounded("target", domid, target_pages, self.ceiling(domid))
        domain.target_pages = target_pages
        domain.save()

    def _bounded(self, what: str, domid: int, pages: int, most_pages: int) -> Domain:
        """Return a domain that may have such a target or limit. Raises NoSuchDomain, BadArgument."""
        domain = self.domain_table.living(domid)
        broken = broken_bound(pages, domain.min_pages, most_pages)
        if broken is Bound.MINIMUM and pages > 0:
            raise BadArgument(
                f"{what} {exact_size(pages)} for d{domid} is below its minimum",
                f"at least {exact_size(domain.min_pages)}",
            )
        if broken is not None:
            raise BadArgument(f"{what} {exact_size(pages)} for d{domid}", f"a page to {exact_size(most_pages)}")
        return domain

    def claim(self, domid: int, pages: int) -> None:
        """Promise a domain that it can come to hold *pages*; 0 clears its claim. See `claims.claim`.

        Raises NoSuchDomain, BadArgument, OutOfFrames: nothing changed. Source: Xen XENMEM_claim_pages.
        """
        claims.claim(self.host, self.domain_table.living(domid), pages)

    def claim_set(self, domid: int, entries: Sequence[tuple[int, int | None]]) -> None:
        """Promise a domain (pages, node) each, None: of the whole host, in place of what it claimed; none: nothing.

        Raises NoSuchDomain, BadArgument, OutOfFrames: nothing changed. See `claims.claim_set`.
        """
        claims.claim_set(self.host, self.domain_table.living(domid), entries)

    def go_offline(self, node: int, pages: int) -> dict[int, int]:
        """Take free superframes of a node out of use; returns how many claimed pages each domain lost, by domid.

        Raises BadArgument, OutOfFrames, OutOfResources: nothing changed. See `offline.go_offline`.
        """
        return offline.go_offline(self.host, self.image, self.domain_table.ascending(), node, pages)

    def come_online(self, node: int, pages: int) -> None:
        """Take superframes of a node into use again. Raises BadArgument, OutOfFrames, OutOfResources: nothing changed."""
        offline.come_online(self.host, self.image, node, pages)

    def rename(self, domid: int, name: str) -> None:
        """Call a domain otherwise; no other domain may be called so. Raises NoSuchDomain, BadArgument, AlreadyExists."""
        self.domain_table.rename(self.domain_table.living(domid), name)

    def ceiling(self, domid: int) -> int:
        """Tell the most pages a domain can ever have: its gfn space, rounded up to whole superframes."""
        return static_max_pages(self.domain(domid).p2m.gfn_count)

    def reserve_reboot(self, domid: int) -> abi.Frames:
        """Return the contacts that `reboot` needs, so that it cannot fail. Raises NoSuchDomain, OutOfResources."""
        domain = self.domain_table.living(domid)
        return provision.reserve_end(self.domain_table, self.host, domain, f"d{domid} is not booted")

    def reboot(self, domid: int, contacts: abi.Frames | None = None) -> abi.BootInfo:
        """Zero a domain's memory, and return what its new guest is told at boot. Raises NoSuchDomain.

        *contacts*: of `reserve_reboot`, else that is called. Its grants and mappings end; where others map its pages, their mappings are cut off (see `grants.cut_off`).
        """
        reboot = self.begin_reboot(domid, contacts)
        while not reboot.go_on():
            pass
        return reboot.info()

    def begin_reboot(self, domid: int, contacts: abi.Frames | None = None) -> Reboot:
        """Begin what `reboot` does, to go on with it a few superpages at a time. Raises NoSuchDomain."""
        domain = self.domain_table.living(domid)
        contacts = self.reserve_reboot(domid) if contacts is None else contacts
        self.host.stop_waiting(domid)
        messages.announce_departure(self.domain_table, domain, grants.mappers_of(domain), contacts)
        grants.release_mappings(self.domain_table, self.host, domain)
        grants.cut_off(self.domain_table, self.host, domain)
        return Reboot(self, domid)

    def boot_info(self, domid: int, *, runs: abi.Frames | None = None) -> abi.BootInfo:
        """Return what a booting guest is told: map, target, limit, features. Raises NoSuchDomain.

        *runs*: what it is told of its map, where that is known; a guest that resumes its session knows it, and gets none.
        """
        domain = self.domain_table.living(domid)
        return abi.BootInfo(
            domid=domid,
            name=domain.name,
            gfn_count=domain.p2m.gfn_count,
            runs=domain.p2m.runs() if runs is None else runs,
            target_pages=domain.target_pages,
            max_pages=domain.max_pages,
            features=domain.features,
            domain_type=domain.domain_type,
        )

    # -- guests' operations

    def execute(self, domid: int, command: abi.Command) -> abi.Result:
        """Do one turn of *command* for a domain, and count it.

        Every command gets an answer: bad arguments are `Refused`, with nothing changed.
        """
        try:
            domain = self.domain_table.living(domid)
        except NoSuchDomain as error:
            return _refused(error)
        self.host.touched.add(domid)
        name, operation = self._operations[domain.domain_type].get(type(command), NO_OPERATION)
        try:
            result = operation(domain, command)
        except HypercallError as error:
            result = _refused(error)
        if name not in UNCOUNTED:
            if isinstance(result, abi.Refused):
                domain.counts.count(name, result.errno, 0)
            else:
                domain.counts.count(name, result.stop or "done", result.done)
        return result

    def commit(self) -> None:
        """End the step: nothing done since the last commit is rolled back any more; see `xbd.storage.image`."""
        self.image.commit()

    def become(self, derived: "Machine") -> None:
        """Take the tables of a machine that was derived from the same image; who waits for memory goes on waiting."""
        derived.host.waiting, derived.host.waiting_for = self.host.waiting, self.host.waiting_for
        derived.host.touched = self.host.touched
        self.host, self.domain_table = derived.host, derived.domain_table
        self._domains = self.domain_table.domains
        self._operations = bind(self.domain_table, self.host)

    @property
    def has_news(self) -> bool:
        """Whether `take_woken`, `take_vanished` or `take_relieved` may return anything."""
        if self.domain_table.woken or self.domain_table.vanished:
            return True
        if self.host.waiting.is_empty and not self.host.waiting_for:
            return False
        return any(queue.is_ready(free, free_supers) for queue, free, free_supers in self.host.queues())

    def take_woken(self) -> list[int]:
        """Take the domains that got messages since the last call, oldest first."""
        woken = list(self.domain_table.woken)
        self.domain_table.woken.clear()
        return woken

    def take_vanished(self) -> list[int]:
        """Take the zombies that vanished since the last call, oldest first."""
        vanished = list(self.domain_table.vanished)
        self.domain_table.vanished.clear()
        return vanished

    def take_relieved(self) -> list[int]:
        """Take the domains that were refused memory and for which there is some now; see `waiting`."""
        relieved: list[int] = []
        for queue, free, free_supers in self.host.queues():
            if queue.is_ready(free, free_supers):
                relieved += queue.take(free, free_supers, lambda domid: self._domains[domid].lacking_pages)
        return relieved

    @property
    def has_offers(self) -> bool:
        """Whether any domain that `take_relieved` named has not tried to get memory since."""
        return self.host.waiting.has_offers or any(queue.has_offers for queue in self.host.waiting_for.values())

    def withdraw_offers(self) -> None:
        """Take back what was offered to domains that have not tried to get it, so that `take_relieved` names others."""
        for queue in (self.host.waiting, *self.host.waiting_for.values()):
            queue.withdraw_offers()

    # -- queries

    def domain(self, domid: int) -> Domain:
        """Find a domain's or a zombie's tables, only to read them. Raises NoSuchDomain."""
        return self.domain_table.domain(domid)

    def living(self, domid: int) -> Domain:
        """Find the tables of a domain that is no zombie, only to read them. Raises NoSuchDomain."""
        return self.domain_table.living(domid)

    def find(self, name_or_domid: str | int) -> int:
        """Find a domid by name, number, or number as text (`number_of`). Raises NoSuchDomain."""
        return self.domain_table.find(name_or_domid)

    def domains(self) -> list[int]:
        """List the domids, ascending."""
        return sorted(self._domains)

    def living_domains(self) -> list[int]:
        """List the domids of all but the zombies, ascending."""
        return [domain.domid for domain in self.domain_table.ascending() if domain.state is not DomainState.ZOMBIE]

    def domain_info(self, domid: int) -> DomainInfo:
        """Describe one domain. Raises NoSuchDomain."""
        return DomainInfo(**told_of(self.domain(domid)))

    def statistics(self) -> HostStatistics:
        """Describe the host."""
        return statistics(self.host, len(self._domains))

    def node_statistics(self) -> list[NodeStatistics]:
        """Describe the nodes of the host, by number."""
        return node_statistics(self.host)

    def frame_map(self) -> FrameMap:
        """Return the kind, the owner and the use of each superframe."""
        return frame_map(self.host)

    def audit(self) -> list[str]:
        """Recompute everything and name what does not hold; empty when all is well."""
        domains = self.domain_table.ascending()
        # Grants refer to frames: they can be checked only if the frames are in order.
        return audit(self.host, domains) or audit_grants(self.host, domains)
