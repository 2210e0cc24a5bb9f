"""Exchange and populate_depopulate one by one; each step is also compared with the model."""

from dataclasses import replace

import pytest

from tests.machine.twin import Twin, gfns, offsets
from xbd import abi
from xbd.abi import Stop
from xbd.machine import TODAYS_XEN, HostSettings

DEFAULT = HostSettings()


# -- exchange


def test_exchange_gives_fresh_zeroed_frames() -> None:
    """The outputs read zero, tot_pages stays, and leaves that give are shattered."""
    twin = Twin(3)
    domid = twin.create(1, most=2)
    twin.store(domid, gfns(range(512)))

    assert twin.exchange(domid, gfns(3, 4), gfns(512, 513)) == (2, None)
    assert twin.load(domid, gfns(2, 512, 513)) == [7, 0, 0]
    assert twin.machine.domain_info(domid).tot_pages == 512
    assert twin.exchange(domid, gfns(3), gfns(514)) == (0, Stop.ENOENT)
    assert twin.exchange(domid, gfns(2), gfns(512)) == (0, Stop.EEXIST)
    assert twin.exchange(domid, gfns(3), gfns(513)) == (0, Stop.EEXIST)


def test_exchange_of_superpages_takes_a_whole_superframe() -> None:
    """Order 9 for order 9: the input block is freed, the output is one leaf of another superframe."""
    twin = Twin(2)
    domid = twin.create(1, most=2)

    assert twin.exchange(domid, gfns(0), gfns(512), 9) == (1, None)
    assert twin.frames(domid, gfns(512)) == [512]
    twin.populate(domid, gfns(0))
    assert twin.exchange(domid, gfns(512), gfns(0), 9) == (0, Stop.EEXIST)
    twin.decrease(domid, gfns(0, 600))
    assert twin.exchange(domid, gfns(512), gfns(0), 9) == (0, Stop.ENOENT)


def test_exchange_fails_on_a_full_host() -> None:
    """Exchange needs a free frame before it frees one: none is ENOMEM; a few frames serve many extents."""
    twin = Twin(2)
    domid = twin.create(2, most=3)
    assert twin.exchange(domid, gfns(0, 1), gfns(1024, 1025)) == (0, Stop.ENOMEM)
    assert twin.exchange(domid, gfns(0), gfns(1024), 9) == (0, Stop.ENOMEM)

    twin.decrease(domid, gfns(700))
    gives, gets = gfns(range(20)), gfns(range(1100, 1120))
    done = 0
    while done < 20:
        part = twin.exchange(domid, gives[done:], gets[done:])
        assert isinstance(part, tuple)
        assert part[0] > 0
        done += part[0]
    assert done == 20


def test_operations_can_be_switched_off() -> None:
    """A host without an operation refuses it, whatever is asked, and says so to its guests."""
    twin = Twin(3, TODAYS_XEN)
    domid = twin.create(1, most=2)

    assert twin.exchange(domid, gfns(0), gfns(512)) == "EOPNOTSUPP"
    assert twin.swap(domid, gfns(512), gfns(0)) == "EOPNOTSUPP"
    assert twin.swap(domid, gfns(99999), gfns(0), 3) == "EOPNOTSUPP"
    assert twin.machine.boot_info(domid).features == abi.Features(populate_depopulate=False, exchange=False)


def test_exchange_of_single_pages_for_a_block_gives_a_leaf() -> None:
    """512 scattered pages go, one 2 MiB page comes from a whole superframe; and the other way round."""
    twin = Twin(4)
    domid = twin.create(2, most=4)
    scattered = gfns(range(0, 1024, 2))

    assert twin.answer(domid, abi.Exchange(scattered, gfns(1024), 0, 9)) == (512, None)
    assert twin.machine.domain_info(domid).leaves == 1
    assert twin.machine.domain_info(domid).tot_pages == 1024
    twin.store(domid, gfns(1024, 1030))
    assert twin.answer(domid, abi.Exchange(gfns(1024), scattered, 9, 0)) == (1, None)
    assert twin.load(domid, gfns(0, 1, 2)) == [0, 0, 0]


