"""Populate, decrease, homes, holes and content one by one; each step is also compared with the model."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tests.machine.twin import Twin, gfns, offsets
from xbd import abi
from xbd.abi import Frames, Stop
from xbd.machine import HomeFill, HostSettings, Machine
from xbd.units import SUPER_PAGES

DEFAULT = HostSettings()


# -- populate


def test_populate_gives_a_leaf_for_an_order_9_extent() -> None:
    """An order-9 extent becomes one leaf; the same block by single pages may take several calls."""
    twin = Twin(4)
    domid = twin.create(1, most=4)

    assert twin.populate(domid, gfns(1024, 512), 9) == (2, None)
    assert twin.leaves(domid) == 3
    assert twin.decrease(domid, gfns(range(5))) == (5, None)
    assert twin.leaves(domid) == 2


def test_populate_says_why_it_stopped() -> None:
    """The answer counts what was done before the first extent that could not be, and names the reason."""
    twin = Twin(2)
    domid, other = twin.create(1, most=3), twin.create(1, domid=2)

    assert twin.populate(domid, gfns(600, 5, 601)) == (0, Stop.ENOMEM)
    twin.decrease(other, gfns(range(3)))
    assert twin.populate(domid, gfns(600, 5, 601)) == (1, Stop.EEXIST)
    assert twin.populate(domid, gfns(601, 602, 603)) == (2, Stop.ENOMEM)
    assert twin.populate(domid, gfns(1024), 9) == (0, Stop.ENOMEM)
    assert twin.populate(domid, gfns(512), 9) == (0, Stop.EEXIST)
    twin.set_max_pages(domid, 515)
    assert twin.populate(domid, gfns(603)) == (0, Stop.E2BIG)
    assert twin.populate(domid, gfns(603, 600)) == (0, Stop.E2BIG)
    assert twin.populate(domid, gfns(600, 603)) == (0, Stop.EEXIST)


def test_a_limit_below_the_pages_held_stops_populating_only() -> None:
    """max_pages may be set below tot_pages; the guest can give and move pages, not get more, until it is below."""
    twin = Twin(4)
    domid = twin.create(2, most=3)
    twin.set_max_pages(domid, 1000)

    assert twin.populate(domid, gfns(1024)) == (0, Stop.E2BIG)
    assert twin.populate(domid, gfns(1024), 9) == (0, Stop.E2BIG)
    assert twin.swap(domid, gfns(1024), gfns(3)) == (1, None)
    assert twin.exchange(domid, gfns(4), gfns(1025)) == (1, None)
    assert twin.decrease(domid, gfns(range(5, 30))) == (25, None)
    assert twin.populate(domid, gfns(5, 6)) == (1, Stop.E2BIG)


def test_a_turn_is_512_small_extents() -> None:
    """More than a turn is answered with BUDGET after 512 extents, exactly 512 without."""
    twin = Twin(6)
    domid = twin.create(1, most=6)

    assert twin.populate(domid, gfns(range(512, 1025))) == (512, Stop.BUDGET)
    assert twin.populate(domid, gfns(range(1024, 1536))) == (512, None)
    assert twin.decrease(domid, gfns(range(600))) == (512, Stop.BUDGET)
    assert twin.swap(domid, gfns(range(512), 1600), gfns(range(600, 1113))) == (512, Stop.BUDGET)
    assert twin.exchange(domid, gfns(range(512), 1200), gfns(range(2000, 2513))) == (512, Stop.BUDGET)


def test_shattered_blocks_cost_more_of_a_turn() -> None:
    """A turn frees many leaves but few shattered blocks, and tells where to go on."""
    twin = Twin(40, replace(DEFAULT, coalesce=False))
    domid = twin.create(40)
    firsts = gfns(range(0, 20 * SUPER_PAGES, SUPER_PAGES))
    twin.decrease(domid, firsts)
    twin.populate(domid, firsts)

    everything = gfns(range(0, 40 * SUPER_PAGES, SUPER_PAGES))
    assert twin.leaves(domid) == 20
    assert twin.decrease(domid, everything, 9) == (16, Stop.BUDGET)
    assert twin.decrease(domid, everything[16:], 9) == (24, None)


def test_a_turn_breaks_and_mends_few_superpages() -> None:
    """Single pages of 80 superpages take three turns, whichever operation breaks or mends them; elsewhere they take one."""
    machine = Machine(256)
    domid = machine.create("web", max_pages=240 * SUPER_PAGES, target_pages=160 * SUPER_PAGES)
    low, high, new = (np.arange(first, first + 80, dtype=np.int64) * SUPER_PAGES for first in (0, 80, 160))

    def turns(command: Callable[..., abi.Command], *pages: Frames) -> list[int]:
        done: list[int] = []
        while sum(done) < 80:
            result = machine.execute(domid, command(*(part[sum(done) :] for part in pages)))
            assert isinstance(result, abi.MemopResult), result
            done.append(result.done)
        return done

    assert turns(abi.Decrease, low) == [32, 32, 16]
    assert turns(abi.Decrease, low + 1) == [80]
    assert turns(abi.Populate, low) == [80]
    assert turns(abi.Populate, low + 1) == [32, 32, 16]
    assert turns(abi.PopulateDepopulate, new, low) == [32, 32, 16]
    assert turns(abi.Exchange, high, new + 1) == [32, 32, 16]
    assert machine.audit() == []


def test_freeing_written_leaves_costs_more_of_a_turn() -> None:
    """Their words are zeroed: 32 of them are a turn, of others 512."""
    twin = Twin(40)
    domid = twin.create(40)
    firsts = gfns(range(0, 40 * SUPER_PAGES, SUPER_PAGES))
    twin.store(domid, firsts)

    assert twin.decrease(domid, firsts, 9) == (32, Stop.BUDGET)
    assert twin.decrease(domid, firsts[32:], 9) == (8, None)


def test_empty_calls_do_nothing() -> None:
    """A call that names nothing is done."""
    twin = Twin(2)
    domid = twin.create(1)

    for order in (0, 9):
        assert twin.populate(domid, gfns(), order) == (0, None)
        assert twin.decrease(domid, gfns(), order) == (0, None)
        assert twin.swap(domid, gfns(), gfns(), order) == (0, None)
        assert twin.exchange(domid, gfns(), gfns(), order) == (0, None)
    assert twin.load(domid, gfns()) == []


# -- homes


def test_a_hole_is_filled_by_the_frame_that_is_missing() -> None:
    """With home_fill "always" a hole gets its own frame back, and the block its leaf."""
    twin = Twin(3)
    domid = twin.create(1)
    frames = twin.frames(domid, gfns(range(100, 200)))
    twin.decrease(domid, gfns(range(100, 200)))

    assert twin.populate(domid, gfns(range(199, 99, -1))) == (100, None)
    assert twin.frames(domid, gfns(range(100, 200))) == frames
    assert twin.leaves(domid) == 1


@pytest.mark.parametrize("home_fill", ["populate_depopulate", "never"])
def test_without_home_fill_the_heap_chooses(home_fill: HomeFill) -> None:
    """With other settings a hole gets what the heap finds first, and the leaf stays broken."""
    twin = Twin(3, replace(DEFAULT, home_fill=home_fill, keep_holes=False))
    domid = twin.create(1, most=2)
    twin.decrease(domid, gfns(range(100, 200)))
    twin.populate(domid, gfns(600))
    twin.populate(domid, gfns(range(100, 200)))

    assert twin.leaves(domid) == 0
    assert twin.home(domid, 0) == 0


def test_a_stray_entry_does_not_cancel_a_home() -> None:
    """A block with one entry elsewhere keeps its home, and becomes a leaf when the stray comes home."""
    twin = Twin(2)
    domid, other = twin.create(1), twin.create(1, most=2, gfn_count=1024, domid=2)
    twin.decrease(domid, gfns(7))
    twin.populate(other, gfns(1000))
    twin.decrease(other, gfns(0, 1))
    twin.populate(domid, gfns(7))
    assert (twin.leaves(domid), twin.home(domid, 0)) == (0, 0)

    twin.decrease(other, gfns(1000))
    twin.decrease(domid, gfns(7))
    twin.populate(domid, gfns(7))
    assert twin.leaves(domid) == 1


def test_a_block_of_single_pages_becomes_a_leaf() -> None:
    """An empty block that gets all its pages one by one, in any order, from a whole superframe, is a leaf."""
    twin = Twin(4)
    domid = twin.create(1, most=4)

    assert twin.populate(domid, offsets(1)[::-1].copy()) == (512, None)
    assert twin.populate(domid, np.random.default_rng(1).permutation(offsets(2))) == (512, None)
    assert twin.leaves(domid) == 3
    for gfn in range(1536, 2048):
        twin.machine.execute(domid, abi.Populate(gfns(gfn)))
    assert twin.leaves(domid) == 4
    assert twin.machine.audit() == []


def test_a_home_is_cleared_with_its_last_entry() -> None:
    """A block none of whose entries is at home any more has no home, and its superframe is anybody's."""
    twin = Twin(2)
    domid = twin.create(1, most=2)
    twin.decrease(domid, gfns(range(1, 512)))
    assert twin.home(domid, 0) == 0

    assert twin.swap(domid, gfns(512 + 9), gfns(0)) == (1, None)
    assert (twin.home(domid, 0), twin.home(domid, 1)) == (-1, -1)
    assert twin.populate(domid, gfns(0)) == (1, None)


