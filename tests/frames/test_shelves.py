"""Shelves whose buckets follow late, against ones that move each superframe as soon as it is filed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.frames.model import indexes
from xbd.frames import Source, shelves
from xbd.frames.shelves import Shelves

_SUPERS = 6
MOVE = st.tuples(st.integers(0, _SUPERS - 1), st.sampled_from([0, 1, 2, 511, 513, 1023]))
# One filing, or how many superframes are looked for.
STEPS = st.lists(st.one_of(st.lists(MOVE, min_size=1, max_size=8), st.integers(1, 3)), max_size=40)


def _file_at_once(buckets: dict[int, dict[int, None]], moves: list[tuple[int, int]]) -> None:
    """Do in plain Python what filing means: who moves leaves its bucket, and is the youngest of the other."""
    where = {superframe: number for number, bucket in buckets.items() for superframe in bucket}
    for superframe, number in moves:
        if where.get(superframe, 0) != number:
            buckets.get(where.get(superframe, 0), {}).pop(superframe, None)
            if number:
                buckets.setdefault(number, {})[superframe] = None


@pytest.mark.parametrize("behind_max", [1, 5, 1000])
@given(steps=STEPS)
def test_the_same_is_found_however_late_buckets_follow(
    behind_max: int, steps: list[list[tuple[int, int]] | int]
) -> None:
    """After any filings between two looks, each bucket names the same superframes in the same order."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shelves, "_BEHIND_MAX", behind_max)
        late = Shelves(_SUPERS)
        at_once: dict[int, dict[int, None]] = {}
        for step in [*steps, 1]:
            if isinstance(step, list):
                # Named twice in one filing it has one count.
                counts = dict(step)
                moves = [(superframe, counts[superframe]) for superframe, _ in step]
                late.file(indexes(*(move[0] for move in moves)), indexes(*(move[1] for move in moves)))
                _file_at_once(at_once, moves)
                continue
            for shelf in (0, 1):
                found = [late.pick(Source(shelf, fewest), 10_000, below=None) for fewest in (True, False)]
                numbers = sorted(number for number in at_once if number // 512 == shelf)
                expected = [[s for number in order for s in at_once[number]] for order in (numbers, numbers[::-1])]
                assert found == expected
            assert late.check() == []


def test_moves_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often superframes move while nobody looks, what waits is no more than twice what there are, or the least."""
    monkeypatch.setattr(shelves, "_BEHIND_MAX", 10)
    late = Shelves(16)
    for turn in range(200):
        late.file(np.arange(16), np.full(16, turn % 2 + 1))

    assert sum(batch.size for batch in late._came) <= 3 * 16
    assert late.pick(Source(0), 1, below=None) == [0]