def test_a_chunk_of_unequal_orders_is_all_or_nothing() -> None:
    """What is in the way of one page of it is in the way of the chunk, and nothing has changed; a chunk is a turn."""
    twin = Twin(6)
    domid = twin.create(3, most=6)
    low, high = gfns(range(1024)), gfns(1536, 2048)

    assert twin.answer(domid, abi.Exchange(low, high, 0, 9)) == (512, Stop.BUDGET)
    assert twin.answer(domid, abi.Exchange(low[:512], gfns(2048), 0, 9)) == (0, Stop.ENOENT)
    assert twin.answer(domid, abi.Exchange(low[512:], gfns(1536), 0, 9)) == (0, Stop.EEXIST)
    assert twin.answer(domid, abi.Exchange(gfns(1536), low[511:1023], 9, 0)) == (0, Stop.EEXIST)
    assert twin.answer(domid, abi.Exchange(gfns(2048), low[:512], 9, 0)) == (0, Stop.ENOENT)
    assert twin.machine.domain_info(domid).tot_pages == 1536


def test_a_block_is_exchanged_for_pages_only_where_a_superframe_is_free() -> None:
    """Outputs are allocated before inputs are freed: a full host has neither."""
    twin = Twin(2)
    domid = twin.create(2, most=3)
    twin.decrease(domid, gfns(700))

    assert twin.answer(domid, abi.Exchange(gfns(range(512)), gfns(1024), 0, 9)) == (0, Stop.ENOMEM)
    assert twin.answer(domid, abi.Exchange(gfns(0), gfns(range(1024, 1536)), 9, 0)) == (0, Stop.ENOMEM)


# -- populate_depopulate


def test_a_pair_takes_the_home_frame() -> None:
    """Case 1: p's home frame is free, so p takes it, d's frame is freed, and the superpage is whole again."""
    twin = Twin(3)
    domid = twin.create(2)
    twin.store(domid, gfns(range(1024)))
    twin.decrease(domid, gfns(5))

    assert twin.swap(domid, gfns(5), gfns(700)) == (1, None)
    assert twin.frames(domid, gfns(5, 700)) == [5, -1]
    assert twin.leaves(domid) == 1
    assert twin.load(domid, gfns(4, 5)) == [7, 0]


def test_a_pair_takes_its_own_frame_where_the_home_is_gone() -> None:
    """Case 2: another domain has the home frame, so d's frame moves over; nothing is allocated, p reads zero."""
    twin = Twin(3)
    domid, other = twin.create(2), twin.create(1, most=2, domid=2)
    twin.store(domid, gfns(range(1024)))
    twin.decrease(domid, gfns(5))
    twin.populate(other, gfns(1000))
    assert twin.frames(other, gfns(1000)) == [5]
    frames = twin.frames(domid, gfns(700))

    assert twin.swap(domid, gfns(5), gfns(700)) == (1, None)
    assert twin.frames(domid, gfns(5, 700)) == [*frames, -1]
    assert twin.load(domid, gfns(5)) == [0]


def test_both_cases_in_one_chunk_read_zero() -> None:
    """Of two pairs one takes its home frame and the other its own d's; both p read zero, one frame is freed."""
    twin = Twin(3)
    domid = twin.create(2, most=3)
    twin.store(domid, gfns(range(1024)))
    twin.decrease(domid, gfns(5))

    assert twin.swap(domid, gfns(1030, 5), gfns(700, 701)) == (2, None)
    assert twin.frames(domid, gfns(1030, 5)) == [700, 5]
    assert twin.load(domid, gfns(1030, 5)) == [0, 0]
    assert twin.machine.statistics().free_frames == 513


def test_pairs_never_run_out_of_memory() -> None:
    """On a full host every pair is done, and the host stays full."""
    twin = Twin(2)
    domid = twin.create(2, most=3)
    assert twin.machine.statistics().free_frames == 0

    assert twin.swap(domid, gfns(range(1024, 1400)), gfns(range(600, 976))) == (376, None)
    assert twin.swap(domid, gfns(700), gfns(1100)) == (1, None)
    assert twin.machine.statistics().free_frames == 0


def test_pairs_without_home_fill_move_frames() -> None:
    """With home_fill "never" each pair is case 2, though the home frame is free."""
    twin = Twin(3, replace(DEFAULT, home_fill="never"))
    domid = twin.create(2)
    twin.decrease(domid, gfns(5))

    assert twin.swap(domid, gfns(5), gfns(700)) == (1, None)
    assert twin.frames(domid, gfns(5)) == [700]


