"""Domains that share pages, against the model: random sequences of all that can befall grants and mappings.

What a step's numbers mean depends on the state, so that most steps can be done at least in part; those
of a failing sequence can still be left out one by one. `pytest --hypothesis-show-statistics` says how
often each of the rare states was reached.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
from hypothesis import event, given, settings
from hypothesis import strategies as st

from tests.machine.twin import Twin
from xbd import abi
from xbd.abi import DomainType, Frames
from xbd.machine import TODAYS_XEN, HostSettings, Machine
from xbd.units import SUPER_PAGES

BLOCKS = 3
DEFAULT = HostSettings()
HOSTS = (DEFAULT, TODAYS_XEN, replace(DEFAULT, coalesce=False), replace(DEFAULT, home_fill="never"))
TYPES = (DomainType.PVH, DomainType.PV, DomainType.PVH, DomainType.VIRTIO)


@dataclass(frozen=True)
class Step:
    """What to do, who does it, with whom; where in what is there to choose from; how much; something unusual?"""

    kind: str
    who: int
    whom: int
    where: int
    count: int
    odd: bool


class Play:
    """Carries steps out on a machine and its model."""

    def __init__(
        self, superframes: int, host: HostSettings, types: tuple[DomainType, ...], machine: Machine | None = None
    ) -> None:
        self.twin = Twin(superframes, host, machine)
        self.types = types
        self.model = self.twin.model

    def step(self, step: Step) -> None:
        """Do one step; on a domain that is not there, make it."""
        if step.kind in ("destroy", "reboot") and not step.odd:
            step = replace(step, who=self._owner_in_use(step))
        domain = self.model.domains.get(step.who)
        if domain is None:
            self._create(step)
        elif domain.zombie:
            assert self.twin.answer(step.who, abi.Decrease(_gfns(domain.p2m))) == "ESRCH"
        elif step.kind == "destroy":
            self.twin.destroy(step.who)
        elif step.kind == "reboot":
            self.twin.reboot(step.who)
        elif step.kind == "share":
            self._command(replace(step, kind="grant"))
            self._command(replace(step, kind="map", who=self._partner(step), whom=step.who))
        else:
            self._command(step)
        self._tell_what_is_reached()

    def _owner_in_use(self, step: Step) -> int:
        """Name a domain that others map pages of; failing that, the one that the step names."""
        owners = [
            slot.owner
            for domain in self.model.domains.values()
            for slot in domain.slots.values()
            if slot.frame is not None and not self.model.domains[slot.owner].zombie
        ]
        return owners[step.where % len(owners)] if owners else step.who

    def _create(self, step: Step) -> None:
        blocks = 1 + step.odd
        if blocks * SUPER_PAGES <= self.model.free_frames():
            domain_type = self.types[step.who - 1]
            gfn_count = BLOCKS * SUPER_PAGES - 200 * (step.where % 2)
            self.twin.create(blocks, most=BLOCKS, gfn_count=gfn_count, domid=step.who, domain_type=domain_type)

    def _command(self, step: Step) -> None:
        makers: dict[str, Callable[[Step], abi.Command]] = {
            "grant": self._grant,
            "map": self._map,
            "unmap": lambda step: abi.UnmapGrant(_some(self.model.domains[step.who].slots, step, 0)),
            "end": lambda step: abi.EndGrant(_some(self.model.domains[step.who].grants, step, 7)),
            "access": self._access,
        }
        command = makers.get(step.kind, self._change)(step)
        result = self.twin.do(step.who, command)
        why = result.errno if isinstance(result, abi.Refused) else result.stop
        event(f"{type(command).__name__}: {why or 'done'}")

    def _grant(self, step: Step) -> abi.Command:
        to = step.whom if step.odd else self._partner(step)
        return abi.Grant(_some(self.model.domains[step.who].p2m, step, 600), to, step.where % 3 == 0)

    def _partner(self, step: Step) -> int:
        """Name a domain to share with: the one named or the next that lives and has grants; failing that, oneself."""
        living = [
            domid
            for domid, domain in sorted(self.model.domains.items())
            if domid != step.who and not domain.zombie and domain.domain_type is not DomainType.VIRTIO
        ]
        return living[step.whom % len(living)] if living else step.who

    def _map(self, step: Step) -> abi.Command:
        """Map what somebody granted to this domain; oddly: all that the one named has granted, to whomever."""
        domain, owner = self.model.domains[step.who], step.whom
        granters = [
            domid
            for domid, other in self.model.domains.items()
            if not other.zombie and any(grant.to is domain for grant in other.grants.values())
        ]
        if granters and not step.odd:
            owner = granters[step.where % len(granters)]
        grants = self.model.domains[owner].grants if owner in self.model.domains else {}
        refs = _some([ref for ref, grant in grants.items() if step.odd or grant.to is domain], step, 9)
        gfns = _some(self._unbacked(step.who), step, 600)
        count = max(min(refs.size, gfns.size), 1)
        if not refs.size or not gfns.size:
            refs = gfns = _gfns([step.where % domain.gfn_count])
        return abi.MapGrant(owner, refs[:count], gfns[:count], step.where % 2 == 0)

    def _access(self, step: Step) -> abi.Command:
        domain = self.model.domains[step.who]
        gfns = _some(domain.p2m if step.odd else [*domain.slots, *list(domain.p2m)[:5]], step, 700)
        if step.where % 2:
            return abi.Load(gfns)
        return abi.Store(gfns, np.full(gfns.size, step.where % 5, dtype=np.uint64))

    def _change(self, step: Step) -> abi.Command:
        """Change what a domain holds; oddly with 2 MiB extents."""
        order, p2m = 9 * step.odd, self.model.domains[step.who].p2m
        backed, unbacked = _some(p2m, step, 600), _some(self._unbacked(step.who), step, 600)
        if order:
            rest = self.model.domains[step.who].gfn_count // SUPER_PAGES
            blocks = np.roll(np.arange(rest, dtype=np.int64), step.where) * SUPER_PAGES
            full = [block // SUPER_PAGES in self.model.domains[step.who].leaves for block in blocks.tolist()]
            backed = blocks[full] if any(full) else blocks
            unbacked = np.setdiff1d(blocks, backed) if any(full) else blocks
        pairs = slice(min(backed.size, unbacked.size))
        virtio = self.model.domains[step.who].domain_type is DomainType.VIRTIO and step.where % 7
        match step.kind:
            case "populate":
                return (abi.Deflate if virtio else abi.Populate)(unbacked, order)
            case "decrease":
                return (abi.Inflate if virtio else abi.Decrease)(backed, order)
            case "exchange":
                return abi.Exchange(backed[pairs], unbacked[pairs], order, order)
        assert step.kind == "swap"
        return abi.PopulateDepopulate(unbacked[pairs], backed[pairs], order)

    def _unbacked(self, domid: int) -> list[int]:
        """List the gfns that nothing backs, slots in use included, from the top."""
        domain = self.model.domains[domid]
        return [gfn for gfn in range(domain.gfn_count - 1, -1, -1) if gfn not in domain.p2m]

    def _tell_what_is_reached(self) -> None:
        """Note the states that are rare."""
        references = self.model.references()
        slots = [slot for domain in self.model.domains.values() for slot in domain.slots.values()]
        if any(slot.frame is None for slot in slots):
            event("state: a mapping that was cut off")
        if any(count > 1 for count in references.values()):
            event("state: a frame that is mapped more than once")
        for domain in self.model.domains.values():
            if domain.zombie:
                event("state: a zombie")
            if domain.zombie and domain.leaves:
                event("state: a zombie with a leaf")
            if any(domain.p2m[block * SUPER_PAGES] in references for block in domain.leaves):
                event("state: a referenced leaf")


def _gfns(numbers: Iterable[int]) -> Frames:
    return np.array(list(numbers), dtype=np.int64)


def _some(candidates: Iterable[int], step: Step, stray: int) -> Frames:
    """Choose as many as the step says, in a row from where it says; now and then one that is none of them among them."""
    chosen = _gfns(candidates)
    first = step.where % max(chosen.size, 1)
    chosen = chosen[first : first + step.count]
    if step.odd and step.where % 4 == 3 and stray not in chosen:
        chosen = np.insert(chosen, chosen.size // 2, stray)
    return chosen


KINDS = (
    *("share",) * 4,
    *("map",) * 2,
    *("end",) * 2,
    *("access",) * 3,
    *("destroy", "reboot") * 2,
    *("grant", "unmap", "populate", "decrease", "exchange", "swap"),
)
STEPS = st.builds(
    Step,
    kind=st.sampled_from(KINDS),
    who=st.integers(1, 4),
    whom=st.integers(1, 4),
    where=st.sampled_from((0, 0, 1, 2, 3, 5, 511, 512, 700)),
    count=st.sampled_from((1, 2, 40, 512, 511, 513)),
    odd=st.booleans(),
)


@settings(max_examples=20)
@given(
    superframes=st.integers(4, 8),
    host=st.sampled_from(HOSTS),
    types=st.sampled_from((TYPES, (DomainType.PVH,) * 4)),
    steps=st.lists(STEPS, min_size=25, max_size=40),
)
def test_sharing_at_random(
    superframes: int, host: HostSettings, types: tuple[DomainType, ...], steps: list[Step]
) -> None:
    """Whatever domains grant, map, give up and outlive, the machine answers and holds what the model says."""
    play = Play(superframes, host, types)
    for who in (1, 2, 3):
        play.step(Step("create", who, who, 0, 1, odd=False))
    for step in steps:
        play.step(step)

    for domid in play.twin.machine.living_domains():
        play.twin.destroy(domid)
    assert play.twin.machine.domains() == []
    assert play.twin.machine.statistics().free_superframes == superframes
