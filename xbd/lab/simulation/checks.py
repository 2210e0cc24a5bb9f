"""What must hold after every event (safety), and after the faults have stopped (liveness)."""

from collections.abc import Iterator
from typing import Any, Final, Protocol

import msgpack  # type: ignore[import-untyped]  # it has no annotations
import numpy as np
from numpy.typing import NDArray

from xbd.abi import EndGrant, Grant, MapGrant, UnmapGrant
from xbd.guest import Guest
from xbd.guest.mode import ModeKind
from xbd.lab.simulation.context import Context
from xbd.lab.simulation.hostile import HostileGuest
from xbd.lab.simulation.player import Player
from xbd.lab.simulation.watched import WatchedOracle
from xbd.machine.audit import audit
from xbd.machine.audit_grants import audit_grants
from xbd.machine.domain import Domain, DomainState
from xbd.machine.placement import obtainable
from xbd.testing.oracle import Granted, Violation

# The healing must be done by then: Linux's longest back-off is half of that.
_HEAL_S: Final = 60.0
_POLL_S: Final = 1.0
# Healing takes some hundreds of events; this many mean that it will never be done.
_EVENTS_MOST: Final = 30_000

# Linux's driver gives up after 14 s without memory, and only another target wakes it.
_NUDGE_EVERY_POLLS: Final = 8
# States of a domain whose guest will never do anything again.
_ENDED: Final = frozenset({"shutdown", "crashed"})


class Inspected(Context, Protocol):
    """The part of `World` that the checks use.

    Attributes: *events*: how many events were done. *excuses*: by domid, the known reason why a domain is not at its
    target after the healing.
    """

    events: int
    excuses: dict[int, str]

    def players(self) -> list[Player]:
        """List the players that have not ended, by domid."""

    def player(self, domid: int) -> Player | None:
        """Find a domain's player; None: it has none that has not ended."""

    def step(self) -> None:
        """Do the next event."""


def require(wrong: list[str], who: str) -> None:
    """Raise Violation if *wrong* lists anything; *who* was checked."""
    if wrong:
        raise Violation(f"{who}: {wrong[0]}" + (f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""))


def after_event(world: Inspected) -> None:
    """Audit the machine, if the event has changed it."""
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
    """Compare the machine with every oracle, and let every guest recompute its counters."""
    machine, host = world.host.machine, world.host
    if not world.daemon_up:
        return  # the step in which it died is undone only when it starts again
    require(host.audit(), "audit")
    living = machine.living_domains()
    if living != sorted(host.limits):
        raise Violation(f"domains {living} live, {sorted(host.limits)} were created and not destroyed")
    for domid in living:
        domain, limits = machine.domain(domid), host.limits[domid]
        if (domain.target_pages, domain.max_pages) != (limits.target_pages, limits.max_pages):
            raise Violation(
                f"d{domid}: target {domain.target_pages} and limit {domain.max_pages}, the toolstack set {limits}"
            )
        _compare_oracle(world, domain, world.oracle(domid))
    require(list(_listed_otherwise(world)), "list")
    for player in world.players():
        if player.guest is not None:
            require(player.guest.inner.check(), f"d{player.domid}")
            _compare_guest_view(world, player)


def _listed_otherwise(world: Inspected) -> Iterator[str]:
    """Yield what `list` tells of a domain that is otherwise: a change that was not noted."""
    host = world.host
    listed = {told["domid"]: told for told in msgpack.unpackb(host.listing.answer(None))["domains"]}
    for domid in host.machine.domains():
        now = msgpack.unpackb(msgpack.packb(host.told(domid)))
        for key in now.keys() - {"report_age_s"}:
            if domid not in listed or listed[domid][key] != now[key]:
                yield f"d{domid}: {key} has changed, and is not told so"


def _compare_guest_view(world: Inspected, player: Player) -> None:
    """Compare the target, limit and mode that a guest knows with the domain's, when no notice is in transit."""
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
            f"d{player.domid} has target, limit and mode {believed};"
            f" they are {(domain.target_pages, domain.max_pages, record.mode)}"
        )


