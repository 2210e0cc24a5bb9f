"""Input that makes no sense is refused with EINVAL, whatever the state, and nothing is tried."""

import numpy as np
import pytest

from tests.machine.twin import Twin, gfns
from xbd import abi
from xbd.abi import Frames

WRONG = {
    "order 1": (gfns(0), 1),
    "order -1": (gfns(0), -1),
    "order 10": (gfns(0), 10),
    "order 18": (gfns(0), 18),
    "order 64": (gfns(0), 64),
    "misaligned": (gfns(512, 513), 9),
    "outside": (gfns(3, 2048), 0),
    "last extent outside": (gfns(2048), 9),
    "negative": (gfns(-1), 0),
    "negative block": (gfns(-512), 9),
    "huge": (gfns(1 << 62), 0),
    "huge block": (gfns((1 << 63) - 512), 9),
    "lowest number": (gfns(-(1 << 63)), 0),
    "rising to the highest number": (gfns((1 << 63) - 2, (1 << 63) - 1), 0),
    "rising to the highest block": (gfns((1 << 63) - 1024, (1 << 63) - 512), 9),
    "falling to the lowest number": (gfns(2 - (1 << 63), 1 - (1 << 63), -(1 << 63)), 0),
    "from the lowest number in one step": (gfns(-(1 << 63), 0), 0),
    "repeated": (gfns(1, 2, 1), 0),
    "repeated neighbours": (gfns(5, 5), 0),
    "repeated in a long list": (gfns(range(700), 699), 0),
    "repeated downward": (gfns(range(700, 0, -1), 1), 0),
    "repeated block": (gfns(512, 0, 512), 9),
    "too many": (np.arange(abi.MAX_EXTENTS + 1, dtype=np.int64), 0),
}


def commands(bases: Frames, order: int) -> list[abi.Command]:
    """Name the same extents in every operation and place."""
    fine = np.arange(bases.size, dtype=np.int64) * 512 if order == 9 else np.arange(1024, 1024 + bases.size)
    words = np.zeros(bases.size, dtype=np.uint64)
    both: list[abi.Command] = [
        abi.Populate(bases, order),
        abi.Decrease(bases, order),
        abi.Exchange(bases, fine, order, order),
        abi.Exchange(fine, bases, order, order),
        abi.PopulateDepopulate(bases, fine, order),
        abi.PopulateDepopulate(fine, bases, order),
    ]
    return [*both, abi.Load(bases), abi.Store(bases, words)] if order == 0 else both


@pytest.mark.parametrize("wrong", WRONG)
def test_senseless_extents_are_refused(wrong: str) -> None:
    """Every operation refuses them with EINVAL and a sentence, and changes nothing."""
    twin = Twin(4)
    domid = twin.create(2, most=4)
    twin.decrease(domid, gfns(3, 700))
    for command in commands(*WRONG[wrong]):
        result = twin.do(domid, command)
        assert isinstance(result, abi.Refused), command
        assert result.errno == "EINVAL"
        assert result.message
        assert result.expected


@pytest.mark.parametrize(
    "command",
    [
        abi.Exchange(gfns(0), gfns(512), 0, 9),
        abi.Exchange(gfns(0), gfns(*range(1024, 1535)), 9, 0),
        abi.Exchange(gfns(0), gfns(1023, *range(1024, 1536)), 9, 0),
        abi.Exchange(gfns(0), gfns(*range(1024, 1535), 1024), 9, 0),
        abi.Exchange(gfns(*range(1024, 1536)), gfns(1024), 0, 9),
        abi.Exchange(gfns(0, 0), gfns(*range(1024, 2048)), 9, 0),
        abi.Exchange(gfns(0, 1), gfns(1024)),
        abi.Exchange(gfns(0, 1), gfns(1024, 1)),
        abi.Exchange(gfns(0), gfns(1024), 3, 3),
        abi.PopulateDepopulate(gfns(1024, 1025), gfns(0)),
        abi.PopulateDepopulate(gfns(1024, 0), gfns(0, 1)),
        abi.PopulateDepopulate(gfns(), gfns(0)),
        abi.PopulateDepopulate(gfns(512), gfns(512), 9),
        abi.Store(gfns(1, 2), np.zeros(1, dtype=np.uint64)),
        abi.Store(gfns(), np.zeros(1, dtype=np.uint64)),
    ],
)
def test_sides_that_do_not_fit_are_refused(command: abi.Command) -> None:
    """Two sides of different length or order, or with a gfn in common, are EINVAL."""
    twin = Twin(4)
    domid = twin.create(2, most=4)
    result = twin.do(domid, command)

    assert isinstance(result, abi.Refused)
    assert result.errno == "EINVAL"


def test_the_longest_list_is_accepted() -> None:
    """A call may name MAX_EXTENTS extents; the machine does a turn of it."""
    twin = Twin(1)
    domid = twin.create(1, most=128)

    assert twin.decrease(domid, np.arange(abi.MAX_EXTENTS, dtype=np.int64)) == (512, "BUDGET")


def test_input_arrays_are_not_changed() -> None:
    """A command is the caller's: its arrays are as before, also when they are only to be read."""
    twin = Twin(3)
    domid = twin.create(2)
    fills, drains = gfns(5, 3), gfns(900, 901)
    fills.flags.writeable = drains.flags.writeable = False
    twin.decrease(domid, fills)
    twin.swap(domid, fills, drains)
    twin.populate(domid, drains)

    assert (fills.tolist(), drains.tolist()) == ([5, 3], [900, 901])
