"""Comparing a machine with its model, down to each frame."""

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.machine.model import NaiveDomain, NaiveHost
from xbd.machine import Machine
from xbd.units import SUPER_PAGES


def nonzero(array: NDArray[Any]) -> dict[int, int]:
    """Index to value, where an array is not 0."""
    where = np.flatnonzero(array)
    return dict(zip(where.tolist(), array[where].tolist(), strict=True))


def assert_same(machine: Machine, model: NaiveHost) -> None:
    """Compare everything that a machine knows with what the model says; then let it audit itself."""
    assert machine.domains() == sorted(model.domains)
    for domid, domain in model.domains.items():
        _assert_same_domain(machine, domid, domain)
    host = machine.host
    assert nonzero(host.owners()) == {frame: domid + 1 for frame, domid in model.owner.items()}
    assert nonzero(host.content) == model.words
    claims = model.claims()
    assert nonzero(host.at_home) == claims
    assert all(claims.values())
    frames = np.arange(model.superframes * SUPER_PAGES, dtype=np.int64)
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
    entries = p2m.lookup(np.arange(domain.gfn_count, dtype=np.int64))
    assert nonzero(entries) == {gfn: frame + 1 for gfn, frame in domain.p2m.items()}
    assert set(np.flatnonzero(p2m.leaf).tolist()) == domain.leaves
    assert nonzero(p2m.home) == {block: home + 1 for block, home in domain.homes.items()}
    for block in range(p2m.leaf.size):
        assert int(p2m.populated[block]) == domain.populated(block)
        if block in domain.leaves or not domain.populated(block):
            assert not p2m.rows[block].any(), "detail where there is none to have"
    runs = machine.boot_info(domid).runs.tolist()
    assert [gfn for first, end in runs for gfn in range(first, end)] == sorted(domain.p2m)
    assert all(first_end < second for (_, first_end), (second, _) in pairwise(runs))
    assert sorted(machine.leaf_frames(domid).tolist()) == sorted(domain.p2m.values())
    info = machine.domain_info(domid)
    assert (info.tot_pages, info.leaves, info.max_pages) == (len(domain.p2m), len(domain.leaves), domain.max_pages)
    coverage = SUPER_PAGES * info.leaves / info.tot_pages if info.tot_pages else 1.0
    assert info.superpage_coverage == coverage
    assert (info.hypercalls, info.extents) == (dict(domain.calls), dict(domain.extents))
    assert {type(info.tot_pages), type(info.leaves), *map(type, info.extents.values())} == {int}
