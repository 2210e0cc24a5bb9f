"""The map of a host's frames, held against a count frame by frame."""

from collections import Counter

import numpy as np
import pytest

from xbd.abi import Decrease, Populate
from xbd.machine import Machine
from xbd.machine.frame_map import FREE, SHATTERED, WHOLE
from xbd.units import SUPER_PAGES


@pytest.mark.parametrize("seed", range(8))
def test_the_map_is_what_the_frames_are(seed: int) -> None:
    """After random holes in several domains each superframe is of the kind, the owner and the use that its frames say."""
    rng = np.random.default_rng(seed)
    machine = Machine(24)
    for number in range(3):
        domid = machine.create(f"d{number}", max_pages=6 * SUPER_PAGES, target_pages=6 * SUPER_PAGES)
        machine.execute(domid, Decrease(rng.permutation(6 * SUPER_PAGES)[: rng.integers(1, 1500)].astype(np.int64)))
        machine.execute(domid, Populate(rng.permutation(6 * SUPER_PAGES)[:100].astype(np.int64)))
    drawn, owners = machine.frame_map(), machine.host.owners().reshape(-1, SUPER_PAGES)

    for superframe, row in enumerate(owners.tolist()):
        counts = Counter(owner for owner in row if owner)
        assert drawn.used[superframe] == counts.total()
        assert counts[int(drawn.owner[superframe])] == max(counts.values(), default=0)
        kind = FREE if not counts else WHOLE if machine.host.whole_owner[superframe] else SHATTERED
        assert drawn.kind[superframe] == kind


def test_an_empty_host_is_free() -> None:
    """No superframe has an owner or is used."""
    drawn = Machine(3).frame_map()

    assert (drawn.kind.tolist(), drawn.owner.tolist(), drawn.used.tolist()) == ([FREE] * 3, [0] * 3, [0] * 3)
