"""Grants: what one domain lets another map, and the mappings themselves.

The owner of pages grants them to one other domain and names them to it by their references; that
domain maps them at gfns of its own that nothing backs, its *slots*, and reaches the owner's frames
there by load and store. A mapping holds a reference on its frame (`references`), so that the frame
can be neither given up nor exchanged while it lasts; the slot's gfn is the mapping's handle.

A grant names a gfn, and the frame is looked up when it is mapped: what is granted but not mapped may
be ballooned, and then it is a bad reference.
Source: Xen common/grant_table.c, map_grant_ref and unmap_common; Linux drivers/xen/grant-table.c.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xbd.abi import (
    TURN_EXTENTS,
    EndGrant,
    Frames,
    Grant,
    GrantResult,
    MapGrant,
    MemopResult,
    Stop,
    UnmapGrant,
)
from xbd.arrays import Gfns, Handles, Mfns, Refs, from_cells, to_cells
from xbd.errors import BadArgument, NoSuchDomain
from xbd.frames import group_by_super
from xbd.machine import mapping
from xbd.machine.domain import Domain, DomainState, Entries, handles_in, slots_of
from xbd.machine.domains import DomainTable
from xbd.machine.extents import answer, check_extents, check_repeats, check_size, first, first_unpopulated
from xbd.machine.frame_table import FrameTable
from xbd.machine.grant_tables import GrantTable
from xbd.machine.refcounts import reference, unreference


def grant(domain_table: DomainTable, host: FrameTable, domain: Domain, command: Grant) -> GrantResult:
    """Enter own pages into the grant table for one other domain; answers their references.

    Stops with ENOENT (not populated by an own frame), ENOSPC (the table is full), BUDGET.
    """
    del host
    gfns, _ = check_extents(command.gfns, 0, domain)
    to = domain_table.partner(domain, command.to)
    if domain.grants is None:
        domain.grants = domain_table.parts.grants(domain_table.image, domain.section)
    table = domain.grants
    gfns = gfns[:TURN_EXTENTS]
    done, stop = first_unpopulated(domain.p2m.lookup(gfns)), Stop.ENOENT
    if table.free.free_frames < done:
        done, stop = table.free.free_frames, Stop.ENOSPC
    elif done == gfns.size:
        stop = Stop.BUDGET
    refs = table.take(done)
    table.gfn[refs] = to_cells(gfns[:done])
    table.to[refs] = to.domid
    table.birth[refs] = to.birth
    table.readonly[refs] = command.readonly
    return GrantResult(done, None if done == command.gfns.size else stop, refs)


def end_grant(domain_table: DomainTable, host: FrameTable, domain: Domain, command: EndGrant) -> MemopResult:
    """Take grants back. Stops with ENOENT (no such grant), EBUSY (it is mapped), BUDGET."""
    del domain_table, host
    check_size(command.refs)
    check_repeats(command.refs, "reference ")
    refs = command.refs[:TURN_EXTENTS]
    table = domain.grants
    if table is None:
        return answer(0, command.refs.size, Stop.ENOENT)
    known, rows = _known(table, refs)
    mapped = table.mapped[rows] > 0
    done = first(~known | mapped)
    stop = Stop.BUDGET if done == refs.size else Stop.EBUSY if known[done] else Stop.ENOENT
    if done:
        table.give(rows[:done])
    return answer(done, command.refs.size, stop)


def _known(table: GrantTable, untrusted_refs: Frames) -> tuple[np.ndarray, Refs]:
    """Say which references are grants, and return a row that can be read for each."""
    refs: NDArray[Any] = untrusted_refs
    inside = (refs >= 0) & (refs < table.gfn.size)
    rows: Refs = refs if np.count_nonzero(inside) == refs.size else np.where(inside, refs, 0)
    return inside & (table.gfn[rows] > 0), rows


def map_grant(domain_table: DomainTable, host: FrameTable, domain: Domain, command: MapGrant) -> MemopResult:
    """Map another domain's granted frames at unpopulated gfns, pair by pair.

    Stops with ENOENT (bad reference: no such grant, or nothing backs its gfn any more), EACCES (granted to somebody
    else, or to be read only), ENOSPC (too many mappings), EEXIST (the gfn is populated or a slot in use), BUDGET.

    Raises:
        NoSuchDomain: there is no such owner, or it has granted the caller nothing; both look the same.
    """
    gfns, _ = check_extents(command.gfns, 0, domain)
    if command.refs.size != command.gfns.size:
        raise BadArgument(f"{command.refs.size} references for {command.gfns.size} gfns", "pairs")
    owner = domain_table.domains.get(command.owner)
    if owner is None or owner is domain or owner.state is DomainState.ZOMBIE or owner.grants is None:
        raise _no_owner(command.owner)
    if domain.mappings is None:
        domain.mappings = domain_table.parts.mappings(domain_table.image, domain.section)
    gfns = gfns[:TURN_EXTENTS]
    valid, stop, refs, entries = valid_references(
        owner, owner.grants, domain, command.refs[:TURN_EXTENTS], readonly=command.readonly
    )
    if not valid and not _granted_anything(owner.grants, domain):
        raise _no_owner(command.owner)
    for most, reason in (
        (domain.mappings.free.free_frames, Stop.ENOSPC),
        (domain.p2m.first_taken(gfns), Stop.EEXIST),
    ):
        if most < valid:
            valid, stop = most, reason
    if valid:
        mfns = from_cells(entries[:valid])
        _enter(domain, owner, refs[:valid], gfns[:valid], mfns, readonly=command.readonly)
        reference(host, owner, mfns)
    return answer(valid, command.refs.size, stop)


def _no_owner(domid: int) -> NoSuchDomain:
    return NoSuchDomain(f"d{domid} has granted nothing to this domain", "a domain that has")


def _granted_anything(table: GrantTable, domain: Domain) -> bool:
    return bool(table.are_for(table.in_use(), domain.domid, domain.birth).any())


def valid_references(
    owner: Domain, table: GrantTable, domain: Domain, untrusted_refs: Frames, *, readonly: bool
) -> tuple[int, Stop, Refs, Entries]:
    """Count the references before the first that *domain* may not map; all of them, and the owner's p2m entries, where known."""
    known, rows = _known(table, untrusted_refs)
    entries = owner.p2m.lookup(np.maximum(from_cells(table.gfn[rows]), 0))
    good = known & (entries > 0)
    allowed = table.are_for(rows, domain.domid, domain.birth)
    if not readonly:
        allowed &= ~table.readonly[rows]
    valid = first(~(good & allowed))
    if valid == rows.size:
        return valid, Stop.BUDGET, rows, entries
    return valid, Stop.EACCES if good[valid] else Stop.ENOENT, rows, entries


