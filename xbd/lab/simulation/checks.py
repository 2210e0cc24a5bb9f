"""What must hold, always or in the end."""

from collections.abc import Iterator
from typing import Final, Protocol

import numpy as np

from xbd.guest import Guest
from xbd.guest.mode import ModeKind
from xbd.lab.simulation.context import Context
from xbd.lab.simulation.hostile import HostileGuest
from xbd.lab.simulation.oracle import Granted, Oracle
from xbd.lab.simulation.player import Player
from xbd.lab.simulation.violation import Violation
from xbd.machine.audit import audit
from xbd.machine.audit_grants import audit_grants
from xbd.machine.domain import Domain, DomainState

# What has not come to rest by then never does: Linux's longest back-off is half of that.
_HEAL_S: Final = 60.0
_LOOK_S: Final = 1.0
# Coming to rest takes some hundreds of events; so many are no coming to rest.
_EVENTS_MOST: Final = 30_000


# Linux's driver gives up after 14 s without memory, and only another target wakes it.
_NUDGE_LOOKS: Final = 8
# A domain that its guest will never touch again.
_ENDED: Final = frozenset({"shutdown", "crashed"})


class Inspected(Context, Protocol):
    """A world, as whoever checks it sees it.

    Attributes: *events*: how many there were. *excuses*: by domid, why one is not at its target although all is at rest.
    """

    events: int
    excuses: dict[int, str]

    def players(self) -> list[Player]:
        """List who plays a domain now, by domid."""

    def player(self, domid: int) -> Player | None:
        """Find who plays a domain."""

    def step(self) -> None:
        """Do the next event."""


def require(wrong: list[str], who: str) -> None:
    """Raise Violation if anything is wrong."""
    if wrong:
        raise Violation(f"{who}: {wrong[0]}" + (f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""))


def after_event(world: Inspected) -> None:
    """Audit what the event may have touched: the machine, if it was changed at all."""
    host = world.host
    if host.changed and world.daemon_up:
        host.changed = False
        machine = host.machine
        domains = [machine.domain(domid) for domid in machine.domains()]
        require(audit(machine.host, domains), "audit")
        if host.shared:
            host.shared = False
            require(audit_grants(machine.host, domains), "audit")


def compare(world: Inspected) -> None:
    """Compare the machine with every book, and let every guest recount itself."""
    machine, host = world.host.machine, world.host
    if not world.daemon_up:
        return  # what it was doing when it died is not settled
    require(host.audit(), "audit")
    living = machine.living_domains()
    if living != sorted(host.limits):
        raise Violation(f"domains {living} live, {sorted(host.limits)} were created and not destroyed")
    for domid in living:
        domain, limits = machine.domain(domid), host.limits[domid]
        if (domain.target_pages, domain.max_pages) != (limits.target_pages, limits.max_pages):
            raise Violation(
                f"d{domid}: target {domain.target_pages} and limit {domain.max_pages}, it was told {limits}"
            )
        _compare_book(world, domain, world.oracle(domid))
    for player in world.players():
        if player.guest is not None:
            require(player.guest.inner.check(), f"d{player.domid}")
            _compare_told(world, player)


def _compare_told(world: Inspected, player: Player) -> None:
    """Compare what a guest believes that it should do with what it should, where nothing is on its way to tell it."""
    guest, connection = player.guest, player.connection
    if connection is None or not connection.quiet or guest is None or not isinstance(guest.inner, Guest):
        return
    record, domain = world.host.record(player.domid), world.host.machine.living(player.domid)
    if record.wake != connection.wake or guest.shut_down:
        return
    honest = guest.inner.statistics()
    believed = (honest.target_pages, honest.limit_pages, honest.mode)
    if believed != (domain.target_pages, domain.max_pages, record.mode):
        raise Violation(
            f"d{player.domid} believes in target, limit and mode {believed};"
            f" they are {(domain.target_pages, domain.max_pages, record.mode)}"
        )


def _compare_book(world: Inspected, domain: Domain, oracle: Oracle) -> None:
    if not oracle.booted:
        return
    entries = domain.p2m.lookup(np.arange(oracle.gfn_count, dtype=np.int64))
    certain = ~oracle.in_doubt()
    wrong = certain & ((entries > 0) != oracle.populated)
    if wrong.any():
        gfn = int(wrong.argmax())
        held, said = ("is" if entries[gfn] > 0 else "is not"), ("does" if oracle.populated[gfn] else "does not")
        raise Violation(f"d{domain.domid}: gfn {gfn:#x} {held} populated, by the answers it {said} hold it")
    if oracle.unsure:
        return
    known = np.flatnonzero(certain & oracle.populated & ~oracle.hostile)
    words = world.host.machine.host.content[entries[known] - 1]
    wrong = words != oracle.words[known]
    if wrong.any():
        at = int(wrong.argmax())
        raise Violation(
            f"d{domain.domid}: gfn {int(known[at]):#x} says {int(words[at]):#x}, {int(oracle.words[known[at]]):#x} was left"
        )
    if not oracle.grants_in_doubt and (grants := _grants(domain)) != oracle.grants:
        raise Violation(f"d{domain.domid} has the grants {grants}, by the answers {oracle.grants}")
    if not oracle.slots_in_doubt and (slots := _slots(domain)) != oracle.slots:
        raise Violation(f"d{domain.domid} has the slots {slots}, by the answers {oracle.slots}")


