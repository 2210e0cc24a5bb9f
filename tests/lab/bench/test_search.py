"""The search for the largest load that is carried."""

import math

import pytest

from xbd.lab.bench.search import FINENESS, largest_carried

FIRST, MOST = 256, 16384


@pytest.mark.parametrize("capacity", [0, 1, 31, 32, 255, 256, 257, 500, 512, 1500, 1793, 5000, 16383, 16384, 10**6])
async def test_it_closes_in_on_what_is_carried(capacity: int) -> None:
    """Within an eighth, in no more steps than it says; what was carried at the most is told when all was."""
    tried: list[int] = []

    async def carries(load: int) -> bool:
        tried.append(load)
        return load <= capacity

    carried, too_much = await largest_carried(carries, FIRST, MOST)
    assert carried <= capacity
    assert len(tried) == len(set(tried)) <= math.log2(MOST / FIRST) + 1 + 3
    if capacity >= MOST:
        assert (carried, too_much) == (MOST, MOST)
    else:
        assert capacity < too_much <= carried + max(carried, FIRST) * FINENESS
