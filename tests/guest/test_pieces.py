"""Free pieces by order, against a plain search."""

import numpy as np
import pytest
from numpy.typing import NDArray

from xbd.guest.pieces import FreePieces
from xbd.units import SUPER_ORDER, SUPER_PAGES


def orders_of(free: NDArray[np.bool_]) -> list[int]:
    """Say for each page of a block the order of the largest free aligned piece around it, -1 for a used one."""
    orders = []
    for page in range(SUPER_PAGES):
        order = -1
        while order < SUPER_ORDER:
            first = page >> (order + 1) << (order + 1)
            if not free[first : first + (1 << order + 1)].all():
                break
            order += 1
        orders.append(order)
    return orders


@pytest.mark.parametrize("seed", range(4))
def test_rows_and_choices_are_those_of_a_plain_search(seed: int) -> None:
    """Pages by order are counted, and chosen smallest pieces first, as one page at a time would."""
    rng = np.random.default_rng(seed)
    # Used runs of several lengths and numbers, so that there are pieces of all orders.
    states = np.zeros((6, SUPER_PAGES), dtype=np.uint8)
    for row, uses in enumerate((1, 3, 8, 20, 60, 200)):
        for first, order in zip(rng.integers(SUPER_PAGES, size=uses), rng.integers(4, size=uses), strict=True):
            states[row, first : first + (1 << order)] = 1
    pieces = FreePieces(states)
    blocks = np.arange(6)
    pieces.note(blocks)
    pieces.count(np.ones(6, dtype=np.bool_))
    orders = np.array([orders_of(row == 0) for row in states])
    for order in range(SUPER_ORDER):
        assert pieces.pages[:, order].tolist() == ((orders == order).sum(axis=1)).tolist()

    flat = orders.reshape(-1)
    for count in (1, 7, 511, 513, int((flat >= 0).sum()), SUPER_PAGES * 6):
        found = pieces.find(count, blocks, rng)
        expected = np.sort(flat[flat >= 0])[:count]
        assert np.unique(found).size == found.size == expected.size
        assert np.sort(flat[found]).tolist() == expected.tolist()
