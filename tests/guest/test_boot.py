"""The first state of each page, from a booting guest's map."""

import numpy as np
import pytest

from xbd.guest.boot import lay_out
from xbd.units import SUPER_PAGES


def naive_split(populated: set[int], gfn_count: int) -> tuple[set[int], set[int]]:
    """Split gfns into wholly covered blocks and the other pages, one by one."""
    blocks = {
        block
        for block in range(gfn_count // SUPER_PAGES)
        if populated.issuperset(range(block * SUPER_PAGES, (block + 1) * SUPER_PAGES))
    }
    return blocks, {gfn for gfn in populated if gfn // SUPER_PAGES not in blocks}


@pytest.mark.parametrize("gfn_count", [1, 511, 512, 513, 1024, 2561])
@pytest.mark.parametrize("seed", range(5))
def test_every_gfn_is_laid_out_once(gfn_count: int, seed: int) -> None:
    """Random runs and the gaps between them come out as a naive walk splits them."""
    rng = np.random.default_rng(seed)
    cuts = np.unique(rng.integers(0, gfn_count + 1, size=2 * int(rng.integers(1, 6))))
    runs = cuts[: cuts.size // 2 * 2].reshape(-1, 2)
    populated = {gfn for first, end in runs.tolist() for gfn in range(first, end)}
    laid_out = lay_out(runs, gfn_count)
    blocks, pages = naive_split(populated, gfn_count)
    assert set(laid_out.populated_blocks.tolist()) == blocks
    assert laid_out.populated_pages.tolist() == sorted(pages)
    blocks, pages = naive_split(set(range(gfn_count)) - populated, gfn_count)
    assert set(laid_out.balloon_blocks.tolist()) == blocks
    assert laid_out.balloon_pages.tolist() == sorted(pages)
    assert laid_out.populated == len(populated)


def test_a_run_beyond_the_last_gfn_is_a_broken_invariant() -> None:
    """A map that does not fit the guest is not taken."""
    with pytest.raises(AssertionError, match="beyond the last gfn"):
        lay_out(np.array([[0, 513]]), 512)


def test_adjacent_runs_still_make_whole_blocks_usable() -> None:
    """Two runs that meet inside a block come out as pages, which the zone merges when they are freed."""
    laid_out = lay_out(np.array([[0, 100], [100, 1024]]), 1024)
    assert laid_out.populated == 1024
    assert laid_out.balloon_blocks.size == laid_out.balloon_pages.size == 0
