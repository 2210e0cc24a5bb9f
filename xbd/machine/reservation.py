"""populate_physmap and decrease_reservation: validate, reserve, apply, account, without a pause between.

A virtio balloon's deflate and inflate are the same, by shorter lists.

Each function is one turn of one operation of one domain. A turn does at most `TURN_EXTENTS`
extents, and breaks or mends at most `TURN_LEAVES` superpages, then it answers BUDGET and the caller goes on from there.

Within a turn of order-0 populates the home frames are handed out first and the heap chooses the
others; apart from that, the result is that of doing one extent after the other.
Source: Xen public/memory.h, XENMEM_populate_physmap and XENMEM_decrease_reservation.
"""

from functools import partial

import numpy as np

from xbd.abi import (
    LIST_EXTENTS,
    TURN_COST_LEAF,
    TURN_COST_SHATTERED,
    TURN_EXTENTS,
    Decrease,
    Deflate,
    Frames,
    Inflate,
    MemopResult,
    Populate,
    Stop,
)
from xbd.arrays import BlockKind, Blocks, Gfns, Mfns, blocks_of, from_cells, supers_of
from xbd.errors import BadArgument
from xbd.frames import Groups, NodeHeap, expand_supers, group_by_super
from xbd.machine import claims, mapping, placement
from xbd.machine.domain import Domain
from xbd.machine.extents import answer, check_extents, first, first_unpopulated, in_a_turn
from xbd.machine.frame_table import FrameTable
from xbd.machine.refcounts import first_referenced, referenced_blocks
from xbd.units import OFFSET_MASK, SUPER_ORDER, SUPER_PAGES


def populate(host: FrameTable, domain: Domain, command: Populate | Deflate) -> MemopResult:
    """Back each extent with fresh, zeroed frames; an order-9 extent becomes one leaf.

    Stops with EEXIST (populated already), E2BIG (max_pages), ENOMEM (host), BUDGET.
    """
    order = command.order
    gfns, within = check_extents(command.gfns, order, domain)
    nodes = domain.sequence
    if command.node is not None or command.exact:
        nodes = placement.request(host, domain, command.node, exact=command.exact)
    turn = TURN_EXTENTS if order else in_a_turn(domain, gfns, within, mends=True)
    room, free = host.room_pages(domain) >> order, placement.obtainable(host, domain, nodes, order)
    count, stop = count_populatable(domain, gfns[:turn], order, within, (room, free))
    before = domain.node_pages if domain.claimed_pages else []
    if count and order:
        supers = placement.take_superframes(host, domain, count, nodes)
        mapping.map_leaves(host, domain, blocks_of(gfns[:count]), supers)
    elif count:
        groups = group_by_super(gfns[:count], within)
        _populate_small(host, domain, gfns[:count], groups, nodes, is_asked=command.node is not None)
    if before:
        claims.redeem(host, domain, before)
    if stop is Stop.ENOMEM:
        host.wait(domain, order, nodes)
    elif host.has_waiting:
        host.stop_waiting(domain.domid)
    return answer(count, gfns.size, stop)


def count_populatable(domain: Domain, gfns: Gfns, order: int, within: int, bounds: tuple[int, int]) -> tuple[int, Stop]:
    """Count the extents before the first that cannot be populated, and return the stop that it causes.

    *bounds*: how many its limit permits, and how many the host has.
    They lie *within* so many superpages at most, as `check_extents` says.
    """
    empty = gfns.size
    blocks = (gfns[:1] if within == 1 else gfns) >> SUPER_ORDER
    populated = domain.p2m.populated[blocks]
    # Often the blocks' counts say that nothing is populated, without a look at any entry.
    if np.count_nonzero(populated) or domain.mapped:
        taken = populated | domain.p2m.slots[blocks]
        empty = first(taken > 0) if order else domain.p2m.first_taken(gfns)
    count, stop = gfns.size, Stop.BUDGET
    room, free = bounds
    for most, reason in ((empty, Stop.EEXIST), (room, Stop.E2BIG), (free, Stop.ENOMEM)):
        if most < count:
            count, stop = most, reason
    return count, stop


