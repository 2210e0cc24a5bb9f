"""Recompute what grants, mappings, references and inboxes should be, and name what disagrees."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xbd.arrays import Handles, Mfns, from_cells
from xbd.machine.domain import Domain, DomainState, slots_of
from xbd.machine.frame_table import FrameTable
from xbd.units import SUPER_ORDER, SUPER_PAGES


def audit_grants(host: FrameTable, domains: Sequence[Domain]) -> list[str]:
    """Name every violated invariant of grants and messages; empty when all is well.

    Every slot in use is one mapping; every mapping that reaches a frame is by a grant to just that domain, on a frame
    that its owner holds; references, in-use counts and counters are what these add up to; a zombie holds nothing else.
    """
    wrong = [line for domain in domains for line in _check_ranges(host, domain)]
    if wrong:
        # Where numbers lie outside their tables, nothing that follows them makes sense.
        return wrong
    by_domid = {domain.domid: domain for domain in domains}
    references: NDArray[Any] = np.zeros(0, dtype=np.int64)
    mapped: dict[int, list[np.ndarray]] = {}
    for domain in domains:
        wrong += _check_slots(domain)
        wrong += _check_grant_table(domain)
        if domain.inbox is not None:
            wrong += [f"d{domain.domid}: {line}" for line in domain.inbox.check()]
        if domain.mappings is None:
            continue
        table = domain.mappings
        handles = table.in_use()
        live = handles[table.mfn[handles] > 0]
        references = np.concatenate((references, from_cells(table.mfn[live])))
        for domid in np.unique(table.owner[live]).tolist():
            theirs = live[table.owner[live] == domid]
            owner = by_domid.get(domid)
            wrong += _check_mappings(domain, owner, domid, theirs)
            mapped.setdefault(domid, []).append(table.ref[theirs])
    for domain in domains:
        wrong += _check_in_use(domain, mapped.get(domain.domid, []))
        wrong += _check_referenced(host, domain)
    return wrong + _check_references(host, references)


def _check_ranges(host: FrameTable, domain: Domain) -> list[str]:
    """Say which numbers in a domain's tables lie outside what they are to index."""
    ranges: list[tuple[str, NDArray[Any], int, int]] = []
    most_grants, _ = domain.section.layout.columns["grants"]
    if domain.grants is not None:
        ranges.append(("gfn of a grant", domain.grants.gfn, 0, domain.p2m.gfn_count))
    if domain.mappings is not None:
        table = domain.mappings
        ranges += [
            ("slot of a mapping", table.gfn, 0, domain.p2m.gfn_count),
            ("frame of a mapping", table.mfn, 0, host.heap.frame_count),
            ("reference of a mapping", table.ref, 0, most_grants - 1),
        ]
    return [
        f"d{domain.domid}: the {what} lies outside, from {int(numbers.min())} to {int(numbers.max())}"
        for what, numbers, least, most in ranges
        if not least <= int(numbers.min()) <= int(numbers.max()) <= most
    ]


def _check_slots(domain: Domain) -> list[str]:
    """Hold the p2m's slots against the mapping table."""
    p2m, who, table = domain.p2m, f"d{domain.domid}", domain.mappings
    blocks = np.flatnonzero(p2m.slots)
    rows = p2m.rows[blocks] < 0
    wrong = []
    if (rows.sum(axis=1) != p2m.slots[blocks]).any():
        wrong.append(f"{who}: the count of slots of a block is wrong")
    flat = np.flatnonzero(rows)
    gfns = (blocks[flat >> SUPER_ORDER] << SUPER_ORDER) + flat % SUPER_PAGES
    if gfns.size != domain.mapped or (table.count if table else 0) != domain.mapped:
        wrong.append(f"{who}: {domain.mapped} mappings counted, {gfns.size} slots, {table.count if table else 0} rows")
    if table is None:
        return wrong
    wrong += [f"{who}: mapping table: {line}" for line in table.free.check()]
    handles = table.in_use()
    if handles.size != table.count or table.free.is_free(handles).any():
        wrong.append(f"{who}: {handles.size} handles have a slot, {table.count} are in use")
    if (p2m.entry[from_cells(table.gfn[handles])] != slots_of(handles)).any():
        wrong.append(f"{who}: a mapping's slot does not point back to it")
    return wrong


