"""Index arithmetic of superframes, against plain Python."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.frames.model import indexes
from xbd.frames import expand_supers, group_by_super, sparse_zeros
from xbd.units import SUPER_PAGES

NEAR = st.integers(0, 5 * SUPER_PAGES)
FAR = st.integers(0, 1 << 40)


@given(st.lists(st.one_of(NEAR, FAR), min_size=1, max_size=60))
def test_groups_count_every_frame(frames: list[int]) -> None:
    """Any batch, in any order, is grouped by superframe, each named once."""
    batch = np.array(frames, dtype=np.int64)
    for of in (None, (max(frames) >> 9) + 1):
        supers, counts = group_by_super(batch, of=of)

        assert len(set(supers.tolist())) == supers.size
        named = dict(zip(supers.tolist(), counts.tolist(), strict=True))
        assert named == Counter(frame // SUPER_PAGES for frame in frames)


@given(runs=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 60)), min_size=1, max_size=12), down=st.booleans())
def test_groups_of_runs(runs: list[tuple[int, int]], *, down: bool) -> None:
    """Batches of long runs, which come back to the same superframe or do not, are grouped as well."""
    frames = [superframe * SUPER_PAGES + i for superframe, length in runs for i in range(length)]
    if down:
        frames.reverse()
    supers, counts = group_by_super(np.array(frames, dtype=np.int64))

    assert len(set(supers.tolist())) == supers.size
    assert dict(zip(supers.tolist(), counts.tolist(), strict=True)) == Counter(frame // SUPER_PAGES for frame in frames)


@given(st.lists(st.integers(0, 1 << 31), unique=True, max_size=20))
def test_grouping_undoes_expanding(supers: list[int]) -> None:
    """Superframes spelt out as frames group to themselves, 512 each."""
    frames = expand_supers(indexes(*supers))

    assert frames.tolist() == [superframe * SUPER_PAGES + i for superframe in supers for i in range(SUPER_PAGES)]
    if supers:
        groups, counts = group_by_super(frames)
        assert sorted(groups.tolist()) == sorted(supers)
        assert set(counts.tolist()) == {SUPER_PAGES}


@pytest.mark.parametrize("dtype", [np.bool_, np.uint16, np.int64, np.uint64])
@pytest.mark.parametrize("count", [0, 1, 513])
def test_sparse_zeros_are_zeros_that_can_be_written(count: int, dtype: type) -> None:
    """Sparse arrays behave as numpy's own."""
    array = sparse_zeros(count, dtype)

    assert array.shape == (count,)
    assert array.dtype == dtype
    assert not array.any()
    array[:] = 1
    assert array.all()
