"""Comparing a machine with its model, down to each frame."""

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.machine.model import NaiveDomain, NaiveHost
from xbd import abi
from xbd.frames import expand_supers
from xbd.machine import Machine
from xbd.machine.domain import Domain
from xbd.units import SUPER_PAGES


def frames_of(machine: Machine, domid: int) -> list[int]:
    """List every mfn of a domain, leaves spelt out, ascending."""
    p2m = machine.domain(domid).p2m
    return sorted([*p2m.frames().tolist(), *expand_supers(p2m.leaf_supers()).tolist()])


def nonzero(array: NDArray[Any]) -> dict[int, int]:
    """Index to value, where an array is not 0."""
    where = np.flatnonzero(array)
    return dict(zip(where.tolist(), array[where].tolist(), strict=True))


def assert_same(machine: Machine, model: NaiveHost) -> None:
    """Compare everything that a machine knows with what the model says; then let it audit itself."""
    assert machine.domains() == sorted(model.domains)
    for domid, domain in model.domains.items():
        _assert_same_domain(machine, domid, domain)
    _assert_same_grants(machine, model)
    host = machine.host
    assert nonzero(host.owners()) == {frame: domid + 1 for frame, domid in model.owner.items()}
    assert nonzero(host.content) == model.words
    claims = model.claims()
    assert nonzero(host.at_home) == claims
    assert all(claims.values())
    frames: NDArray[Any] = np.arange(model.superframes * SUPER_PAGES, dtype=np.int64)
    assert set(np.flatnonzero(~host.heap.is_free(frames)).tolist()) == model.owner.keys()
    statistics = machine.statistics()
    whole = len(model.whole())
    assert statistics.free_frames == model.free_frames()
    assert statistics.free_superframes == whole
    share = whole * SUPER_PAGES / model.free_frames() if model.free_frames() else 1.0
    assert statistics.free_in_whole_superframes == share
    leaves = {d.p2m[block * SUPER_PAGES] // SUPER_PAGES for d in model.domains.values() for block in d.leaves}
    assert set(np.flatnonzero(host.whole_owner).tolist()) == leaves
    assert not host.owner_rows[sorted(leaves)].any(), "detail below a leaf"
    assert machine.audit() == []


def _assert_same_domain(machine: Machine, domid: int, domain: NaiveDomain) -> None:
    p2m = machine.domain(domid).p2m
    gfns: NDArray[Any] = np.arange(domain.gfn_count, dtype=np.int64)
    entries = p2m.lookup(gfns)
    assert nonzero(np.maximum(entries, 0)) == {gfn: frame + 1 for gfn, frame in domain.p2m.items()}
    assert set(np.flatnonzero(p2m.leaf).tolist()) == domain.leaves
    assert nonzero(p2m.home) == {block: home + 1 for block, home in domain.homes.items()}
    for block in range(p2m.leaf.size):
        assert int(p2m.populated[block]) == domain.populated(block)
        if block in domain.leaves or not domain.populated(block):
            assert not (p2m.rows[block] > 0).any(), "detail where there is none to have"
    assert frames_of(machine, domid) == sorted(domain.p2m.values())
    if not domain.zombie:
        runs = machine.boot_info(domid).runs.tolist()
        assert [gfn for first, end in runs for gfn in range(first, end)] == sorted(domain.p2m)
        assert all(first_end < second for (_, first_end), (second, _) in pairwise(runs))
    info = machine.domain_info(domid)
    assert (info.tot_pages, info.leaves, info.max_pages) == (len(domain.p2m), len(domain.leaves), domain.max_pages)
    assert (info.state, info.type) == ("zombie" if domain.zombie else "running", domain.domain_type)
    coverage = SUPER_PAGES * info.leaves / info.tot_pages if info.tot_pages else 1.0
    assert info.superpage_coverage == coverage
    assert (info.hypercalls, info.extents) == (dict(domain.calls), dict(+domain.extents))
    assert {type(info.tot_pages), type(info.leaves), *map(type, info.extents.values())} == {int}


def _assert_same_grants(machine: Machine, model: NaiveHost) -> None:
    """Compare who grants what to whom, who maps what, and the references that this makes."""
    references = model.references()
    assert nonzero(machine.host.references) == references
    for domid, domain in model.domains.items():
        real, info = machine.domain(domid), machine.domain_info(domid)
        assert info.mapped_grants == len(domain.slots)
        assert info.referenced_pages == len(references.keys() & domain.p2m.values())
        if not domain.zombie:
            assert info.grants == len(domain.grants)
            assert _grants(real) == {ref: (grant.gfn, grant.readonly) for ref, grant in domain.grants.items()}
        assert _slots(real) == {
            gfn: (slot.owner, slot.ref, slot.frame, slot.readonly) for gfn, slot in domain.slots.items()
        }
        _assert_words_through_slots(machine, model, domid)


def _grants(domain: Domain) -> dict[int, tuple[int, bool]]:
    """List a grant table: reference to (gfn, read-only)."""
    table = domain.grants
    if table is None:
        return {}
    return {ref: (int(table.gfn[ref]) - 1, bool(table.readonly[ref])) for ref in np.flatnonzero(table.gfn).tolist()}


def _slots(domain: Domain) -> dict[int, tuple[int, int, int | None, bool]]:
    """List the slots in use by following each from the p2m: gfn to (owner, reference, frame, read-only)."""
    slots: dict[int, tuple[int, int, int | None, bool]] = {}
    for gfn in np.flatnonzero(domain.p2m.entry < 0).tolist():
        table, handle = domain.mappings, -int(domain.p2m.entry[gfn]) - 1
        assert table is not None
        mfn = int(table.mfn[handle])
        slots[gfn] = (
            int(table.owner[handle]),
            int(table.ref[handle]),
            mfn - 1 if mfn else None,
            bool(table.readonly[handle]),
        )
    return slots


def _assert_words_through_slots(machine: Machine, model: NaiveHost, domid: int) -> None:
    """Read through every slot: a mapping reaches its frame's word, one that was cut off nothing."""
    slots = model.domains[domid].slots
    live = {gfn: slot.frame for gfn, slot in slots.items() if slot.frame is not None}
    if live:
        read = machine.execute(domid, abi.Load(np.array(list(live), dtype=np.int64)))
        assert isinstance(read, abi.LoadResult)
        assert read.words.tolist() == [model.words.get(frame, 0) for frame in live.values()]
    for gfn in list(slots.keys() - live)[:3]:
        read = machine.execute(domid, abi.Load(np.array([gfn], dtype=np.int64)))
        assert isinstance(read, abi.LoadResult)
        assert (read.done, read.stop) == (0, abi.Stop.EFAULT)
