"""exchange and populate_depopulate: operations that leave a domain's page count as it is.

Both name as many gfns to back as to unback, so neither checks max_pages or claims. Exchange allocates
before it frees, so it needs free frames; populate_depopulate falls back to the frame that the pair
gives up, so it cannot run out of memory.
Source: Xen public/memory.h, XENMEM_exchange. populate_depopulate is xbd's own, after the design
proposed on xen-devel in 2014.

On a host of several nodes a page stays on its node, whichever operation moves it, unless an exchange names another.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xbd.abi import TURN_COST_SHATTERED, TURN_EXTENTS, Exchange, MemopResult, PopulateDepopulate, Stop
from xbd.arrays import Block, Blocks, Gfns, Mfns, Supers, blocks_of, from_cells
from xbd.errors import BadArgument, NotSupported
from xbd.frames import expand_supers, group_by_super
from xbd.machine import mapping, placement
from xbd.machine.domain import Domain
from xbd.machine.extents import answer, check_extents, check_repeats, first_unpopulated, in_a_turn
from xbd.machine.frame_table import FrameTable
from xbd.machine.refcounts import first_referenced, referenced_blocks
from xbd.machine.reservation import free_shattered, home_fill
from xbd.units import SUPER_ORDER, SUPER_PAGES

# On a nearly full host an exchange gets its frames a few at a time; a turn is at most this many rounds.
_EXCHANGE_ROUNDS = 4


def exchange(host: FrameTable, domain: Domain, command: Exchange) -> MemopResult:
    """Free the frames of *gives* and back *gets* with new ones; tot_pages stays, max_pages is not checked.

    Chunk by chunk: the outputs are allocated before the inputs are freed, so it needs free frames. Of unequal orders
    a chunk is one block and 512 single pages.
    Stops with ENOENT (an input is not populated), EBUSY (others map it), EEXIST (an output is populated), ENOMEM,
    BUDGET; *done* counts inputs.
    """
    if not domain.features.exchange:
        raise NotSupported(
            "this host does not exchange frames of translated guests", "populate_depopulate or two calls"
        )
    nodes = domain.sequence
    if command.node is not None or command.exact:
        nodes = placement.request(host, domain, command.node, exact=command.exact)
    replacing = _Replacing(host, domain, nodes, is_asked=command.node is not None)
    order = command.gives_order
    # Repeats are searched for once, across both lists.
    gives, gives_within = check_extents(command.gives, order, domain, repeated=True)
    gets, gets_within = check_extents(command.gets, command.gets_order, domain, repeated=True)
    if gives.size << order != gets.size << command.gets_order:
        raise BadArgument(
            f"exchange of {gives.size} extents of order {order} for {gets.size} of order {command.gets_order}",
            "the same number of frames on both sides",
        )
    asked = gives.size
    if order != command.gets_order:
        done, stop = _exchange_unequal(replacing, gives, gets, order)
        return answer(done, asked, stop)
    check_repeats(np.concatenate((gives, gets)))
    if order:
        done, stop = _exchange_blocks(replacing, blocks_of(gives), blocks_of(gets))
    else:
        turn = min(in_a_turn(domain, gives, gives_within), in_a_turn(domain, gets, gets_within, mends=True))
        done, stop = _exchange_small(replacing, gives[:turn], gets[:turn])
    return answer(done, asked, stop)


def _pairs_valid(host: FrameTable, domain: Domain, populated: Gfns, empty: Gfns) -> tuple[int, Stop]:
    """Count the pairs before the first whose second gfn is taken (EEXIST), or whose first is not populated or is referenced."""
    valid, stop = domain.p2m.first_taken(empty), Stop.EEXIST
    backed = first_unpopulated(domain.p2m.lookup(populated))
    for most, reason in ((backed, Stop.ENOENT), (first_referenced(host, domain, populated[:backed]), Stop.EBUSY)):
        if most < valid:
            valid, stop = most, reason
    return valid, Stop.BUDGET if valid == populated.size else stop


def _block_pair_wrong(host: FrameTable, domain: Domain, populated: Block, empty: Block) -> Stop | None:
    """Return the stop that prevents a pair of blocks; None: nothing does."""
    p2m = domain.p2m
    if p2m.populated[empty] or p2m.slots[empty]:
        return Stop.EEXIST
    if p2m.populated[populated] < SUPER_PAGES:
        return Stop.ENOENT
    return Stop.EBUSY if referenced_blocks(host, domain, np.array([populated]))[0] else None


@dataclass(slots=True)
class _Replacing:
    """Takes frames that stand for those that are given: of the nodes that are asked for, or of the same node each."""

    host: FrameTable
    domain: Domain
    nodes: placement.Request
    is_asked: bool

    def most(self, gfns: Gfns) -> int:
        """Count the first of (n,) gfns whose frames can be replaced."""
        return placement.exchangeable(self.host, self.domain, gfns, self.nodes, is_asked=self.is_asked)

    def frames(self, gfns: Gfns) -> Mfns:
        """Take a frame for each of (n,) gfns, of which `most` counts all."""
        return placement.take_others(self.host, self.domain, gfns, self.nodes, is_asked=self.is_asked)

    def superframe(self, gfns: Gfns) -> Supers:
        """Take a superframe for 512 gfns; (0,): there is none."""
        return placement.take_other_block(self.host, self.domain, gfns, self.nodes, is_asked=self.is_asked)


def _exchange_small(replacing: _Replacing, gives: Gfns, gets: Gfns) -> tuple[int, Stop]:
    host, domain = replacing.host, replacing.domain
    valid, stop = _pairs_valid(host, domain, gives, gets)
    done = 0
    for _ in range(_EXCHANGE_ROUNDS):
        chunk = slice(done, done + replacing.most(gives[done:valid]))
        if chunk.start == chunk.stop:
            break
        fresh = replacing.frames(gives[chunk])
        given, got = group_by_super(gives[chunk]), group_by_super(gets[chunk])
        old, groups = mapping.unmap_frames(host, domain, gives[chunk], given)
        mapping.map_frames(host, domain, gets[chunk], got, fresh, drained=given[0])
        host.give(old, groups)
        mapping.settle(host, domain, np.union1d(given[0], got[0]))
        done = chunk.stop
    if done == valid:
        return done, stop
    return done, Stop.BUDGET if replacing.most(gives[done:valid]) else Stop.ENOMEM


def _exchange_blocks(replacing: _Replacing, gives: Blocks, gets: Blocks) -> tuple[int, Stop]:
    host, domain = replacing.host, replacing.domain
    done = spent = 0
    for given, got in zip(gives.tolist(), gets.tolist(), strict=True):
        wrong = _block_pair_wrong(host, domain, given, got)
        if wrong:
            return done, wrong
        if spent >= TURN_EXTENTS:
            return done, Stop.BUDGET
        fresh = replacing.superframe(_pages_of(given))
        if fresh.size == 0:
            return done, Stop.ENOMEM
        _free_block(host, domain, given)
        mapping.map_leaves(host, domain, np.array([got]), fresh)
        done += 1
        spent += TURN_COST_SHATTERED
    return done, Stop.BUDGET


def _exchange_unequal(replacing: _Replacing, gives: Gfns, gets: Gfns, gives_order: int) -> tuple[int, Stop]:
    """Exchange one block for 512 single pages, or these for it; a chunk is a turn, and counts its inputs."""
    blocks, pages = (gives, gets) if gives_order else (gets, gives)
    check_repeats(blocks)
    check_repeats(pages)
    if np.isin(pages >> SUPER_ORDER, blocks >> SUPER_ORDER).any():
        raise BadArgument("a page of an exchange lies in a block of its other side", "no overlap")
    if not blocks.size:
        return 0, Stop.BUDGET
    block, pages = Block(int(blocks[0]) >> SUPER_ORDER), pages[:SUPER_PAGES]
    wrong = (_break_block if gives_order else _make_block)(replacing, block, pages)
    done = gives.size // blocks.size
    return (0, wrong) if wrong else (done, Stop.BUDGET)


def _pages_of(block: Block) -> Gfns:
    """List the gfns of a block."""
    return expand_supers(np.array([block], dtype=np.int64))


def _break_block(replacing: _Replacing, block: Block, pages: Gfns) -> Stop | None:
    """Unback a block and back 512 single pages; returns the stop that prevents it: nothing has changed."""
    host, domain = replacing.host, replacing.domain
    if domain.p2m.first_taken(pages) < SUPER_PAGES:
        return Stop.EEXIST
    if domain.p2m.populated[block] < SUPER_PAGES:
        return Stop.ENOENT
    if referenced_blocks(host, domain, np.array([block]))[0]:
        return Stop.EBUSY
    given = _pages_of(block)
    if replacing.most(given) < SUPER_PAGES:
        return Stop.ENOMEM
    fresh, groups = replacing.frames(given), group_by_super(pages)
    _free_block(host, domain, block)
    mapping.map_frames(host, domain, pages, groups, fresh)
    mapping.settle(host, domain, groups[0])
    return None


def _make_block(replacing: _Replacing, block: Block, pages: Gfns) -> Stop | None:
    """Back a block by one leaf and unback 512 single pages; returns the stop that prevents it: nothing has changed."""
    host, domain = replacing.host, replacing.domain
    if domain.p2m.populated[block] or domain.p2m.slots[block]:
        return Stop.EEXIST
    if first_unpopulated(domain.p2m.lookup(pages)) < SUPER_PAGES:
        return Stop.ENOENT
    if first_referenced(host, domain, pages) < SUPER_PAGES:
        return Stop.EBUSY
    fresh = replacing.superframe(pages)
    if not fresh.size:
        return Stop.ENOMEM
    groups = group_by_super(pages)
    host.give(*mapping.unmap_frames(host, domain, pages, groups))
    mapping.settle(host, domain, groups[0])
    mapping.map_leaves(host, domain, np.array([block]), fresh)
    return None


def _free_block(host: FrameTable, domain: Domain, block: Block) -> None:
    blocks: NDArray[Any] = np.array([block], dtype=np.int64)
    if domain.p2m.leaf[block]:
        host.give_superframes(mapping.unmap_leaves(domain, blocks))
        return
    free_shattered(host, domain, blocks)


def populate_depopulate(host: FrameTable, domain: Domain, command: PopulateDepopulate) -> MemopResult:
    """For each pair, back one extent and unback the other, in one step; never out of memory, tot_pages unchanged.

    Stops with EEXIST (the first of a pair is populated), ENOENT (the second is not), EBUSY (others map it), BUDGET.
    """
    if not domain.features.populate_depopulate:
        raise NotSupported("this host has no populate_depopulate", "exchange or two calls")
    order = command.order
    fills, fills_within = check_extents(command.populate, order, domain, repeated=True)
    drains, drains_within = check_extents(command.depopulate, order, domain, repeated=True)
    if fills.size != drains.size:
        raise BadArgument(f"{fills.size} extents to populate, {drains.size} to depopulate", "pairs")
    check_repeats(np.concatenate((fills, drains)))
    asked = fills.size
    if order:
        done, stop = _swap_blocks(host, domain, blocks_of(fills), blocks_of(drains))
        return answer(done, asked, stop)
    turn = min(in_a_turn(domain, drains, drains_within), in_a_turn(domain, fills, fills_within, mends=True))
    fills, drains = fills[:turn], drains[:turn]
    done, stop = _pairs_valid(host, domain, drains, fills)
    if done:
        swap_small(host, domain, fills[:done], drains[:done])
    return answer(done, asked, stop)


def swap_small(host: FrameTable, domain: Domain, fills: Gfns, drains: Gfns) -> None:
    """Populate the gfns *fills* and depopulate *drains*, (n,) int64 each, pair by pair; what is populated reads zero."""
    filled, drained = group_by_super(fills), group_by_super(drains)
    never = host.settings.home_fill == "never"
    found, missing = None, None
    if not never:
        keep_node = None if domain.by_node is None else partial(_keep_node, host, domain, drains)
        found, missing = home_fill(host, domain, fills, filled, keep_node)
    old, _ = mapping.unmap_frames(host, domain, drains, drained)
    if found is None:
        fresh, freed = old, old[:0]
        host.scrub_moved(old)
    elif missing is None:
        fresh, freed = found, old
    else:
        # Case 2: no home frame is free, so the pair's own frame is moved.
        fresh = found
        fresh[missing] = old[missing]
        host.scrub_moved(old[missing])
        homed = np.ones(old.size, dtype=np.bool_)
        homed[missing] = False
        freed = old[homed]
    mapping.map_frames(host, domain, fills, filled, fresh, drained=drained[0])
    if freed.size:
        host.give(freed)
    touched: NDArray[Any] = np.union1d(drained[0], filled[0])
    mapping.settle(host, domain, touched)


def _keep_node(host: FrameTable, domain: Domain, drains: Gfns, wanted: Mfns, free: NDArray[np.bool_]) -> None:
    """Let no page go to a home on another node than that of the frame that its pair gives up."""
    placement.on_the_same_node(host, from_cells(domain.p2m.lookup(drains)), wanted, free)


def _swap_blocks(host: FrameTable, domain: Domain, fills: Blocks, drains: Blocks) -> tuple[int, Stop]:
    p2m, done, spent = domain.p2m, 0, 0
    replacing = _Replacing(host, domain, domain.sequence, is_asked=False)
    for fill, drain in zip(fills.tolist(), drains.tolist(), strict=True):
        wrong = _block_pair_wrong(host, domain, drain, fill)
        if wrong:
            return done, wrong
        if spent >= TURN_EXTENTS:
            return done, Stop.BUDGET
        target, source = np.array([fill]), np.array([drain])
        if p2m.leaf[drain]:
            host.scrub_superframes(mapping.move_leaves(domain, source, target))
        elif (fresh := replacing.superframe(_pages_of(drain))).size:
            _free_block(host, domain, drain)
            mapping.map_leaves(host, domain, target, fresh)
        else:
            host.scrub(mapping.move_entries(domain, drain, fill))
        done += 1
        spent += TURN_COST_SHATTERED
    return done, Stop.BUDGET
