"""A search for the largest load that is still carried, in a number of steps that is known beforehand."""

from collections.abc import Awaitable, Callable
from typing import Final

# The search ends when what is carried and what is not are this share of what is carried apart.
FINENESS: Final = 1 / 8


async def largest_carried(carries: Callable[[int], Awaitable[bool]], first: int, most: int) -> tuple[int, int]:
    """Find how much is carried: it is doubled from *first* until it is too much, and then the gap is halved.

    From *first* to *most* that are log2(most / first) + 1 steps at most, and three more to halve the gap.

    Args:
        carries: tries one load, and tells whether it is carried.
        first: the load to begin with, a multiple of 8.
        most: no larger one is tried.

    Returns:
        The largest load that was carried (0: none), and the smallest larger one that was not; where that is as large: *most*
        was carried.
    """
    carried, too_much, load = 0, 0, first
    while not too_much and load <= most:
        if await carries(load):
            carried, load = load, 2 * load
        else:
            too_much = load
    least_gap = int(max(carried, first) * FINENESS)
    while too_much - carried > least_gap:
        middle = (carried + too_much) // 2
        if await carries(middle):
            carried = middle
        else:
            too_much = middle
    return carried, max(carried, too_much)
