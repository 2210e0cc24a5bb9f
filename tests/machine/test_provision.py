"""What a step reserves before it begins is never less than what it takes; what cannot be reserved is refused."""

import numpy as np
import pytest

from xbd.abi import Decrease, Frames, Grant, GrantResult, MapGrant, Send
from xbd.abi import Store as StoreWords
from xbd.errors import OutOfResources
from xbd.machine import Machine
from xbd.storage.image import Image
from xbd.storage.memory import MemoryStore
from xbd.storage.undo import Undo

PAGES = 2048
DOMAINS = 4


class CountingUndo(Undo):
    """An undo log that remembers the most that was reserved in it, and may be full."""

    reserved_words = 0
    is_full = False

    def reserve(self, words: int) -> None:
        """Remember it."""
        if self.is_full:
            raise OSError(28, "No space left on device")
        self.reserved_words = max(self.reserved_words, words)
        super().reserve(words)


def machine_of(seed: int) -> tuple[Machine, CountingUndo]:
    """Make domains that have written, given pages up, granted, mapped and sent at random."""
    store = MemoryStore()
    undo = store.undo = CountingUndo(store._log, store._grow)
    machine = Machine(64, image=Image(store))
    rng = np.random.default_rng(seed)
    domids = [machine.create(f"d{n}", max_pages=2 * PAGES, target_pages=PAGES) for n in range(DOMAINS)]
    machine.commit()

    def some(most: int) -> Frames:
        gfns: Frames = np.sort(rng.choice(PAGES, int(rng.integers(1, most)), replace=False)).astype(np.int64)
        return gfns

    for _ in range(60):
        one, other = (int(domid) for domid in rng.choice(domids, 2, replace=False))
        written = some(400)
        machine.execute(one, StoreWords(written, np.full(written.size, 7, dtype=np.uint64)))
        machine.execute(one, Send(other, np.arange(3, dtype=np.uint64)))
        if rng.random() < 0.5:
            machine.execute(one, Decrease(some(40)))
        granted = machine.execute(one, Grant(some(60), other))
        if isinstance(granted, GrantResult) and granted.refs.size:
            at = PAGES + rng.choice(PAGES, granted.refs.size, replace=False).astype(np.int64)
            machine.execute(other, MapGrant(one, granted.refs, at))
        machine.commit()
    assert machine.audit() == []
    return machine, undo


@pytest.mark.parametrize("seed", range(4))
def test_the_end_and_the_reboot_of_domains_stay_within_what_they_reserve(seed: int) -> None:
    """One after the other reboots and is destroyed, some while others map its pages: no note goes beyond the bound."""
    machine, undo = machine_of(seed)
    for domid in machine.domains():
        for step in (machine.reboot, machine.destroy):
            undo.reserved_words = 0
            step(domid)
            assert 0 < undo.noted_words <= undo.reserved_words
            machine.commit()
    assert machine.audit() == []


def test_without_room_for_notes_nothing_is_done() -> None:
    """A create, a reboot and a destroy are refused with a sentence, and the machine is as it was."""
    machine, undo = machine_of(0)
    before = machine.statistics()
    undo.is_full = True
    for step in (
        lambda: machine.create("more", max_pages=512, target_pages=512),
        lambda: machine.reboot(1),
        lambda: machine.destroy(1),
    ):
        with pytest.raises(OutOfResources, match="disk of the state directory is full") as refused:
            step()
        assert refused.value.errno == "ENOSPC"
        assert undo.noted_words == 0
    undo.is_full = False
    assert machine.statistics() == before
    assert machine.audit() == []
    assert machine.create("more", max_pages=512, target_pages=512) == DOMAINS + 1
