"""Changing a p2m: map, unmap, shatter, coalesce, and the home of each block.

These are the only writers of p2m entries, owners and at-home counts. Each works on a whole batch
that has been validated and for which the frames are at hand; nothing here can fail.

Home. A block's home is the superframe that its entries belong in: set when a leaf is mapped there
(and it survives shattering), or when the first frame of an empty block happens to lie at its own
offset in a superframe that nobody claims; cleared when no entry is at home any more. A superframe
is claimed by at most one block, exactly while its at-home count is above 0. Where all 512 entries
are at home the block becomes one leaf again, whichever operation completed it (xbd's own: Xen
never puts a leaf together except by an order-9 populate).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xbd.arrays import (
    Block,
    BlockKind,
    Blocks,
    Gfns,
    Mfns,
    Superframe,
    SuperKind,
    Supers,
    blocks_of,
    from_cells,
    supers_of,
    to_cells,
)
from xbd.frames import Groups, group_by_super
from xbd.machine.domain import Domain, P2m
from xbd.machine.frame_table import FrameTable
from xbd.units import OFFSET_MASK, SUPER_ORDER, SUPER_PAGES


def map_frames(
    host: FrameTable,
    domain: Domain,
    gfns: Gfns,
    groups: Groups[BlockKind],
    mfns: Mfns,
    *,
    drained: Blocks | None = None,
) -> None:
    """Back (n,) unpopulated gfns, grouped by block, with frames taken from the heap.

    Counts, owners and homes follow; `settle` is due afterwards. *drained*: blocks unmapped in the same step; a home of
    theirs with no entry left may be claimed by others.
    """
    p2m = domain.p2m
    blocks, counts = groups
    before = p2m.populated[blocks]
    p2m.entries.note(gfns)
    p2m.entry[gfns] = to_cells(mfns)
    p2m.populated[blocks] = before + counts
    host.frame_owner[mfns] = domain.domid + 1
    domain.tot_pages += gfns.size
    if domain.by_node is not None:
        domain.by_node.come(mfns)
    _count_at_home(host, p2m, gfns, groups, mfns, sign=1)
    if np.count_nonzero(before) < before.size:
        if drained is not None:
            _clear_homes(host, p2m, drained)
        adopters = blocks[(before == 0) & (p2m.home[blocks] == 0)]
        if adopters.size:
            adopt_homes(host, p2m, adopters, gfns, mfns)


def _count_at_home(
    host: FrameTable, p2m: P2m, gfns: Gfns, groups: Groups[BlockKind], mfns: Mfns, *, sign: int
) -> Groups[SuperKind] | None:
    """Count those of *mfns* that are the home frames of their *gfns*, as coming (+1) or going (-1).

    Returns *mfns* grouped by superframe where that follows from the homes: all are at home.
    """
    blocks, counts = groups
    homes = p2m.home[blocks]
    if not np.count_nonzero(homes):
        return None
    at_home = p2m.home_frames(gfns) == mfns
    matching = np.count_nonzero(at_home)
    if matching == gfns.size:
        in_homes = from_cells(homes), counts
        host.add_at_home(in_homes, sign)
        return in_homes
    if matching:
        host.add_at_home(group_by_super(mfns[at_home]), sign)
    return None


def adopt_homes(host: FrameTable, p2m: P2m, blocks: Blocks, gfns: Gfns, mfns: Mfns) -> None:
    """Give blocks that were empty a home, where their first frame lies at its own offset in an unclaimed superframe."""
    owners = gfns >> SUPER_ORDER
    order = np.argsort(owners, kind="stable")
    starts = np.searchsorted(owners, blocks, sorter=order)
    ends = np.searchsorted(owners, blocks, side="right", sorter=order)
    firsts = order[starts]
    fitting = ((gfns[firsts] ^ mfns[firsts]) & OFFSET_MASK) == 0
    for first, start, end in sorted(zip(*(part[fitting].tolist() for part in (firsts, starts, ends)), strict=True)):
        superframe = Superframe(int(mfns[first]) >> SUPER_ORDER)
        if host.is_unclaimed(superframe):
            p2m.blocks.note_row(int(owners[first]))
            p2m.home[owners[first : first + 1]] = to_cells(supers_of(mfns[first : first + 1]))
            mine = order[start:end]
            at_home = mfns[mine] == (superframe << SUPER_ORDER) + (gfns[mine] & OFFSET_MASK)
            host.add_at_home(group_by_super(mfns[mine[at_home]]), 1)


def _clear_homes(host: FrameTable, p2m: P2m, blocks: Blocks) -> None:
    homes = p2m.home[blocks]
    cleared = blocks[(homes > 0) & (host.at_home[from_cells(homes)] == 0)]
    if cleared.size:
        p2m.blocks.note(cleared)
        p2m.home[cleared] = 0


def unmap_frames(
    host: FrameTable, domain: Domain, gfns: Gfns, groups: Groups[BlockKind]
) -> tuple[Mfns, Groups[SuperKind] | None]:
    """Take the backing of (n,) populated gfns, grouped by block, away.

    Leaves among the blocks are shattered first. `settle` is due afterwards.

    Returns:
        Their frames, still owned; and these grouped by superframe, where that is known without a look at them.
    """
    p2m = domain.p2m
    blocks, counts = groups
    leaves = p2m.leaf[blocks]
    in_leaves = np.count_nonzero(leaves)
    if in_leaves:
        shatter(host, domain, blocks[leaves > 0])
    mfns = from_cells(p2m.entry[gfns])
    p2m.entries.note(gfns)
    p2m.entry[gfns] = 0
    p2m.populated[blocks] = p2m.populated[blocks] - counts
    domain.tot_pages -= gfns.size
    if domain.by_node is not None:
        domain.by_node.go(mfns)
    if in_leaves == blocks.size:
        # Whatever lies in a leaf is at home.
        in_homes = from_cells(p2m.home[blocks]), counts
        host.add_at_home(in_homes, -1)
        return mfns, in_homes
    return mfns, _count_at_home(host, p2m, gfns, groups, mfns, sign=-1)


def shatter(host: FrameTable, domain: Domain, blocks: Blocks) -> None:
    """Spell leaves out as 512 entries each; their homes stay."""
    p2m = domain.p2m
    first = p2m.leaf[blocks]
    p2m.entry_rows.note(blocks)
    p2m.blocks.note(blocks)
    p2m.rows[blocks] = first[:, None] + np.arange(SUPER_PAGES, dtype=np.int64)
    p2m.leaf[blocks] = 0
    domain.leaves -= blocks.size
    host.shatter(supers_of(from_cells(first)), domain.domid)


def settle(host: FrameTable, domain: Domain, blocks: Blocks) -> None:
    """Clear the homes of *blocks* (each named once) with no entry at home; make leaves of those wholly at home."""
    p2m = domain.p2m
    homes = p2m.home[blocks]
    at_home = host.at_home[from_cells(homes)]
    between = (at_home & OFFSET_MASK) > 0
    if np.count_nonzero(between) == blocks.size:
        # Neither none nor all 512: nothing to settle.
        return
    at_end = (homes > 0) & ~between
    blocks, homes, at_home = blocks[at_end], homes[at_end], at_home[at_end]
    if not blocks.size:
        return
    p2m.blocks.note(blocks)
    p2m.home[blocks[at_home == 0]] = 0
    complete = (at_home > 0) & (p2m.leaf[blocks] == 0)
    if host.settings.coalesce and np.count_nonzero(complete):
        blocks, supers = blocks[complete], from_cells(homes[complete])
        p2m.entry_rows.note(blocks)
        p2m.rows[blocks] = 0
        host.make_whole(supers, domain.domid)
        p2m.leaf[blocks] = to_cells(supers << SUPER_ORDER)
        domain.leaves += blocks.size


def map_leaves(host: FrameTable, domain: Domain, blocks: Blocks, supers: Supers) -> None:
    """Back (n,) empty blocks with one superframe each, taken from the heap."""
    p2m = domain.p2m
    p2m.blocks.note(blocks)
    p2m.leaf[blocks] = to_cells(supers << SUPER_ORDER)
    p2m.home[blocks] = to_cells(supers)
    p2m.populated[blocks] = SUPER_PAGES
    host.whole_owner[supers] = domain.domid + 1
    host.at_home[supers] = SUPER_PAGES
    domain.leaves += blocks.size
    domain.tot_pages += blocks.size << SUPER_ORDER
    if domain.by_node is not None:
        domain.by_node.come_whole(supers)


def unmap_leaves(domain: Domain, blocks: Blocks) -> Supers:
    """Take the leaves of (n,) blocks away; returns their superframes, still owned."""
    p2m = domain.p2m
    supers = supers_of(from_cells(p2m.leaf[blocks]))
    p2m.blocks.note(blocks)
    p2m.leaf[blocks] = 0
    p2m.home[blocks] = 0
    p2m.populated[blocks] = 0
    domain.leaves -= blocks.size
    domain.tot_pages -= blocks.size << SUPER_ORDER
    if domain.by_node is not None:
        domain.by_node.go_whole(supers)
    return supers


def move_leaves(domain: Domain, sources: Blocks, targets: Blocks) -> Supers:
    """Move the leaves of (n,) blocks to as many empty ones; returns their superframes."""
    p2m = domain.p2m
    first = p2m.leaf[sources]
    p2m.blocks.note(np.concatenate((sources, targets)))
    p2m.leaf[targets], p2m.home[targets] = first, p2m.home[sources]
    p2m.populated[targets] = SUPER_PAGES
    p2m.leaf[sources] = p2m.home[sources] = p2m.populated[sources] = 0
    return supers_of(from_cells(first))


def move_entries(domain: Domain, source: Block, target: Block) -> Mfns:
    """Move the 512 entries of a shattered block to an empty one, offset by offset, its home with them; returns the frames."""
    p2m = domain.p2m
    for block in (source, target):
        p2m.entry_rows.note_row(block)
        p2m.blocks.note_row(block)
    p2m.rows[target] = p2m.rows[source]
    p2m.rows[source] = 0
    p2m.populated[target], p2m.populated[source] = SUPER_PAGES, 0
    p2m.home[target], p2m.home[source] = p2m.home[source], 0
    return from_cells(p2m.rows[target])


def release_everything(host: FrameTable, domain: Domain, kept: Gfns) -> None:
    """Return all frames of a domain to the heap but those of *kept*: (n,) populated gfns, ascending."""
    p2m = domain.p2m
    kept_blocks, kept_counts = np.unique(blocks_of(kept), return_counts=True)
    leaves: NDArray[Any] = np.setdiff1d(np.flatnonzero(p2m.leaf), kept_blocks)
    host.give_superframes(unmap_leaves(domain, leaves))
    broken = kept_blocks[(p2m.leaf[kept_blocks] > 0) & (kept_counts < SUPER_PAGES)]
    if broken.size:
        shatter(host, domain, broken)
    blocks: NDArray[Any] = np.flatnonzero((p2m.populated > 0) & (p2m.leaf == 0))
    gfns: NDArray[Any] = np.setdiff1d(p2m.populated_in(blocks), kept, assume_unique=True)
    if gfns.size:
        groups = group_by_super(gfns)
        host.give(*unmap_frames(host, domain, gfns, groups))
        settle(host, domain, groups[0])