def _check_grant_table(domain: Domain) -> list[str]:
    table, who = domain.grants, f"d{domain.domid}"
    if table is None:
        return []
    refs = table.in_use()
    wrong = [f"{who}: grant table: {line}" for line in table.free.check()]
    if refs.size != table.count or table.free.is_free(refs).any():
        wrong.append(f"{who}: {refs.size} grants name a page, {table.count} are in use")
    return wrong


def _check_mappings(domain: Domain, owner: Domain | None, domid: int, handles: Handles) -> list[str]:
    """Hold the mappings that reach one owner's frames against its grants and its p2m."""
    who, table = f"d{domain.domid}", domain.mappings
    if owner is None or owner.grants is None or table is None:
        return [f"{who}: maps {handles.size} pages of d{domid}, which is not there or grants nothing"]
    grants, refs = owner.grants, table.ref[handles]
    wrong = []
    if (grants.gfn[refs] == 0).any():
        return [f"{who}: maps by a grant of d{domid} that is not there"]
    if (grants.to[refs] != domain.domid).any() or (grants.birth[refs] != domain.birth).any():
        wrong.append(f"{who}: maps by a grant of d{domid} to somebody else")
    if (grants.readonly[refs] & ~table.readonly[handles]).any():
        wrong.append(f"{who}: maps to write what d{domid} granted to read")
    if (owner.p2m.lookup(from_cells(grants.gfn[refs])) != table.mfn[handles]).any():
        wrong.append(f"{who}: maps a frame that d{domid} does not hold where it was granted")
    return wrong


def _check_in_use(domain: Domain, refs: list[np.ndarray]) -> list[str]:
    if domain.grants is None:
        return []
    in_use = np.bincount(np.concatenate([np.zeros(0, dtype=np.int64), *refs]), minlength=domain.grants.gfn.size)
    if (in_use != domain.grants.mapped).any():
        bad = int((in_use != domain.grants.mapped).argmax())
        counted = int(domain.grants.mapped[bad])
        return [f"d{domain.domid}: grant {bad} counts {counted} mappings, there are {int(in_use[bad])}"]
    return []


def _check_referenced(host: FrameTable, domain: Domain) -> list[str]:
    """Recount a domain's referenced frames, and hold a zombie to having no others."""
    leaves = domain.p2m.leaf_supers()
    referenced = int(host.pinned[leaves].sum(dtype=np.int64))
    referenced += int(np.count_nonzero(host.references[domain.p2m.frames()]))
    wrong = []
    if referenced != domain.referenced:
        wrong.append(f"d{domain.domid}: {domain.referenced} referenced frames counted, {referenced} are")
    if domain.state is DomainState.ZOMBIE and referenced != domain.tot_pages:
        wrong.append(f"d{domain.domid}: a zombie holds {domain.tot_pages} pages, {referenced} of them mapped")
    return wrong


def _check_references(host: FrameTable, mfns: Mfns) -> list[str]:
    """Recount the references of every frame; detail is looked at only where there is, or should be, any."""
    wrong = []
    frames, counts = np.unique(mfns, return_counts=True)
    if (host.references[frames] != counts).any():
        wrong.append("a frame's references are not the number of its mappings")
    pinned = np.bincount(frames >> SUPER_ORDER, minlength=host.pinned.size)
    if (pinned != host.pinned).any():
        bad = int((pinned != host.pinned).argmax())
        wrong.append(f"superframe {bad:#x}: {int(host.pinned[bad])} referenced frames counted, {int(pinned[bad])} are")
    total = int(host.references.reshape(-1, SUPER_PAGES)[host.pinned > 0].sum(dtype=np.int64))
    if total != mfns.size:
        wrong.append(f"{total} references on frames, {mfns.size} mappings")
    return wrong
