"""What was measured on a real Xen 4.17: a 512 MiB guest taken to 256 MiB and back by its 4 KiB balloon."""

import numpy as np
import pytest

from tests.machine.twin import Backing, gfns
from xbd import abi
from xbd.machine import TODAYS_XEN, HostSettings, Machine
from xbd.units import SUPER_PAGES

BLOCKS = 256


def _round_trip(machine: Machine, domid: int, order: int) -> list[int]:
    """Take the upper half away and bring it back by extents of *order*; returns the leaves after each."""
    leaves = []
    half = BLOCKS // 2 * SUPER_PAGES
    step = SUPER_PAGES if order else 1
    for operation in (abi.Decrease, abi.Populate):
        # As the driver did: batches of 512 gfns, in descending runs within a block.
        for first in range(half, 2 * half, 512 * step):
            batch = gfns(range(min(first + 512 * step, 2 * half) - step, first - step, -step))
            assert machine.execute(domid, operation(batch, order)) == abi.MemopResult(batch.size)
        leaves.append(machine.domain_info(domid).leaves)
    return leaves


@pytest.mark.parametrize(
    ("settings", "order", "expected"),
    [(TODAYS_XEN, 0, [128, 128]), (TODAYS_XEN, 9, [128, 256]), (HostSettings(), 0, [128, 256])],
)
def test_down_to_half_and_back(settings: HostSettings, order: int, expected: list[int]) -> None:
    """Xen's settings lose half of the leaves for good by 4 KiB extents, none by 2 MiB ones; the default loses none."""
    machine = Machine(BLOCKS + 40, settings=settings)
    domid = machine.create("guest", max_pages=BLOCKS * SUPER_PAGES, target_pages=BLOCKS * SUPER_PAGES)

    assert _round_trip(machine, domid, order) == expected
    assert machine.domain_info(domid).tot_pages == BLOCKS * SUPER_PAGES
    assert machine.statistics().free_superframes == 40
    assert machine.audit() == []


def test_fragmented_inflation_costs_leaves_only_for_a_while() -> None:
    """One page of each block given and taken back breaks every leaf in Xen's settings for good, none in the default."""
    for settings, expected in ((TODAYS_XEN, 0), (HostSettings(), BLOCKS)):
        machine = Machine(BLOCKS + 4, settings=settings)
        domid = machine.create("guest", max_pages=BLOCKS * SUPER_PAGES, target_pages=BLOCKS * SUPER_PAGES)
        holes = gfns(range(77, BLOCKS * SUPER_PAGES, SUPER_PAGES))
        for turn in np.split(holes, BLOCKS // abi.TURN_LEAVES):
            machine.execute(domid, abi.Decrease(turn))
        assert machine.domain_info(domid).leaves == 0
        for turn in np.split(holes, BLOCKS // abi.TURN_LEAVES):
            machine.execute(domid, abi.Populate(turn))
        assert machine.domain_info(domid).leaves == expected


def test_the_highest_frames_are_handed_out_first() -> None:
    """Superpages and single pages of a new domain come from the top down on Xen, from the bottom up by default."""
    frame = 2 * SUPER_PAGES
    for settings, expected in ((TODAYS_XEN, [7, 6, 3071, 3070]), (HostSettings(), [0, 1, 1024, 1025])):
        machine = Machine(8, settings=settings)
        domid = machine.create("guest", max_pages=4 * SUPER_PAGES, target_pages=2 * SUPER_PAGES)
        machine.execute(domid, abi.Populate(gfns([frame, frame + 1])))
        backing = Backing(machine, domid)
        superframes = [backing(block * SUPER_PAGES) // SUPER_PAGES for block in range(2)]
        assert [*superframes, backing(frame), backing(frame + 1)] == expected
        assert machine.audit() == []