@pytest.mark.parametrize("operation", ["swap", "exchange"])
def test_a_superframe_is_the_home_of_one_block(operation: str) -> None:
    """A block that loses its last entry at home to another block of the same offset loses the home with it."""
    twin = Twin(1)
    domid = twin.create(1, most=2)
    twin.decrease(domid, gfns(range(1, 512)))

    if operation == "swap":
        twin.swap(domid, gfns(512), gfns(0))
    else:
        twin.exchange(domid, gfns(0), gfns(513))
    assert (twin.home(domid, 0), twin.home(domid, 1)) == (-1, 0)


def test_blocks_with_and_without_a_home_in_one_call() -> None:
    """On the smallest host, one call for a homed and a homeless block fills the first one's hole with its own frame."""
    twin = Twin(1)
    domid = twin.create(1, most=2)
    twin.decrease(domid, gfns(5, 9))

    assert twin.populate(domid, gfns(512, 9)) == (2, None)
    assert twin.frames(domid, gfns(512, 9)) == [5, 9]


# -- holes


def test_holes_of_nearly_whole_superframes_are_kept() -> None:
    """Another's request is served from a whole superframe before it takes the hole of a superframe that is kept."""
    twin = Twin(3)
    domid, other = twin.create(1), twin.create(1, most=3, domid=2)
    twin.decrease(domid, gfns(range(256)))

    twin.populate(other, gfns(512 + 300))
    assert twin.frames(other, gfns(512 + 300)) == [1024]
    twin.decrease(domid, gfns(256))
    twin.populate(other, gfns(512 + 301))
    assert twin.frames(other, gfns(512 + 301))[0] < 512


