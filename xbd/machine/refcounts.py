"""Reference counts of frames: a frame that other domains map can be neither given up nor exchanged.

A frame's reference count is how often it is mapped; a frame with any is *referenced*, and counts in
its superframe's `pinned` and its owner's `referenced`, so that domains without grants cost only one
comparison. Source: Xen get_page, put_page and the count in page_info.
"""

import numpy as np
from numpy.typing import NDArray

from xbd.arrays import Blocks, Gfns, Mfns, from_cells, repeats, supers_of
from xbd.frames import group_by_super
from xbd.machine.domain import Domain
from xbd.machine.extents import first
from xbd.machine.frame_table import FrameTable


def reference(host: FrameTable, owner: Domain, mfns: Mfns) -> None:
    """Take a reference on each of (n,) frames of *owner*; one that is named twice gets two."""
    before = host.references[mfns]
    fresh = mfns[before == 0]
    if repeats(mfns).size:
        np.add.at(host.references, mfns, np.uint32(1))
        fresh = np.unique(fresh)
    else:
        host.references[mfns] = before + np.uint32(1)
    if fresh.size:
        _count_referenced(host, owner, fresh, 1)


def unreference(host: FrameTable, owner: Domain, mfns: Mfns) -> Mfns:
    """Give a reference on each of (n,) frames back; returns those that have none any more, each once, in no order."""
    if repeats(mfns).size:
        np.subtract.at(host.references, mfns, np.uint32(1))
        mfns = np.unique(mfns)
        left = host.references[mfns]
    else:
        left = host.references[mfns] - np.uint32(1)
        host.references[mfns] = left
    free: Mfns = mfns[left == 0]
    if free.size:
        _count_referenced(host, owner, free, -1)
    return free


def _count_referenced(host: FrameTable, owner: Domain, mfns: Mfns, sign: int) -> None:
    supers, counts = group_by_super(mfns)
    host.pinned[supers] = host.pinned[supers] + sign * counts
    owner.referenced += sign * mfns.size
    host.touched.add(owner.domid)


def first_referenced(host: FrameTable, domain: Domain, gfns: Gfns) -> int:
    """Index of the first of (n,) populated gfns whose frame is referenced, or n."""
    if not domain.referenced:
        return int(gfns.size)
    return first(host.are_referenced(from_cells(domain.p2m.lookup(gfns))))


def referenced_blocks(host: FrameTable, domain: Domain, blocks: Blocks) -> NDArray[np.bool_]:
    """Say for each of (n,) wholly populated blocks whether any frame of it is referenced: (n,) bool."""
    if not domain.referenced:
        return np.zeros(blocks.size, dtype=np.bool_)
    leaves = domain.p2m.leaf[blocks]
    referenced = host.are_pinned(supers_of(np.maximum(from_cells(leaves), 0)))
    shattered = np.flatnonzero(leaves == 0)
    if shattered.size:
        mfns = np.maximum(from_cells(domain.p2m.rows[blocks[shattered]]), 0)
        referenced[shattered] = host.are_referenced(mfns).any(axis=1)
    return referenced
