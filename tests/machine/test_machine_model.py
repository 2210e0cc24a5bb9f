"""The whole machine against a model of dicts, on small hosts, with random sequences of operations."""

from dataclasses import replace

import numpy as np
import pytest

from tests.machine.twin import Twin
from xbd import abi
from xbd.abi import Frames
from xbd.errors import OutOfFrames
from xbd.machine import TODAYS_XEN, HostSettings, Machine
from xbd.units import SUPER_PAGES

SUPERFRAMES = 5
DOMIDS = (1, 2, 3)
DEFAULT = HostSettings()
SETTINGS = {
    "default": DEFAULT,
    "xen": TODAYS_XEN,
    "home by pairs only": replace(DEFAULT, home_fill="populate_depopulate"),
    "no home": replace(DEFAULT, home_fill="never"),
    "holes not kept": replace(DEFAULT, keep_holes=False),
    "no coalescing": replace(DEFAULT, coalesce=False),
    "no coalescing, no home": replace(DEFAULT, coalesce=False, home_fill="never"),
}


class Chaos:
    """Makes up random operations for a twin; the same seed gives the same run."""

    def __init__(self, settings: HostSettings, seed: int, machine: Machine | None = None) -> None:
        self.rng = np.random.default_rng(seed)
        self.twin = Twin(SUPERFRAMES, settings, machine)

    def chance(self, probability: float) -> bool:
        """Throw a coin."""
        return bool(self.rng.random() < probability)

    def step(self) -> None:
        """Do one operation."""
        domid = int(self.rng.choice(DOMIDS))
        if domid not in self.twin.model.domains:
            self.create(domid)
        elif self.chance(0.03):
            self.twin.destroy(domid)
        elif self.chance(0.02):
            self.twin.reboot(domid)
        elif self.chance(0.08):
            self.twin.set_max_pages(domid, int(self.rng.integers(1, 4)) * SUPER_PAGES - 100 * self.chance(0.5))
        else:
            self.twin.do(domid, self.command(domid))

    def create(self, domid: int) -> None:
        """Try to make a domain; it fails only for want of frames, and leaves nothing behind."""
        blocks = int(self.rng.integers(1, 3))
        gfn_count = int(self.rng.choice((3 * SUPER_PAGES, 2 * SUPER_PAGES + 300)))
        if blocks * SUPER_PAGES <= self.twin.model.free_frames():
            self.twin.create(blocks, most=3, gfn_count=gfn_count, domid=domid)
            return
        with pytest.raises(OutOfFrames):
            self.twin.create(blocks, most=3, gfn_count=gfn_count, domid=domid)
        self.twin.compare()

    def command(self, domid: int) -> abi.Command:
        """Make up a command, mostly one that can be done at least in part."""
        order = 9 if self.chance(0.3) else 0
        match int(self.rng.integers(0, 11)):
            case 0 | 1 | 2:
                return abi.Populate(self.gfns(domid, order, populated=False), order)
            case 3 | 4:
                return abi.Decrease(self.gfns(domid, order, populated=True), order)
            case 5:
                return self.exchange(domid, order)
            case 6 | 7:
                return abi.PopulateDepopulate(*self.pairs(domid, order), order)
            case 8 | 9:
                gfns = self.gfns(domid, 0, populated=True)
                return abi.Store(gfns, self.rng.integers(0, 3, gfns.size, dtype=np.uint64))
            case _:
                return abi.Load(self.gfns(domid, 0, populated=True))

    def exchange(self, domid: int, order: int) -> abi.Exchange:
        """Choose pairs, or a block to give for 512 pages, or these for it; now and then such as overlap, or too few."""
        if self.chance(0.7):
            gets, gives = self.pairs(domid, order)
            return abi.Exchange(gives, gets, order, order)
        gives_order = 9 if self.chance(0.5) else 0
        domain = self.twin.model.domains[domid]
        blocks = self.gfns(domid, 9, populated=gives_order == 9)[:1]
        fits = [gfn for gfn in range(domain.gfn_count) if (gfn in domain.p2m) == (gives_order == 0)]
        pages = self.rng.permutation(np.array(fits, dtype=np.int64))
        if not self.chance(0.05):
            pages = pages[~np.isin(pages // SUPER_PAGES, blocks // SUPER_PAGES)]
        pages = pages[: SUPER_PAGES * blocks.size]
        return abi.Exchange(blocks, pages, 9, 0) if gives_order else abi.Exchange(pages, blocks, 0, 9)

    def pairs(self, domid: int, order: int) -> tuple[Frames, Frames]:
        """Choose as many gfns to back as to unback; often at the same offsets of two blocks."""
        drains = self.gfns(domid, order, populated=True)
        if order == 0 and self.chance(0.5):
            domain = self.twin.model.domains[domid]
            fills = (drains % SUPER_PAGES) + int(self.rng.integers(0, 3)) * SUPER_PAGES
            empty = [gfn not in domain.p2m and gfn < domain.gfn_count for gfn in fills.tolist()]
            return fills[empty], drains[empty]
        fills = self.gfns(domid, order, populated=False)
        count = min(fills.size, drains.size)
        return fills[:count], drains[:count]

    def gfns(self, domid: int, order: int, *, populated: bool) -> Frames:
        """Choose extents: a run up or down, or scattered, within one block or all; now and then wrong ones."""
        domain = self.twin.model.domains[domid]
        if order:
            blocks = np.arange(domain.gfn_count // SUPER_PAGES + self.chance(0.05), dtype=np.int64)
            if not self.chance(0.15):
                wanted = SUPER_PAGES if populated else 0
                blocks = blocks[[domain.populated(block) == wanted for block in blocks.tolist()]]
            return self.rng.permutation(blocks)[: int(self.rng.integers(1, 4))] * SUPER_PAGES
        chosen = np.array([gfn for gfn in range(domain.gfn_count) if (gfn in domain.p2m) == populated], dtype=np.int64)
        if self.chance(0.7) and chosen.size:
            block = int(self.rng.choice(chosen)) // SUPER_PAGES
            chosen = chosen[chosen // SUPER_PAGES == block]
        count = int(self.rng.choice((1, 3, 60, 256, 511, 512, 600)))
        if self.chance(0.4):
            chosen = self.rng.permutation(chosen)[:count]
        else:
            first = int(self.rng.integers(0, max(chosen.size - count, 0) + 1))
            chosen = chosen[first : first + count]
        if self.chance(0.4):
            chosen = chosen[::-1].copy()
        if self.chance(0.08) and chosen.size:
            chosen[int(self.rng.integers(chosen.size))] = int(self.rng.integers(-1, domain.gfn_count + 1))
        return chosen


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", SETTINGS)
def test_random_operations(name: str, seed: int) -> None:
    """Whatever domains do, in whatever order, the machine answers and holds what the model says."""
    chaos = Chaos(SETTINGS[name], seed)
    for _ in range(60):
        chaos.step()
    for domid in list(chaos.twin.model.domains):
        chaos.twin.destroy(domid)
    assert chaos.twin.machine.statistics().free_superframes == SUPERFRAMES
