"""Published faults of Xen on just these operations: each fails safely here.

One test per advisory that has an analogue without grants; for those of grants see `test_grant_advisories`.
"""

import numpy as np
import pytest

from tests.machine.twin import Twin, gfns, offsets
from xbd import abi
from xbd.abi import Stop
from xbd.machine import Machine


@pytest.mark.parametrize("base", [-1, -(1 << 63), 1 << 62, 2048])
def test_xsa_29_and_212_exchange_checks_before_it_uses(base: int) -> None:
    """Addresses and counts given to exchange are checked before any of them is used."""
    twin = Twin(4)
    domid = twin.create(2, most=4)

    assert twin.exchange(domid, gfns(0, base), gfns(1024, 1025)) == "EINVAL"
    assert twin.exchange(domid, gfns(0, 1), gfns(1024, base)) == "EINVAL"
    assert twin.exchange(domid, gfns(range(600)), gfns(1024)) == "EINVAL"


@pytest.mark.parametrize("order", [-1, 1, 8, 10, 31, 32, 63, 64, 1 << 40])
def test_xsa_31_orders_that_make_no_sense(order: int) -> None:
    """An order other than 0 and 9 is refused by every operation that takes one, before anything is shifted by it."""
    twin = Twin(2)
    domid = twin.create(1, most=2)

    assert twin.populate(domid, gfns(512), order) == "EINVAL"
    assert twin.decrease(domid, gfns(0), order) == "EINVAL"
    assert twin.exchange(domid, gfns(0), gfns(512), order) == "EINVAL"
    assert twin.swap(domid, gfns(512), gfns(0), order) == "EINVAL"


def test_xsa_45_150_and_380_no_call_runs_for_long() -> None:
    """However much a call names, one turn does a bounded part of it and says BUDGET."""
    machine = Machine(300)
    domid = machine.create("guest", max_pages=256 * 512, target_pages=128 * 512)
    low, high = np.arange(65_536, dtype=np.int64), np.arange(65_536, 131_072, dtype=np.int64)
    blocks = np.arange(128, dtype=np.int64) * 512
    for command in (
        abi.PopulateDepopulate(high, low),
        abi.Exchange(low[512:], high[512:]),
        abi.Decrease(low[1024:]),
        abi.Populate(high[1024:]),
        abi.Exchange(blocks[8:], blocks[8:] + 65_536, 9, 9),
        abi.PopulateDepopulate(blocks[40:] + 65_536, blocks[40:], 9),
    ):
        result = machine.execute(domid, command)
        assert isinstance(result, abi.MemopResult)
        assert 0 < result.done <= 512
        assert result.stop is Stop.BUDGET
    assert machine.audit() == []


def test_xsa_149_no_memory_goes_with_a_domain() -> None:
    """A domain that is made and ended leaves neither frames nor arrays behind, however often."""
    twin = Twin(3)
    arrays = set(twin.machine.image.arrays)
    for _ in range(5):
        domid = twin.create(2, most=3)
        twin.decrease(domid, gfns(range(0, 1024, 7)))
        twin.swap(domid, offsets(2, range(50)), gfns(range(1, 351, 7)))
        twin.destroy(domid)
        assert twin.machine.statistics().free_superframes == 3
    assert set(twin.machine.image.arrays) == arrays


def test_xsa_217_the_old_owner_cannot_reach_a_page_that_moved() -> None:
    """A frame that goes from one domain to another is out of the first one's map, and reads zero in the second's."""
    twin = Twin(2)
    first, second = twin.create(1), twin.create(1, most=2, domid=2)
    twin.store(first, gfns(range(512)))
    twin.decrease(first, gfns(7))
    twin.populate(second, gfns(600))

    assert twin.frames(second, gfns(600)) == [7]
    assert twin.load(second, gfns(600)) == [0]
    assert twin.store(first, gfns(7)) == (0, Stop.EFAULT)
    twin.store(second, gfns(600), 99)
    assert 99 not in twin.load(first, gfns(range(7), range(8, 512)))


