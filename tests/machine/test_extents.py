"""What is told of a batch without a look at each of its pages is what such a look would tell."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xbd.errors import BadArgument
from xbd.frames import group_by_super
from xbd.machine import Machine
from xbd.machine.extents import check_extents

_STEPS = st.sampled_from([1, -1, 2, 3, 511, 512, 513, -512])
_PROGRESSIONS = st.builds(
    lambda first, step, size: [first + step * index for index in range(size)],
    st.integers(-3, 2050),
    _STEPS,
    st.integers(1, 513),
)
_LISTS = st.one_of(_PROGRESSIONS, st.lists(st.integers(-1, 2049), min_size=1, max_size=9))


@given(_LISTS, st.integers(0, 600), st.integers(-1, 1))
def test_a_list_is_let_in_if_each_page_is_inside_and_named_once(gfns: list[int], at: int, change: int) -> None:
    """Lists that are progressions, nearly, and not at all; the superpages that are told hold them all."""
    if at < len(gfns):
        gfns[at] += change
    machine = Machine(8)
    domain = machine.domain(machine.create("web", max_pages=2048, target_pages=512))
    array = np.array(gfns, dtype=np.int64)
    if len(set(gfns)) < len(gfns) or min(gfns) < 0 or max(gfns) >= 2048:
        with pytest.raises(BadArgument):
            check_extents(array, 0, domain)
        return
    let_in, within = check_extents(array, 0, domain)
    assert let_in.tolist() == gfns
    assert len({gfn >> 9 for gfn in gfns}) <= within <= len(gfns)
    known, looked_at = (
        dict(zip(*(part.tolist() for part in groups), strict=True))
        for groups in (group_by_super(array, within), group_by_super(array))
    )
    assert known == looked_at
