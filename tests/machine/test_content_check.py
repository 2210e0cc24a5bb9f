"""The checks of content words."""

import numpy as np

from xbd.machine.content_check import checks_of


def test_no_flipped_bit_keeps_a_check() -> None:
    """Of any word, each of its 64 flips has another check, and a word of zeros has the check of a hole."""
    words = np.random.default_rng(1).integers(0, 1 << 64, 500, dtype=np.uint64)
    words[:3] = (0, 1, (1 << 64) - 1)
    for bit in range(64):
        assert (checks_of(words ^ np.uint64(1 << bit)) != checks_of(words)).all()
    assert checks_of(words[:1]).tolist() == [0]
