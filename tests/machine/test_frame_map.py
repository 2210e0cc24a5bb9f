"""The map of a host's frames, held against a count frame by frame."""

from collections import Counter

import numpy as np
import pytest

from tests.machine.twin import gfns
from xbd.abi import Decrease, Populate
from xbd.errors import BadArgument
from xbd.machine import Machine
from xbd.machine.frame_map import FREE, SHATTERED, WHOLE, block_map, superframe_owners
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
        assert superframe_owners(machine.host, superframe).tolist() == row


@pytest.mark.parametrize("seed", range(4))
def test_the_map_of_a_domain_is_what_its_entries_are(seed: int) -> None:
    """After random holes each block of a domain is of the kind, and has the populated gfns, that its p2m says, entry by entry."""
    rng = np.random.default_rng(seed)
    machine = Machine(8)
    domid = machine.create("d", max_pages=6 * SUPER_PAGES, target_pages=5 * SUPER_PAGES)
    machine.execute(domid, Decrease(rng.permutation(2 * SUPER_PAGES)[:700].astype(np.int64)))
    machine.execute(domid, Decrease(np.array([4 * SUPER_PAGES], dtype=np.int64), order=9))
    domain = machine.domain(domid)
    drawn = block_map(domain)

    entries = domain.p2m.lookup(gfns(range(domain.p2m.gfn_count)))
    for block in range(drawn.kind.size):
        populated = int(np.count_nonzero(entries[block * SUPER_PAGES : (block + 1) * SUPER_PAGES] > 0))
        kind = WHOLE if domain.p2m.leaf[block] else SHATTERED if populated else FREE
        assert (drawn.kind[block], drawn.populated[block], drawn.slots[block]) == (kind, populated, 0)


def test_a_superframe_that_there_is_not_is_refused() -> None:
    """The sentence says which ones there are."""
    with pytest.raises(BadArgument, match=r"no superframe 3.*0 to 2"):
        superframe_owners(Machine(3).host, 3)


def test_an_empty_host_is_free() -> None:
    """No superframe has an owner or is used."""
    drawn = Machine(3).frame_map()

    assert (drawn.kind.tolist(), drawn.owner.tolist(), drawn.used.tolist()) == ([FREE] * 3, [0] * 3, [0] * 3)