def test_the_first_bad_pair_ends_a_chunk() -> None:
    """Pairs before the first bad one are done; p populated is EEXIST and comes before d unpopulated, ENOENT."""
    twin = Twin(3)
    domid = twin.create(1, most=3)

    assert twin.swap(domid, gfns(512, 513, 514), gfns(0, 600, 2)) == (1, Stop.ENOENT)
    assert twin.swap(domid, gfns(514, 1, 516), gfns(2, 3, 4)) == (1, Stop.EEXIST)
    assert twin.swap(domid, gfns(1), gfns(900)) == (0, Stop.EEXIST)
    assert twin.swap(domid, gfns(600, 601), gfns(601, 3)) == "EINVAL"


def test_a_whole_block_moves_home_pair_by_pair() -> None:
    """512 pairs bring a superframe together that two blocks shared."""
    twin = Twin(2)
    domid = twin.create(1, most=2)
    twin.swap(domid, gfns(range(512, 768)), gfns(range(256)))
    assert twin.leaves(domid) == 0

    assert twin.swap(domid, gfns(range(256)), gfns(range(512, 768))) == (256, None)
    assert twin.leaves(domid) == 1


def test_a_block_takes_its_home_along_pair_by_pair() -> None:
    """512 pairs that move a leaf to an empty block of the same offsets move its home too, and it is a leaf again."""
    twin = Twin(2)
    domid = twin.create(1, most=2)

    assert twin.swap(domid, offsets(1), offsets(0)) == (512, None)
    assert (twin.home(domid, 0), twin.home(domid, 1), twin.leaves(domid)) == (-1, 0, 1)
    assert twin.swap(domid, offsets(0, range(300)), offsets(1, range(300))) == (300, None)
    assert (twin.home(domid, 0), twin.home(domid, 1), twin.leaves(domid)) == (-1, 0, 0)


def test_a_leaf_moves_as_it_is() -> None:
    """Order 9, d a leaf: the leaf moves to p, on the same superframe, and reads zero."""
    twin = Twin(2)
    domid = twin.create(1, most=2)
    twin.store(domid, gfns(range(512)))

    assert twin.swap(domid, gfns(512), gfns(0), 9) == (1, None)
    assert twin.frames(domid, gfns(512)) == [0]
    assert twin.leaves(domid) == 1
    assert twin.load(domid, gfns(600)) == [0]


def test_a_shattered_block_moves_to_a_free_superframe() -> None:
    """Order 9, d shattered and a whole superframe free: p becomes a leaf there, d's 512 frames are freed."""
    twin = Twin(3, replace(DEFAULT, coalesce=False))
    domid = twin.create(1, most=2)
    twin.swap(domid, gfns(512), gfns(0))
    twin.swap(domid, gfns(0), gfns(512))
    twin.store(domid, gfns(range(512)))
    assert twin.leaves(domid) == 0

    assert twin.swap(domid, gfns(512), gfns(0), 9) == (1, None)
    assert twin.leaves(domid) == 1
    assert twin.load(domid, gfns(512, 800)) == [0, 0]
    assert twin.machine.statistics().free_superframes == 2


@pytest.mark.parametrize("coalesce", [True, False])
def test_a_shattered_block_moves_frame_by_frame(coalesce: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """Order 9, d shattered and no superframe free: the 512 frames move, offset by offset, home and all."""
    twin = Twin(2, replace(DEFAULT, coalesce=coalesce, home_fill="never", keep_holes=False))
    domid = twin.create(2, most=3)
    twin.decrease(domid, gfns(5, 600))
    twin.populate(domid, gfns(600, 5))
    twin.store(domid, gfns(range(1024)))
    frames = twin.frames(domid, offsets(0))

    assert twin.swap(domid, gfns(1024), gfns(0), 9) == (1, None)
    assert twin.frames(domid, offsets(2)) == frames
    assert set(twin.load(domid, offsets(2))) == {0}
    assert (twin.home(domid, 0), twin.home(domid, 2)) == (-1, 0)
    assert twin.leaves(domid) == 0


def test_order_9_pairs_say_why_they_stopped() -> None:
    """The block to fill must be empty, the other wholly populated; a turn moves some blocks and says BUDGET."""
    twin = Twin(20)
    domid = twin.create(20, most=41)
    twin.decrease(domid, gfns(3))

    assert twin.swap(domid, gfns(20 * 512), gfns(0), 9) == (0, Stop.ENOENT)
    assert twin.swap(domid, gfns(20 * 512, 512), gfns(1024, 1536), 9) == (1, Stop.EEXIST)
    drains, fills = gfns(range(1536, 20 * 512, 512)), gfns(range(21 * 512, 38 * 512, 512))
    assert twin.swap(domid, fills, drains, 9) == (16, Stop.BUDGET)