def test_xsa_235_and_316_error_paths_leave_nothing_half_done() -> None:
    """After a call that stopped, was refused or found no memory, the next one finds everything in order."""
    twin = Twin(2)
    domid = twin.create(1, most=3)
    for _ in range(2):
        assert twin.populate(domid, gfns(600, 3)) == (1, Stop.EEXIST)
        assert twin.populate(domid, gfns(1024, 512), 9) == (0, Stop.ENOMEM)
        assert twin.swap(domid, gfns(700), gfns(900)) == (0, Stop.ENOENT)
        assert twin.exchange(domid, gfns(3, 900), gfns(901, 902)) == (1, Stop.ENOENT)
        assert twin.exchange(domid, gfns(901), gfns(3)) == (1, None)
        assert twin.decrease(domid, gfns(600, 600)) == "EINVAL"
        assert twin.decrease(domid, gfns(600, 601)) == (1, Stop.ENOENT)


def test_xsa_287_exchange_refuses_what_is_used_on_the_other_side() -> None:
    """A page cannot be given away by exchange while the same call, or the state, uses it elsewhere."""
    twin = Twin(2)
    domid = twin.create(1, most=2)

    assert twin.exchange(domid, gfns(5, 6), gfns(600, 5)) == "EINVAL"
    assert twin.exchange(domid, gfns(5, 5), gfns(600, 601)) == "EINVAL"
    assert twin.exchange(domid, gfns(5), gfns(6)) == (0, Stop.EEXIST)


@pytest.mark.parametrize("order", [0, 9])
def test_xsa_318_a_call_goes_on_where_it_stopped(order: int) -> None:
    """What BUDGET reports as done is done and the rest is not: going on from there does each extent once."""
    twin = Twin(44)
    domid = twin.create(20, most=44)
    step = 512 if order else 1
    fills, drains = gfns(range(20 * 512, 20 * 512 + 20 * 512, step)), gfns(range(0, 20 * 512, step))
    fills, drains = fills[:700], drains[:700]
    done = 0
    while done < fills.size:
        result = twin.swap(domid, fills[done:], drains[done:], order)
        assert isinstance(result, tuple)
        done += result[0]

    assert twin.machine.domain_info(domid).extents == {"populate_depopulate": fills.size}
    assert -1 not in twin.frames(domid, fills)
    assert set(twin.frames(domid, drains)) == {-1}


def test_xsa_379_and_387_a_frame_that_was_given_back_is_out_of_reach() -> None:
    """After decrease, exchange and populate_depopulate the old gfn reaches nothing."""
    twin = Twin(3)
    domid = twin.create(2, most=3)
    twin.store(domid, gfns(range(1024)))
    twin.decrease(domid, gfns(1))
    twin.exchange(domid, gfns(2), gfns(1024))
    twin.swap(domid, gfns(1025), gfns(3))
    twin.decrease(domid, gfns(512), 9)

    for gfn in (1, 2, 3, 512, 1023):
        assert twin.store(domid, gfns(gfn)) == (0, Stop.EFAULT)
        assert twin.load(domid, gfns(gfn)) == []


def test_xsa_385_no_operation_exceeds_the_limit() -> None:
    """Neither order of populate, nor repeating it, nor moving pages, brings a domain above max_pages."""
    twin = Twin(6)
    domid = twin.create(1, most=4)
    twin.set_max_pages(domid, 1100)

    assert twin.populate(domid, gfns(512, 1024), 9) == (1, Stop.E2BIG)
    assert twin.populate(domid, offsets(2, range(100))) == (76, Stop.E2BIG)
    twin.swap(domid, offsets(3, range(300)), gfns(range(300)))
    twin.exchange(domid, gfns(range(300, 400)), offsets(3, range(300, 400)))
    assert twin.populate(domid, gfns(0)) == (0, Stop.E2BIG)
    assert twin.machine.domain_info(domid).tot_pages == 1100


def test_xsa_388_and_389_changes_of_a_superpage_are_whole_or_small() -> None:
    """A misaligned 2 MiB extent is refused; one of a block that is not whole is not done in part."""
    twin = Twin(3)
    domid = twin.create(2, most=3)

    assert twin.decrease(domid, gfns(256), 9) == "EINVAL"
    assert twin.swap(domid, gfns(1024), gfns(1), 9) == "EINVAL"
    twin.decrease(domid, gfns(511))
    assert twin.decrease(domid, gfns(512, 0), 9) == (1, Stop.ENOENT)
    assert twin.swap(domid, gfns(1024), gfns(0), 9) == (0, Stop.ENOENT)
    assert twin.machine.domain_info(domid).tot_pages == 511