def _populate_small(
    host: FrameTable,
    domain: Domain,
    gfns: Gfns,
    groups: Groups[BlockKind],
    nodes: placement.Request,
    *,
    is_asked: bool,
) -> None:
    """Back single pages by a request; where its node *is_asked* for, no home on another one counts."""
    filling = host.settings.home_fill == "always"
    heap = host.heap
    is_block = filling and host.settings.coalesce and gfns.size == SUPER_PAGES == groups[1][0]
    if is_block and not isinstance(heap, NodeHeap) and heap.serves_whole():
        # All of one block from a whole superframe: what follows would come to the same leaf, page by page.
        mapping.map_leaves(host, domain, groups[0], heap.take_superframes(1))
        return
    mfns, missing = None, None
    if filling:
        restrict = None
        if nodes is not None:
            restrict = partial(placement.within_room, host, domain, nodes[:1] if is_asked else nodes)
        mfns, missing = home_fill(host, domain, gfns, groups, restrict)
    if mfns is None:
        _populate_anywhere(host, domain, gfns, groups, nodes)
    elif missing is None:
        mapping.map_frames(host, domain, gfns, groups, mfns)
    else:
        # First those at home: the heap chooses the others by what is kept, and that has just changed.
        at_home = np.ones(gfns.size, dtype=np.bool_)
        at_home[missing] = False
        mapping.map_frames(host, domain, gfns[at_home], group_by_super(gfns[at_home]), mfns[at_home])
        _populate_anywhere(host, domain, gfns[missing], group_by_super(gfns[missing]), nodes)
    mapping.settle(host, domain, groups[0])


def _populate_anywhere(
    host: FrameTable, domain: Domain, gfns: Gfns, groups: Groups[BlockKind], nodes: placement.Request
) -> None:
    mfns = placement.take(host, domain, gfns.size, nodes)
    empty = groups[0].size - np.count_nonzero(domain.p2m.populated[groups[0]])
    if empty and host.settings.home_fill == "always":
        mfns = _match_offsets(domain, gfns, mfns)
    mapping.map_frames(host, domain, gfns, groups, mfns)


def home_fill(
    host: FrameTable, domain: Domain, gfns: Gfns, groups: Groups[BlockKind], restrict: placement.Restriction | None
) -> tuple[Mfns | None, Frames | None]:
    """Take the home frames of *gfns* that are free and may be taken: (n,) mfns and the indexes still missing; (None, None): none is.

    *restrict*: of the frames that are wanted, leaves of those that are free the ones that may be taken; None: all may.
    """
    blocks, counts = groups
    homes = domain.p2m.home[blocks]
    homed_blocks = np.count_nonzero(homes)
    if homed_blocks == 0:
        return None, None
    wanted = domain.p2m.home_frames(gfns)
    free = (
        host.heap.is_free(wanted)
        if homed_blocks == homes.size
        else (wanted >= 0) & host.heap.is_free(np.maximum(wanted, 0))
    )
    if restrict is not None:
        restrict(wanted, free)
    found = np.count_nonzero(free)
    if found == gfns.size:
        host.heap.take_exactly(wanted, (from_cells(homes), counts))
        return wanted, None
    if found == 0:
        return None, None
    host.heap.take_exactly(wanted[free])
    return wanted, np.flatnonzero(~free)


def _match_offsets(domain: Domain, gfns: Gfns, mfns: Mfns) -> Mfns:
    """Assign frames so that in empty blocks each gfn gets a frame of its own offset, where possible.

    The heap may choose any free frame for any page; this choice lets a block that is populated
    as 512 single pages get a home, and become a leaf.
    """
    if np.count_nonzero((gfns ^ mfns) & OFFSET_MASK) == 0:
        return mfns
    chosen = np.flatnonzero(domain.p2m.populated[gfns >> SUPER_ORDER] == 0)
    if chosen.size == 0:
        return mfns
    dealt = mfns.copy()
    by_gfn = chosen[np.argsort(gfns[chosen] & OFFSET_MASK, kind="stable")]
    by_mfn = chosen[np.argsort(mfns[chosen] & OFFSET_MASK, kind="stable")]
    dealt[by_gfn] = mfns[by_mfn]
    return dealt


