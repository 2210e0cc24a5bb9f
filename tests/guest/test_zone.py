"""The zone: page states, page blocks, watermarks, and the allocator over the free pages."""

import numpy as np
import pytest

from xbd.abi import Frames
from xbd.guest.watermarks import watermarks_of
from xbd.guest.zone import Mobility, PageState, Zone
from xbd.units import GIB_PAGES, SUPER_PAGES

NOTHING: Frames = np.zeros(0, dtype=np.int64)


def free_zone(gfn_count: int) -> Zone:
    """Make a zone whose pages are all free."""
    zone = Zone(gfn_count)
    whole = gfn_count // SUPER_PAGES
    zone.adopt_free(np.arange(whole), np.arange(whole * SUPER_PAGES, gfn_count))
    assert zone.check() == []
    return zone


def test_watermarks_are_those_of_linux() -> None:
    """A 16 GiB zone keeps 4,096 pages in reserve, or with huge pages 67,584 KiB; 45,056 KiB where all lies below 4 GiB."""
    marks = watermarks_of(16 * GIB_PAGES, huge_pages=False)
    assert (marks.min_pages, marks.low_pages, marks.high_pages) == (4096, 4096 + 4194, 4096 + 2 * 4194)
    assert watermarks_of(512, huge_pages=False).min_pages == 45
    marks = watermarks_of(16 * GIB_PAGES)
    assert (marks.min_pages, marks.low_pages) == (67_584 // 4, 67_584 // 4 * 5 // 4)
    assert watermarks_of(2 * GIB_PAGES).min_pages == 45_056 // 4
    # Not for a miniature, and at most a twentieth of all.
    assert watermarks_of(512).min_pages == 45
    assert watermarks_of(131_072).min_pages == 6553


def test_a_block_takes_the_type_of_its_first_allocation() -> None:
    """Movable and unmovable pages go to blocks of their own while whole ones last."""
    zone = free_zone(4 * SUPER_PAGES)
    movable = zone.allocate(10, Mobility.MOVABLE, PageState.MOVABLE)
    unmovable = zone.allocate(10, Mobility.UNMOVABLE, PageState.UNMOVABLE)
    assert set((movable // SUPER_PAGES).tolist()) == {0}
    assert set((unmovable // SUPER_PAGES).tolist()) == {1}
    again = zone.allocate(600, Mobility.MOVABLE, PageState.MOVABLE)
    assert set((again // SUPER_PAGES).tolist()) == {0, 2}
    assert zone.check() == []


def test_unmovable_falls_back_to_the_block_with_the_most_free_pages() -> None:
    """Without a block of its own type or a whole one, an unmovable allocation takes the largest free part."""
    zone = free_zone(2 * SUPER_PAGES)
    pages = zone.allocate(2 * SUPER_PAGES, Mobility.MOVABLE, PageState.MOVABLE)
    zone.release(pages[:10], PageState.MOVABLE)
    zone.release(pages[SUPER_PAGES : SUPER_PAGES + 100], PageState.MOVABLE)
    taken = zone.allocate(50, Mobility.UNMOVABLE, PageState.UNMOVABLE)
    assert set((taken // SUPER_PAGES).tolist()) == {1}


def test_a_block_that_was_wholly_free_again_can_change_its_type() -> None:
    """Freeing all of an unmovable block lets it become a movable one."""
    zone = free_zone(SUPER_PAGES)
    zone.release(zone.allocate(5, Mobility.UNMOVABLE, PageState.UNMOVABLE), PageState.UNMOVABLE)
    zone.allocate(5, Mobility.MOVABLE, PageState.MOVABLE)
    assert zone.mobility[0] == Mobility.MOVABLE
    assert zone.check() == []


def test_whole_blocks_cost_no_page_detail() -> None:
    """Blocks that are units change state without their 512 bytes being written."""
    zone = free_zone(4 * SUPER_PAGES)
    blocks = zone.allocate_blocks(3)
    assert blocks.tolist() == [3, 2, 1], "the highest first"
    zone.change_blocks(blocks, PageState.ISOLATED, PageState.BALLOON_2M)
    assert not zone.state.any()
    assert zone.total(PageState.BALLOON_2M) == 3 * SUPER_PAGES
    zone.change_blocks(blocks[:1], PageState.BALLOON_2M, PageState.FREE)
    assert zone.free.free_superframes == 2
    assert zone.check() == []


def test_split_and_merge_are_each_others_inverse() -> None:
    """A unit that is split has 512 pages in a state; merged again nothing is left of them."""
    zone = free_zone(SUPER_PAGES)
    zone.change_blocks(zone.allocate_blocks(1), PageState.ISOLATED, PageState.BALLOON_2M)
    zone.split_blocks(np.array([0]), PageState.BALLOON_2M, PageState.BALLOON_4K)
    assert zone.total(PageState.BALLOON_4K) == SUPER_PAGES
    assert zone.check() == []
    zone.merge_blocks(np.array([0]), PageState.BALLOON_4K, PageState.BALLOON_2M)
    assert not zone.state.any()
    assert zone.check() == []


def test_a_page_in_another_state_is_a_broken_invariant() -> None:
    """What is not in the state that a caller believes in cannot be changed."""
    zone = free_zone(SUPER_PAGES)
    pages = zone.allocate(2, Mobility.MOVABLE, PageState.MOVABLE)
    with pytest.raises(AssertionError, match="2 of 2 pages are not UNMOVABLE"):
        zone.release(pages, PageState.UNMOVABLE)


@pytest.mark.parametrize("counter", ["state", "counts", "free"])
def test_check_finds_a_wrong_counter(counter: str) -> None:
    """Each of the zone's counters is recomputed."""
    zone = free_zone(2 * SUPER_PAGES)
    pages = zone.allocate(7, Mobility.MOVABLE, PageState.MOVABLE)
    if counter == "state":
        zone.state[pages[0]] = PageState.UNMOVABLE
    elif counter == "counts":
        zone.counts[PageState.MOVABLE, 0] += 1
    else:
        zone.free.free_frames -= 1
    assert zone.check() != []


@pytest.mark.parametrize("gfn_count", [1, 511, 512, 513, 2560, 2600])
def test_random_changes_match_a_list_of_states(gfn_count: int) -> None:
    """After any sequence of allocations and changes the zone counts what a plain list says."""
    rng = np.random.default_rng(gfn_count)
    zone = free_zone(gfn_count)
    naive = [PageState.FREE] * gfn_count
    used = [PageState.MOVABLE, PageState.UNMOVABLE, PageState.ISOLATED, PageState.BALLOON_4K]
    for _ in range(60):
        to = used[int(rng.integers(len(used)))]
        mobility = Mobility.UNMOVABLE if to is PageState.UNMOVABLE else Mobility.MOVABLE
        wanted = int(rng.integers(1, gfn_count + 1))
        taken = zone.allocate(wanted, mobility, to).tolist()
        assert len(taken) == min(wanted, naive.count(PageState.FREE))
        assert all(naive[gfn] is PageState.FREE for gfn in taken)
        for gfn in taken:
            naive[gfn] = to
        old, new = (used[int(i)] for i in rng.integers(len(used), size=2))
        new = PageState.FREE if rng.random() < 0.6 else new
        chosen = [gfn for gfn, state in enumerate(naive) if state is old and rng.random() < 0.7]
        if old is not new:
            zone.change(np.array(chosen, dtype=np.int64), old, new)
            for gfn in chosen:
                naive[gfn] = new
        assert zone.check() == []
        assert [zone.total(state) for state in PageState] == [naive.count(state) for state in PageState]


def test_programs_get_the_smallest_free_pieces_first() -> None:
    """Of two blocks with holes all small pieces are filled, then the larger ones, and then a whole block is broken."""
    zone = free_zone(4 * SUPER_PAGES)
    rng = np.random.default_rng(1)
    pages = zone.allocate(2 * SUPER_PAGES, Mobility.MOVABLE, PageState.MOVABLE)
    # Of each of two blocks a single page, a piece of 2, and one of 64; in pages of pieces of each order:
    for block in (pages[:SUPER_PAGES], pages[SUPER_PAGES:]):
        zone.release(np.concatenate((block[71:72], block[100:102], block[192:256])), PageState.MOVABLE)
    assert zone.free_by_order().tolist() == [2, 4, 0, 0, 0, 0, 128, 0, 0, 2 * SUPER_PAGES]
    small = zone.allocate_smallest(6, Mobility.MOVABLE, PageState.MOVABLE, rng)
    assert sorted((small % SUPER_PAGES).tolist()) == [71, 71, 100, 100, 101, 101]
    larger = zone.allocate_smallest(128, Mobility.MOVABLE, PageState.MOVABLE, rng)
    assert sorted((larger % SUPER_PAGES).tolist()) == sorted([*range(192, 256)] * 2)
    assert zone.free.free_superframes == 2
    assert zone.allocate_smallest(3, Mobility.MOVABLE, PageState.MOVABLE, rng).tolist() == [1024, 1025, 1026]
    assert zone.total(PageState.MOVABLE) == 2 * SUPER_PAGES + 3
    assert zone.check() == []


@pytest.mark.parametrize("gfn_count", [5 * SUPER_PAGES, 5 * SUPER_PAGES + 77])
def test_small_pieces_are_all_that_there_is_and_none_comes_twice(gfn_count: int) -> None:
    """Whatever is free is given once, of movable blocks first; unmovable blocks keep theirs while there is other room."""
    zone = free_zone(gfn_count)
    rng = np.random.default_rng(2)
    kernel = zone.allocate(20, Mobility.UNMOVABLE, PageState.UNMOVABLE)
    pages = zone.allocate(3 * SUPER_PAGES, Mobility.MOVABLE, PageState.MOVABLE)
    zone.release(rng.permutation(pages)[:700], PageState.MOVABLE)
    taken = zone.allocate_smallest(700, Mobility.MOVABLE, PageState.MOVABLE, rng)
    assert taken.size == 700
    assert int(kernel[0]) // SUPER_PAGES not in (taken // SUPER_PAGES).tolist()
    left = zone.total(PageState.FREE)
    assert np.unique(zone.allocate_smallest(left + 100, Mobility.MOVABLE, PageState.MOVABLE, rng)).size == left
    assert zone.total(PageState.FREE) == 0
    assert zone.allocate_smallest(1, Mobility.MOVABLE, PageState.MOVABLE, rng).size == 0
    assert zone.check() == []


def test_pieces_are_those_of_a_naive_buddy_allocator() -> None:
    """After any allocations and frees, each free page counts in the largest aligned piece around it that is wholly free."""
    gfn_count = 3 * SUPER_PAGES + 77
    zone = free_zone(gfn_count)
    rng = np.random.default_rng(5)
    zone.allocate(gfn_count, Mobility.MOVABLE, PageState.MOVABLE)
    for _ in range(40):
        used = np.flatnonzero(zone.state[:gfn_count] == PageState.MOVABLE)
        first, count = int(rng.integers(used.size)), int(rng.integers(1, 300))
        zone.release(used[first : first + count], PageState.MOVABLE)
        zone.allocate_smallest(int(rng.integers(0, 200)), Mobility.MOVABLE, PageState.MOVABLE, rng)
        naive = [0] * 10
        # The last block is not whole, so that nothing of it can be part of a 2 MiB page.
        for block in range(3):
            free = {int(page) % SUPER_PAGES for page in zone.pages_in(block, PageState.FREE)}
            for page in free:
                naive[max(k for k in range(10) if {*range(page >> k << k, (page >> k) + 1 << k)} <= free)] += 1
        assert zone.free_by_order().tolist() == naive
        assert zone.check() == []