def _compare_oracle(world: Inspected, domain: Domain, oracle: WatchedOracle) -> None:
    if not oracle.booted:
        return
    gfns: NDArray[Any] = np.arange(oracle.gfn_count, dtype=np.int64)
    entries = domain.p2m.lookup(gfns)
    certain = ~oracle.in_doubt()
    wrong = certain & ((entries > 0) != oracle.populated)
    if wrong.any():
        gfn = int(wrong.argmax())
        held, expected = ("is" if entries[gfn] > 0 else "is not"), ("is" if oracle.populated[gfn] else "is not")
        raise Violation(f"d{domain.domid}: gfn {gfn:#x} {held} populated, by the answers it {expected}")
    if oracle.reboot_pending:
        return
    known = np.flatnonzero(certain & oracle.populated & ~oracle.words_unknown)
    words = world.host.machine.host.content[entries[known] - 1]
    wrong = words != oracle.words[known]
    if wrong.any():
        at = int(wrong.argmax())
        raise Violation(
            f"d{domain.domid}: gfn {int(known[at]):#x} holds {int(words[at]):#x}, {int(oracle.words[known[at]]):#x} was written"
        )
    if not oracle.has_in_doubt(Grant, EndGrant) and (grants := _grants(domain)) != oracle.grants:
        raise Violation(f"d{domain.domid} has the grants {grants}, by the answers {oracle.grants}")
    if not oracle.has_in_doubt(MapGrant, UnmapGrant) and (slots := _slots(domain)) != oracle.slots:
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


# -- after the faults have stopped


def unsettled(world: Inspected) -> Iterator[str]:
    """Describe each domain that has not settled yet."""
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
    """Whether all domains that map a zombie's pages have ended: shut down, or crashed and preserved."""
    machine = world.host.machine
    tables = {other: machine.living(other).mappings for other in machine.living_domains()}
    mappers = [other for other, table in tables.items() if table is not None and table.of(domid).size]
    return all(world.host.record(other).state in _ENDED for other in mappers)


def _not_at_target(world: Inspected, domain: Domain, player: Player) -> str | None:
    """Return why a domain is not at its target; None: it is, or there is a known reason, which is put into *excuses*."""
    guest = player.guest
    assert guest is not None
    if isinstance(guest.inner, HostileGuest):
        return "a hostile guest has not released its mappings" if domain.mapped else None
    report = guest.report()
    if report["target_pages"] != domain.target_pages:
        return f"its guest knows the target {report['target_pages']}"
    if domain.tot_pages == domain.target_pages:
        return None
    reason = excuse(world, domain, player)
    if reason is None:
        return "no reason is known"
    world.excuses[domain.domid] = reason
    return None


def excuse(world: Inspected, domain: Domain, player: Player) -> str | None:
    """Return the known reason why a guest is not at its target; None: there is none."""
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
    free = obtainable(host, domain, domain.sequence, 0)
    return "host out of memory" if free < domain.target_pages - domain.tot_pages and (stuck or free <= 0) else None


def heal(world: Inspected) -> None:
    """Do events until everything has settled. Raises Violation, naming what has not."""
    while not world.daemon_up:
        world.step()
    began_s, began_events = world.schedule.now, world.events
    _make_possible(world)
    polls = 0
    while True:
        world.step()
        late = world.events > began_events + _EVENTS_MOST
        if world.schedule.now < began_s + (polls + 1) * _POLL_S and not late:
            continue
        polls += 1
        world.excuses.clear()
        waiting = list(unsettled(world))
        if not waiting:
            break
        if late or polls * _POLL_S > _HEAL_S:
            raise Violation(f"not settled after {world.schedule.now - began_s:.0f} s: {'; '.join(waiting)}")
        if polls % _NUDGE_EVERY_POLLS == 0:
            _nudge(world)
    compare(world)


def _nudge(world: Inspected) -> None:
    """Change the target of each domain that is not at it by a page: a driver that has given up tries again."""
    host = world.host
    for domid in host.machine.living_domains():
        domain = host.machine.living(domid)
        if domain.tot_pages != domain.target_pages and host.record(domid).state not in _ENDED:
            pages = domain.target_pages + (1 if domain.target_pages & 1 else -1)
            if max(domain.min_pages, 1) <= pages <= domain.max_pages:
                with host.step():
                    host.call("set_target", [{"domid": domid, "pages": pages}])


def _make_possible(world: Inspected) -> None:
    """Make it possible to settle: guests in normal mode, no claims, and targets that fit into the host together."""
    host = world.host
    machine = host.machine
    for node in range(machine.host.nodes.count):
        if pages := machine.node_statistics()[node].offline_frames:
            with host.step():
                host.call("online", [{"node": node, "pages": pages}])
    living = [domid for domid in machine.living_domains() if not host.record(domid).stopped]
    share = machine.host.heap.frame_count // max(len(living), 1)
    for domid in living:
        domain = machine.living(domid)
        target = max(min(share, machine.ceiling(domid)), domain.min_pages, 1)
        with host.step():
            host.call("guest_mode", [{"domid": domid, "mode": "normal"}])
            host.call("claim", [{"domid": domid, "pages": 0}])
            host.call("set_max", [{"domid": domid, "pages": machine.ceiling(domid)}])
            host.call("set_target", [{"domid": domid, "pages": target}])
