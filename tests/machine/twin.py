"""A machine and its model, doing the same and compared after each step."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.machine import model_commands, model_grants
from tests.machine.compare import assert_same
from tests.machine.model import NaiveDomain, NaiveHost
from xbd import abi
from xbd.abi import DomainType, Frames
from xbd.arrays import from_cells
from xbd.machine import HostSettings, Machine
from xbd.units import SUPER_PAGES


def gfns(*parts: int | Iterable[int]) -> NDArray[Any]:
    """Write a list of gfns: numbers and ranges."""
    spelt = [[part] if isinstance(part, int) else list(part) for part in parts]
    return np.array([gfn for part in spelt for gfn in part], dtype=np.int64)


def offsets(block: int, *parts: int | Iterable[int]) -> Frames:
    """Write a list of gfns by their offsets in a block; none: the whole block."""
    return gfns(*(parts or [range(SUPER_PAGES)])) + block * SUPER_PAGES


class Backing:
    """Which frame backs a gfn of a domain, looked up once."""

    def __init__(self, machine: Machine, domid: int) -> None:
        if domid not in machine.domains():
            self.frames: list[int] = []
            return
        p2m = machine.domain(domid).p2m
        self.frames = from_cells(p2m.lookup(gfns(range(p2m.gfn_count)))).tolist()

    def __call__(self, gfn: int) -> int:
        """Name the frame; it is there."""
        frame = self.frames[gfn]
        assert frame >= 0, f"g{gfn:#x} is not populated"
        return int(frame)


class Twin:
    """Does each operation on both and compares all that can be asked."""

    def __init__(self, superframes: int, settings: HostSettings | None = None, machine: Machine | None = None) -> None:
        self.machine = machine or Machine(superframes, settings=settings)
        self.model = NaiveHost(superframes, self.machine.settings)

    def create(
        self,
        blocks: int,
        *,
        most: int | None = None,
        gfn_count: int | None = None,
        domid: int = 1,
        domain_type: DomainType = DomainType.PVH,
    ) -> int:
        """Make a domain of *blocks* blocks that may have *most*."""
        target_pages, max_pages = blocks * SUPER_PAGES, (most or blocks) * SUPER_PAGES
        gfn_count = gfn_count or max_pages
        self.machine.create(
            f"guest {domid}",
            max_pages=max_pages,
            target_pages=target_pages,
            gfn_count=gfn_count,
            domid=domid,
            domain_type=domain_type,
        )
        domain = NaiveDomain(gfn_count, max_pages, domain_type)
        self.model.create(domid, domain, target_pages, Backing(self.machine, domid))
        self.compare()
        return domid

    def destroy(self, domid: int) -> int:
        """End a domain; returns how many of its pages others still map."""
        left = self.machine.destroy(domid)
        assert left == model_grants.destroy(self.model, domid)
        self.compare()
        return left

    def reboot(self, domid: int) -> abi.BootInfo:
        """Boot a domain again."""
        boot = self.machine.reboot(domid)
        model_grants.reboot(self.model, domid)
        self.compare()
        return boot

    def set_max_pages(self, domid: int, max_pages: int) -> None:
        """Set a cap."""
        self.machine.set_max_pages(domid, max_pages)
        self.model.domains[domid].max_pages = max_pages
        self.compare()

    def do(self, domid: int, command: abi.Command) -> abi.Result:
        """Do a command; returns the machine's answer, which is the model's."""
        result = self.machine.execute(domid, command)
        model_commands.execute(self.model, domid, command, result, Backing(self.machine, domid))
        self.compare()
        return result

    def compare(self) -> None:
        """Compare machine and model, and which zombies vanished in this step."""
        assert_same(self.machine, self.model)
        assert sorted(self.machine.take_vanished()) == sorted(self.model.vanished)
        self.model.vanished.clear()

    # -- short forms: (done, stop), or the errno of a refusal

    def answer(self, domid: int, command: abi.Command) -> tuple[int, str | None] | str:
        """Do a command; returns its answer in short."""
        result = self.do(domid, command)
        return result.errno if isinstance(result, abi.Refused) else (result.done, result.stop)

    def populate(self, domid: int, bases: Frames, order: int = 0) -> tuple[int, str | None] | str:
        """Populate extents."""
        return self.answer(domid, abi.Populate(bases, order))

    def decrease(self, domid: int, bases: Frames, order: int = 0) -> tuple[int, str | None] | str:
        """Give extents back."""
        return self.answer(domid, abi.Decrease(bases, order))

    def exchange(self, domid: int, gives: Frames, gets: Frames, order: int = 0) -> tuple[int, str | None] | str:
        """Exchange extents for others of the same order."""
        return self.answer(domid, abi.Exchange(gives, gets, order, order))

    def swap(self, domid: int, fills: Frames, drains: Frames, order: int = 0) -> tuple[int, str | None] | str:
        """Populate and depopulate pairs."""
        return self.answer(domid, abi.PopulateDepopulate(fills, drains, order))

    def store(self, domid: int, bases: Frames, word: int = 7) -> tuple[int, str | None] | str:
        """Write the same word to each page."""
        return self.answer(domid, abi.Store(bases, np.full(bases.size, word, dtype=np.uint64)))

    def load(self, domid: int, bases: Frames) -> list[int]:
        """Read words."""
        result = self.do(domid, abi.Load(bases))
        assert isinstance(result, abi.LoadResult)
        return [int(word) for word in result.words]

    def grant(self, domid: int, bases: Frames, to: int, *, readonly: bool = False) -> Frames:
        """Grant pages; returns their references."""
        result = self.do(domid, abi.Grant(bases, to, readonly))
        assert isinstance(result, abi.GrantResult), result
        return result.refs

    def end_grant(self, domid: int, refs: Frames) -> tuple[int, str | None] | str:
        """End grants."""
        return self.answer(domid, abi.EndGrant(refs))

    def map_grant(
        self, domid: int, owner: int, refs: Frames, slots: Frames, *, readonly: bool = False
    ) -> tuple[int, str | None] | str:
        """Map grants at slots."""
        return self.answer(domid, abi.MapGrant(owner, refs, slots, readonly))

    def unmap_grant(self, domid: int, slots: Frames) -> tuple[int, str | None] | str:
        """End mappings."""
        return self.answer(domid, abi.UnmapGrant(slots))

    def share(self, owner: int, bases: Frames, to: int, slots: Frames, *, readonly: bool = False) -> Frames:
        """Grant pages and map them at slots of the other domain; returns the references."""
        refs = self.grant(owner, bases, to, readonly=readonly)
        assert self.map_grant(to, owner, refs, slots, readonly=readonly) == (refs.size, None)
        return refs

    def frames(self, domid: int, bases: NDArray[Any]) -> list[int]:
        """Name the frames behind gfns; -1 where there is none."""
        frames: list[int] = from_cells(self.machine.domain(domid).p2m.lookup(bases)).tolist()
        return frames

    def leaves(self, domid: int) -> int:
        """Count a domain's leaves."""
        return self.machine.domain_info(domid).leaves

    def home(self, domid: int, block: int) -> int:
        """Name the home of a block; -1 where it has none."""
        return int(self.machine.domain(domid).p2m.home[block]) - 1