def _grants(domain: Domain) -> dict[int, Granted]:
    table = domain.grants
    if table is None:
        return {}
    return {
        ref: Granted(int(table.gfn[ref]) - 1, int(table.to[ref]), bool(table.readonly[ref]))
        for ref in table.in_use().tolist()
    }


def _slots(domain: Domain) -> dict[int, tuple[int, int]]:
    table = domain.mappings
    if table is None:
        return {}
    return {int(table.gfn[row]) - 1: (int(table.owner[row]), int(table.ref[row])) for row in table.in_use().tolist()}


# -- in the end


def unsettled(world: Inspected) -> Iterator[str]:
    """Name what has not come to rest yet."""
    machine = world.host.machine
    for domid in machine.domains():
        domain = machine.domain(domid)
        if domain.state is DomainState.ZOMBIE:
            if not _only_ended_map(world, domid):
                yield f"d{domid} is a zombie of {domain.tot_pages} pages"
            continue
        record = world.host.record(domid)
        player = world.player(domid)
        if record.state in _ENDED:
            continue
        if player is None or player.guest is None or not record.agent:
            yield f"d{domid} has no agent"
            continue
        reason = _not_at_target(world, domain, player)
        if reason:
            yield f"d{domid} holds {domain.tot_pages} pages, its target is {domain.target_pages}: {reason}"


def _only_ended_map(world: Inspected, domid: int) -> bool:
    """Say whether those who map a zombie's pages will never do anything again: shut down, or preserved as they were."""
    machine = world.host.machine
    tables = {other: machine.living(other).mappings for other in machine.living_domains()}
    mappers = [other for other, table in tables.items() if table is not None and table.of(domid).size]
    return all(world.host.record(other).state in _ENDED for other in mappers)


def _not_at_target(world: Inspected, domain: Domain, player: Player) -> str | None:
    """Say why a domain is not at its target; None: it is, or there is a good reason, which `excuse` names."""
    guest = player.guest
    assert guest is not None
    if isinstance(guest.inner, HostileGuest):
        return "a wild guest has not let go" if domain.mapped else None
    report = guest.report()
    if report["target_pages"] != domain.target_pages:
        return f"its guest was told {report['target_pages']}"
    if domain.tot_pages == domain.target_pages:
        return None
    reason = excuse(world, domain, player)
    if reason is None:
        return "no reason is known"
    world.excuses[domain.domid] = reason
    return None


def excuse(world: Inspected, domain: Domain, player: Player) -> str | None:
    """Name a good reason for a guest not to be at its target."""
    guest = player.guest
    assert guest is not None
    inner = guest.inner
    assert isinstance(inner, Guest)
    honest = inner.statistics()
    if honest.mode != ModeKind.NORMAL:
        return "mode"
    stuck = honest.worker_state in ("again", "cancelled")
    if domain.tot_pages > domain.target_pages:
        if domain.tot_pages <= honest.aim_pages:
            return "floor"
        return "its programs need it" if stuck else None
    if honest.aim_pages <= domain.tot_pages:
        return "slots"
    if domain.tot_pages >= domain.max_pages:
        return "limit"
    host = world.host.machine.host
    free = host.heap.free_frames - host.claimed_pages + domain.claimed_pages
    return "host out of memory" if free < domain.target_pages - domain.tot_pages and (stuck or free <= 0) else None


def heal(world: Inspected) -> None:
    """Go on until everything is at rest. Raises Violation, naming what is not."""
    while not world.daemon_up:
        world.step()
    began_s, began_events = world.schedule.now, world.events
    _make_possible(world)
    looks = 0
    while True:
        world.step()
        late = world.events > began_events + _EVENTS_MOST
        if world.schedule.now < began_s + (looks + 1) * _LOOK_S and not late:
            continue
        looks += 1
        world.excuses.clear()
        waiting = list(unsettled(world))
        if not waiting:
            break
        if late or looks * _LOOK_S > _HEAL_S:
            raise Violation(f"not at rest after {world.schedule.now - began_s:.0f} s: {'; '.join(waiting)}")
        if looks % _NUDGE_LOOKS == 0:
            _nudge(world)
    compare(world)


def _nudge(world: Inspected) -> None:
    """Ask those who are not at their targets for a page more or less."""
    host = world.host
    for domid in host.machine.living_domains():
        domain = host.machine.living(domid)
        if domain.tot_pages != domain.target_pages and host.record(domid).state not in _ENDED:
            pages = domain.target_pages + (1 if domain.target_pages & 1 else -1)
            if max(domain.min_pages, 1) <= pages <= domain.max_pages:
                host.call("set_target", [{"domid": domid, "pages": pages}])
                host.commit()


def _make_possible(world: Inspected) -> None:
    """Ask for what can be: everybody behaves, no claims, and targets that fit into the host together."""
    host = world.host
    machine = host.machine
    living = [domid for domid in machine.living_domains() if not host.record(domid).stopped]
    share = machine.host.heap.frame_count // max(len(living), 1)
    for domid in living:
        domain = machine.living(domid)
        host.call("guest_mode", [{"domid": domid, "mode": "normal"}])
        host.call("claim", [{"domid": domid, "pages": 0}])
        target = max(min(share, machine.ceiling(domid)), domain.min_pages, 1)
        host.call("set_max", [{"domid": domid, "pages": machine.ceiling(domid)}])
        host.call("set_target", [{"domid": domid, "pages": target}])
        host.commit()