def _enter(domain: Domain, owner: Domain, refs: Refs, gfns: Gfns, mfns: Mfns, *, readonly: bool) -> None:
    """Enter mappings into the tables of both sides."""
    table, grants = domain.mappings, owner.grants
    assert table is not None, f"d{domain.domid} maps without a table"
    assert grants is not None, f"d{owner.domid} is mapped without a table"
    handles = table.take(gfns.size)
    table.gfn[handles] = to_cells(gfns)
    table.mfn[handles] = to_cells(mfns)
    table.owner[handles] = owner.domid
    table.ref[handles] = refs
    table.readonly[handles] = readonly
    domain.p2m.entries.note(gfns)
    domain.p2m.entry[gfns] = slots_of(handles)
    blocks, counts = group_by_super(gfns)
    domain.p2m.slots[blocks] = domain.p2m.slots[blocks] + counts
    domain.mapped += gfns.size
    np.add.at(grants.mapped, refs, np.uint32(1))


def unmap_grant(domain_table: DomainTable, host: FrameTable, domain: Domain, command: UnmapGrant) -> MemopResult:
    """End the mappings at own slots; a zombie that nobody maps any more vanishes. Stops with EBADF (no mapping), BUDGET."""
    gfns, _ = check_extents(command.gfns, 0, domain)
    gfns = gfns[:TURN_EXTENTS]
    entries = domain.p2m.lookup(gfns)
    done = first(entries >= 0)
    if done:
        unmap(domain_table, host, domain, handles_in(entries[:done]))
    return answer(done, command.gfns.size, Stop.BUDGET if done == gfns.size else Stop.EBADF)