def test_kept_holes_never_make_a_request_fail() -> None:
    """When nothing else is left, the kept superframes serve, those with the fewest used frames first."""
    twin = Twin(3)
    domid, other = twin.create(2), twin.create(1, most=2, domid=2)
    twin.decrease(domid, gfns(range(10), range(512, 600)))

    assert twin.populate(other, offsets(1, range(88))) == (88, None)
    assert sorted(twin.frames(other, offsets(1, range(88)))) == list(range(512, 600))
    assert twin.populate(other, offsets(1, range(88, 99))) == (10, Stop.ENOMEM)
    assert sorted(twin.frames(other, offsets(1, range(88, 98)))) == list(range(10))


def test_a_hole_is_kept_from_strangers_in_the_same_call() -> None:
    """A call that fills one hole of a kept superframe does not serve its homeless pages from the others."""
    twin = Twin(4)
    domid = twin.create(1, most=3)
    twin.decrease(domid, gfns(range(100)))

    twin.populate(domid, gfns(0, 512))
    assert twin.frames(domid, gfns(0, 512)) == [0, 512]


def test_holes_can_be_had_where_they_are_not_kept() -> None:
    """With keep_holes off the smallest block serves first, whatever is lost by it."""
    twin = Twin(3, replace(DEFAULT, keep_holes=False))
    domid, other = twin.create(1), twin.create(1, most=2, domid=2)
    twin.decrease(domid, gfns(7))

    twin.populate(other, gfns(700))
    assert twin.frames(other, gfns(700)) == [7]


# -- content


def test_load_and_store_reach_up_to_the_first_hole() -> None:
    """Words are read and written up to the first unpopulated page; neither is a hypercall."""
    twin = Twin(2)
    domid = twin.create(1, most=2)
    twin.decrease(domid, gfns(3))

    assert twin.store(domid, gfns(1, 2, 3, 4)) == (2, Stop.EFAULT)
    result = twin.do(domid, abi.Load(gfns(2, 4, 3, 1)))
    assert isinstance(result, abi.LoadResult)
    assert (result.done, result.stop, result.words.tolist()) == (2, Stop.EFAULT, [7, 0])
    assert twin.machine.domain_info(domid).hypercalls == {"decrease:done": 1}


def test_hypercalls_are_counted_by_how_they_ended() -> None:
    """Each call counts once under its operation and stop or errno, and its extents by operation."""
    twin = Twin(3)
    domid = twin.create(1, most=2)
    twin.populate(domid, gfns(600, 601))
    twin.populate(domid, gfns(602, 601))
    twin.populate(domid, gfns(602), 3)
    twin.swap(domid, gfns(700), gfns(600))

    info = twin.machine.domain_info(domid)
    assert info.hypercalls == {
        "populate:EEXIST": 1,
        "populate:EINVAL": 1,
        "populate:done": 1,
        "populate_depopulate:done": 1,
    }
    assert info.extents == {"populate": 3, "populate_depopulate": 1}