def decrease(host: FrameTable, domain: Domain, command: Decrease | Inflate) -> MemopResult:
    """Give the frames of each extent back to the heap; an extent is all or nothing.

    Stops with ENOENT (not, or not wholly, populated), EBUSY (others map a frame of it), BUDGET.
    """
    order = command.order
    gfns, within = check_extents(command.gfns, order, domain)
    asked = gfns.size
    if asked == 0:
        return MemopResult(0)
    if order:
        done, stop = _decrease_blocks(host, domain, blocks_of(gfns[:TURN_EXTENTS]))
    else:
        done, stop = _decrease_pages(host, domain, gfns[: in_a_turn(domain, gfns, within)], within)
    return answer(done, asked, stop)


def _decrease_pages(host: FrameTable, domain: Domain, gfns: Gfns, within: int) -> tuple[int, Stop]:
    groups = group_by_super(gfns, within)
    # Often the blocks' counts say that all is populated, without a look at any entry.
    all_full = np.count_nonzero(domain.p2m.populated[groups[0]] == SUPER_PAGES) == groups[0].size
    done, stop = gfns.size if all_full else first_unpopulated(domain.p2m.lookup(gfns)), Stop.ENOENT
    unreferenced = first_referenced(host, domain, gfns[:done])
    if unreferenced < done:
        done, stop = unreferenced, Stop.EBUSY
    if done:
        _decrease_small(host, domain, gfns[:done], groups if done == gfns.size else group_by_super(gfns[:done]))
    return done, stop if done < gfns.size else Stop.BUDGET


def _decrease_small(host: FrameTable, domain: Domain, gfns: Gfns, groups: Groups[BlockKind]) -> None:
    blocks, counts = groups
    if counts[0] == SUPER_PAGES and domain.p2m.leaf[blocks[0]]:
        # All of one leaf: nothing to shatter only to merge it again.
        host.give_superframes(mapping.unmap_leaves(domain, blocks))
        return
    host.give(*mapping.unmap_frames(host, domain, gfns, groups))
    mapping.settle(host, domain, blocks)


def _decrease_blocks(host: FrameTable, domain: Domain, blocks: Blocks) -> tuple[int, Stop]:
    done, stop = first(domain.p2m.populated[blocks] < SUPER_PAGES), Stop.ENOENT
    unreferenced = first(referenced_blocks(host, domain, blocks[:done]))
    if unreferenced < done:
        done, stop = unreferenced, Stop.EBUSY
    elif done == blocks.size:
        stop = Stop.BUDGET
    blocks = blocks[:done]
    leaves = domain.p2m.leaf[blocks]
    is_leaf = leaves > 0
    # The 512 words of a leaf that was written to are noted and zeroed.
    of_leaf = np.where(host.written[supers_of(from_cells(leaves))], TURN_COST_LEAF, 1)
    within = first(np.cumsum(np.where(is_leaf, of_leaf, TURN_COST_SHATTERED)) > TURN_EXTENTS)
    if within < done:
        done, stop = within, Stop.BUDGET
        blocks, is_leaf = blocks[:done], is_leaf[:done]
    whole, shattered = blocks[is_leaf], blocks[~is_leaf]
    if whole.size:
        host.give_superframes(mapping.unmap_leaves(domain, whole))
    if shattered.size:
        free_shattered(host, domain, shattered)
    return done, stop


def free_shattered(host: FrameTable, domain: Domain, blocks: Blocks) -> None:
    """Free all of (n,) wholly populated blocks that are no leaves."""
    groups = (blocks, np.full(blocks.size, SUPER_PAGES, dtype=np.int64))
    host.give(*mapping.unmap_frames(host, domain, expand_supers(blocks), groups))
    mapping.settle(host, domain, blocks)


def deflate(host: FrameTable, domain: Domain, command: Deflate) -> MemopResult:
    """Do what a list on a virtio balloon's deflate queue says: `populate` of at most `LIST_EXTENTS`."""
    _check_list(command.gfns)
    return populate(host, domain, command)


def inflate(host: FrameTable, domain: Domain, command: Inflate) -> MemopResult:
    """Do what a list on a virtio balloon's inflate queue says: `decrease` of at most `LIST_EXTENTS`."""
    _check_list(command.gfns)
    return decrease(host, domain, command)


def _check_list(gfns: Frames) -> None:
    if gfns.size > LIST_EXTENTS:
        raise BadArgument(f"a list of {gfns.size} extents", f"at most {LIST_EXTENTS}")