def unmap(domain_table: DomainTable, host: FrameTable, domain: Domain, handles: Handles) -> None:
    """End (n,) mappings of a domain, also those whose owner is a zombie or has rebooted."""
    table = domain.mappings
    assert table is not None, "a mapping without its table"
    gfns = from_cells(table.gfn[handles])
    blocks, counts = group_by_super(gfns)
    domain.p2m.entries.note(gfns)
    domain.p2m.entry[gfns] = 0
    domain.p2m.slots[blocks] = domain.p2m.slots[blocks] - counts
    domain.mapped -= gfns.size
    live = handles[table.mfn[handles] > 0]
    owners, mfns = table.owner[live], from_cells(table.mfn[live])
    refs: NDArray[Any] = table.ref[live].astype(np.int64)
    table.give(handles)
    for owner in sorted(set(owners.tolist())):
        theirs = owners == owner
        _release(domain_table, host, domain_table.domains[owner], refs[theirs], mfns[theirs])


def _release(domain_table: DomainTable, host: FrameTable, owner: Domain, refs: Refs, mfns: Mfns) -> None:
    """Give references back that were taken by grants *refs* of *owner* on its frames *mfns*."""
    assert owner.grants is not None, f"d{owner.domid} was mapped without a grant table"
    np.subtract.at(owner.grants.mapped, refs, np.uint32(1))
    free = unreference(host, owner, mfns)
    if owner.state is DomainState.ZOMBIE and free.size:
        granted = np.unique(from_cells(owner.grants.gfn[refs]))
        is_free = np.isin(from_cells(owner.p2m.lookup(granted)), free)
        free_zombie_pages(domain_table, host, owner, granted[is_free])


def free_zombie_pages(domain_table: DomainTable, host: FrameTable, zombie: Domain, gfns: Gfns) -> None:
    """Free pages of a zombie that nobody maps any more, in shattered blocks; the zombie vanishes with its last page."""
    groups = group_by_super(gfns)
    host.give(*mapping.unmap_frames(host, zombie, gfns, groups))
    mapping.settle(host, zombie, groups[0])
    if not zombie.tot_pages:
        domain_table.remove(zombie)


# -- the end of a domain, and its reboot


def release_mappings(domain_table: DomainTable, host: FrameTable, domain: Domain) -> None:
    """End all that a domain maps."""
    if domain.mappings is not None and domain.mapped:
        unmap(domain_table, host, domain, domain.mappings.in_use())


def mappers_of(domain: Domain) -> set[int]:
    """Name the domains that map anything of *domain*."""
    if not domain.referenced or domain.grants is None:
        return set()
    return set(np.unique(domain.grants.to[domain.grants.mapped > 0]).tolist())


def cut_off(domain_table: DomainTable, host: FrameTable, domain: Domain) -> None:
    """End all grants of a rebooting domain; others keep the slots that they mapped it at, but these reach nothing.

    Xen makes a new domain for each boot. Here the domain goes on, so others must not reach its pages by grants that it
    made before the reboot.
    """
    for domid in sorted(mappers_of(domain)):
        table = domain_table.domains[domid].mappings
        assert table is not None, f"d{domid} maps pages without a table"
        unreference(host, domain, table.cut_off(domain.domid))
    if domain.grants is not None:
        domain.grants.give(domain.grants.in_use())
