"""The model's grants and mappings, and what the end of a domain, or of one life of it, does to them."""

from tests.machine.model import NaiveDomain, NaiveGrant, NaiveHost, NaiveMapping
from xbd import abi
from xbd.abi import MAX_GRANTS, MAX_MAPPINGS, TURN_EXTENTS, DomainType, MemopResult, Stop


def partner_refusal(host: NaiveHost, domid: int, other: int) -> str | None:
    """Say why a domain can grant nothing to another, nor send it anything; None: it can."""
    if other == domid:
        return "EINVAL"
    partner = host.domains.get(other)
    return "ESRCH" if partner is None or partner.zombie or partner.domain_type is DomainType.VIRTIO else None


def owner_refusal(host: NaiveHost, domid: int, owner: int) -> str | None:
    """Say why a domain can map nothing of another; None: it can."""
    domain, granter = host.domains[domid], host.domains.get(owner)
    if granter is None or granter is domain or granter.zombie:
        return "ESRCH"
    return None if any(grant.to is domain for grant in granter.grants.values()) else "ESRCH"


def mappings_of(host: NaiveHost, owner: int, ref: int) -> int:
    """Count how often a grant is mapped."""
    return sum(
        (slot.owner, slot.ref) == (owner, ref) and slot.frame is not None
        for domain in host.domains.values()
        for slot in domain.slots.values()
    )


def grant(host: NaiveHost, domid: int, command: abi.Grant, real: abi.Result) -> MemopResult:
    """Enter grants; which references they have, the machine chose: any free ones."""
    assert isinstance(real, abi.GrantResult)
    domain = host.domains[domid]
    refs = real.refs.tolist()
    for done, gfn in enumerate(command.gfns.tolist()):
        if done == TURN_EXTENTS:
            return MemopResult(done, Stop.BUDGET)
        if gfn not in domain.p2m:
            return MemopResult(done, Stop.ENOENT)
        if len(domain.grants) == MAX_GRANTS:
            return MemopResult(done, Stop.ENOSPC)
        assert 0 <= refs[done] < MAX_GRANTS
        assert refs[done] not in domain.grants, "a reference that is in use was given again"
        domain.grants[refs[done]] = NaiveGrant(gfn, host.domains[command.to], command.readonly)
    assert len(refs) == command.gfns.size
    return MemopResult(len(refs))


def end_grant(host: NaiveHost, domid: int, refs: list[int]) -> MemopResult:
    """End grants that nobody has mapped."""
    domain = host.domains[domid]
    for done, ref in enumerate(refs):
        if done == TURN_EXTENTS:
            return MemopResult(done, Stop.BUDGET)
        if ref not in domain.grants:
            return MemopResult(done, Stop.ENOENT)
        if mappings_of(host, domid, ref):
            return MemopResult(done, Stop.EBUSY)
        del domain.grants[ref]
    return MemopResult(len(refs))


def map_grant(host: NaiveHost, domid: int, command: abi.MapGrant) -> MemopResult:
    """Map grants at slots, pair by pair."""
    domain, owner = host.domains[domid], host.domains[command.owner]
    pairs = list(zip(command.refs.tolist(), command.gfns.tolist(), strict=True))
    for done, (ref, gfn) in enumerate(pairs):
        stop = Stop.BUDGET if done == TURN_EXTENTS else _bad_mapping(domain, owner, ref, gfn, command.readonly)
        if stop:
            return MemopResult(done, stop)
        frame = owner.p2m[owner.grants[ref].gfn]
        domain.slots[gfn] = NaiveMapping(command.owner, ref, frame, command.readonly)
    return MemopResult(len(pairs))


def _bad_mapping(domain: NaiveDomain, owner: NaiveDomain, ref: int, gfn: int, readonly: bool) -> Stop | None:  # noqa: FBT001 - a row of a table
    entry = owner.grants.get(ref)
    if entry is None or entry.gfn not in owner.p2m:
        return Stop.ENOENT
    if entry.to is not domain or (entry.readonly and not readonly):
        return Stop.EACCES
    if len(domain.slots) == MAX_MAPPINGS:
        return Stop.ENOSPC
    return Stop.EEXIST if domain.taken(gfn, 0) else None


def unmap_grant(host: NaiveHost, domid: int, gfns: list[int]) -> MemopResult:
    """End mappings."""
    for done, gfn in enumerate(gfns):
        if done == TURN_EXTENTS:
            return MemopResult(done, Stop.BUDGET)
        if gfn not in host.domains[domid].slots:
            return MemopResult(done, Stop.EBADF)
        _release(host, domid, gfn)
    return MemopResult(len(gfns))


def _release(host: NaiveHost, domid: int, gfn: int) -> None:
    """End one mapping; a page of a zombie that it was the last of goes, and the zombie with its last page."""
    slot = host.domains[domid].slots.pop(gfn)
    if slot.frame is None:
        return
    owner = host.domains[slot.owner]
    if owner.zombie and slot.frame not in host.references():
        host.unmap(slot.owner, owner.grants[slot.ref].gfn)
        host.settle(slot.owner, [])
        if not owner.p2m:
            del host.domains[slot.owner]
            host.vanished.append(slot.owner)


def destroy(host: NaiveHost, domid: int) -> int:
    """Free all that a domain has but what others map; returns how much that is."""
    domain = host.domains[domid]
    for gfn in list(domain.slots):
        _release(host, domid, gfn)
    references = host.references()
    for gfn, frame in list(domain.p2m.items()):
        if frame not in references:
            host.unmap(domid, gfn)
    host.settle(domid, [])
    domain.zombie = bool(domain.p2m)
    if not domain.zombie:
        del host.domains[domid]
    return len(domain.p2m)


def reboot(host: NaiveHost, domid: int) -> None:
    """End a domain's mappings and grants, cut off those of others, zero its memory."""
    domain = host.domains[domid]
    for gfn in list(domain.slots):
        _release(host, domid, gfn)
    for other in host.domains.values():
        for slot in other.slots.values():
            if slot.owner == domid:
                slot.frame = None
    domain.grants.clear()
    for frame in domain.p2m.values():
        host.words.pop(frame, None)
