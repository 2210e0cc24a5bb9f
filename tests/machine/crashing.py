"""A machine that rehearses a crash before each step: a copy crashes in the middle of the step, and is recovered."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from xbd import abi
from xbd.errors import HypercallError
from xbd.machine import HostSettings, Machine
from xbd.machine.recovery import recover
from xbd.storage.image import Image
from xbd.storage.memory import Crash, MemoryStore


def assert_same_state(one: Machine, other: Machine) -> None:
    """Compare two machines array by array, saved and derived, and counter by counter."""
    arrays, others = one.image.arrays, other.image.arrays
    assert arrays.keys() == others.keys()
    for name, array in arrays.items():
        if name == "host.written":
            # "May be other than 0": what is recovered knows better.
            assert not (others[name] & ~array).any()
        else:
            assert np.array_equal(array, others[name]), f"{name} differs"
    assert (one.statistics(), one.settings) == (other.statistics(), other.settings)
    assert (one.host.heap.free_count == other.host.heap.free_count).all()
    assert one.domain_table.births == other.domain_table.births
    for domid in one.domains():
        assert one.domain_info(domid) == other.domain_info(domid)
        mine, theirs = one.domain(domid), other.domain(domid)
        assert (mine.birth, mine.features, mine.referenced) == (theirs.birth, theirs.features, theirs.referenced)
        if mine.inbox is not None:
            shares = theirs.inbox.shares if theirs.inbox is not None else {}
            assert mine.inbox.shares == shares


def assert_same_sections(one: MemoryStore, other: MemoryStore) -> None:
    """Compare what two stores keep, word for word."""
    assert one.kept() == other.kept()
    for key in one.kept():
        assert np.array_equal(one.open(*key)[1], other.open(*key)[1]), f"section {key} differs"


class CrashingMachine(Machine):
    """Before each step a copy, recovered from what is saved, begins the same step and crashes at a random undo note."""

    def __init__(self, superframes: int, settings: HostSettings | None, seed: int) -> None:
        self.store = MemoryStore()
        self._rng = np.random.default_rng(seed)
        self.deaths = 0
        super().__init__(superframes, settings=settings, image=Image(self.store))
        self.commit()

    def _rehearse(self, step: Callable[[Machine], Any]) -> None:
        copy = self.store.copy()
        victim = recover(copy)
        assert_same_state(self, victim)
        copy.crash_after(int(self._rng.integers(1, 7)))
        with suppress(HypercallError):
            try:
                step(victim)
            except Crash:
                self.deaths += 1
        copy.roll_back()
        # What counts the mappings of a grant is derived, though it lies among what is saved.
        recover(copy).image.sweep()
        assert_same_sections(self.store, copy)

    def execute(self, domid: int, command: abi.Command) -> abi.Result:
        """Do one turn of a command, after the rehearsal."""
        self._rehearse(lambda machine: machine.execute(domid, command))
        result = super().execute(domid, command)
        self.commit()
        return result

    def create(self, name: str, **parameters: Any) -> int:  # noqa: ANN401 - as Machine's own
        """Make a domain, after the rehearsal."""
        self._rehearse(lambda machine: machine.create(name, **parameters))
        domid = super().create(name, **parameters)
        self.commit()
        return domid

    def destroy(self, domid: int) -> int:
        """End a domain, after the rehearsal."""
        self._rehearse(lambda machine: machine.destroy(domid))
        left = super().destroy(domid)
        self.commit()
        return left

    def reboot(self, domid: int, contacts: abi.Frames | None = None) -> abi.BootInfo:
        """Boot a domain again, after the rehearsal."""
        self._rehearse(lambda machine: machine.reboot(domid))
        boot = super().reboot(domid, contacts)
        self.commit()
        return boot

    def set_max_pages(self, domid: int, max_pages: int) -> None:
        """Set a cap, after the rehearsal."""
        self._rehearse(lambda machine: machine.set_max_pages(domid, max_pages))
        super().set_max_pages(domid, max_pages)
        self.commit()
