"""Helpers for the arrays that travel between guests and hypervisor."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xbd.arrays import repeats


@given(numbers=st.lists(st.integers(0, 9), max_size=6))
@pytest.mark.parametrize("dtype", [np.int64, np.uint32])
def test_repeats_are_found_in_any_order(dtype: type[np.integer], numbers: list[int]) -> None:
    """Also in unsigned numbers, whose differences are never negative."""
    found = repeats(np.array(numbers, dtype)).tolist()
    assert set(found) == {number for number in numbers if numbers.count(number) > 1}
    assert found == sorted(found)
