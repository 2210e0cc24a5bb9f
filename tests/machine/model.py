"""What a machine must do, said with dicts and sets, one page after the other.

The model decides everything itself but one thing: which free frame the heap chose, which it reads
back from the real machine (`Backing`) and holds against the heap's policy. It keeps no counter: what
is at home, kept, claimed or free is counted anew each time.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from xbd.abi import DomainType
from xbd.machine import HostSettings
from xbd.units import SUPER_PAGES

Backing = Callable[[int], int]


@dataclass
class NaiveGrant:
    """What a domain lets another map; *to* is that very domain, not whoever has its number later."""

    gfn: int
    to: "NaiveDomain"
    readonly: bool


@dataclass
class NaiveMapping:
    """What is behind a slot: a grant of domain *owner*, and its frame (None: cut off)."""

    owner: int
    ref: int
    frame: int | None
    readonly: bool


@dataclass
class NaiveDomain:
    """A domain: its map, its leaves (blocks), its homes (block to superframe), grants by reference, mappings by slot."""

    gfn_count: int
    max_pages: int
    domain_type: DomainType = DomainType.PVH
    zombie: bool = False
    grants: dict[int, NaiveGrant] = field(default_factory=dict)
    slots: dict[int, NaiveMapping] = field(default_factory=dict)
    p2m: dict[int, int] = field(default_factory=dict)
    leaves: set[int] = field(default_factory=set)
    homes: dict[int, int] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    extents: Counter[str] = field(default_factory=Counter)

    def taken(self, gfn: int, order: int) -> bool:
        """Tell whether anything of an extent is populated, or a slot in use."""
        return any(page in self.p2m or page in self.slots for page in range(gfn, gfn + (1 << order)))

    def backed(self, gfn: int, order: int) -> bool:
        """Tell whether all of an extent is populated."""
        return all(page in self.p2m for page in range(gfn, gfn + (1 << order)))

    def populated(self, block: int) -> int:
        """Count the populated gfns of a block."""
        return sum(gfn in self.p2m for gfn in pages(block))

    def home_frame(self, gfn: int) -> int | None:
        """Name the frame in which a gfn would be at home."""
        home = self.homes.get(gfn // SUPER_PAGES)
        return None if home is None else home * SUPER_PAGES + gfn % SUPER_PAGES

    def at_home(self, block: int) -> int:
        """Count the gfns of a block that are at home."""
        home = self.homes.get(block)
        if home is None:
            return 0
        return sum(self.p2m.get(gfn) == frame for gfn, frame in zip(pages(block), pages(home), strict=True))


def pages(index: int) -> range:
    """Spell out a block, or a superframe."""
    return range(index * SUPER_PAGES, (index + 1) * SUPER_PAGES)


class NaiveHost:
    """A host and its domains by domid, zombies included.

    *owner* by frame, *words* by frame where they are not 0; *vanished*: zombies that went.
    """

    def __init__(self, superframes: int, settings: HostSettings) -> None:
        self.superframes = superframes
        self.settings = settings
        self.domains: dict[int, NaiveDomain] = {}
        self.owner: dict[int, int] = {}
        self.words: dict[int, int] = {}
        self.vanished: list[int] = []

    # -- what is free, claimed, kept

    def free_in(self, superframe: int) -> int:
        """Count the free frames of a superframe."""
        return sum(frame not in self.owner for frame in pages(superframe))

    def free_frames(self) -> int:
        """Count the free frames of the host."""
        return self.superframes * SUPER_PAGES - len(self.owner)

    def whole(self) -> list[int]:
        """List the wholly free superframes."""
        return [superframe for superframe in range(self.superframes) if self.free_in(superframe) == SUPER_PAGES]

    def claims(self) -> dict[int, int]:
        """Count the frames at home in each claimed superframe."""
        return {home: d.at_home(block) for d in self.domains.values() for block, home in d.homes.items()}

    def plan(self, count: int) -> list[tuple[int, int, int]]:
        """Say from what the heap serves *count* single frames: (class, free before, taken) each, in sequence."""
        claims = self.claims()
        ranked = []
        for superframe in range(self.superframes):
            free = self.free_in(superframe)
            at_home = claims.get(superframe, 0)
            kept = self.settings.keep_holes and at_home >= 256 and at_home == SUPER_PAGES - free
            if free == SUPER_PAGES:
                ranked.append((1, 0, free))
            elif free:
                ranked.append((2, -free, free) if kept else (0, free, free))
        steps = []
        for rank, _, free in sorted(ranked):
            if count > 0:
                steps.append((rank, free, min(free, count)))
                count -= free
        return steps

    def references(self) -> Counter[int]:
        """Count the mappings of each frame that others map."""
        return Counter(slot.frame for d in self.domains.values() for slot in d.slots.values() if slot.frame is not None)

    def home_is_free(self, domain: NaiveDomain, gfn: int) -> bool:
        """Tell whether the frame in which a gfn would be at home can be had."""
        home_frame = domain.home_frame(gfn)
        return home_frame is not None and home_frame not in self.owner

    # -- changes

    def check_choice(self, frames: list[int]) -> None:
        """Hold what the heap chose for requests without a home against the policy."""
        assert not set(frames) & self.owner.keys(), "the heap gave away a frame that is in use"
        assert len(set(frames)) == len(frames), "the heap gave a frame twice"
        claims = self.claims()
        steps = []
        for superframe, taken in Counter(frame // SUPER_PAGES for frame in frames).items():
            free = self.free_in(superframe)
            at_home = claims.get(superframe, 0)
            kept = self.settings.keep_holes and at_home >= 256 and at_home == SUPER_PAGES - free
            steps.append((1 if free == SUPER_PAGES else 2 if kept else 0, free, taken))
        assert sorted(steps) == sorted(self.plan(len(frames)))

    def map(self, domid: int, gfn: int, frame: int) -> None:
        """Back one gfn."""
        assert gfn not in self.domains[domid].p2m
        assert frame not in self.owner
        self.domains[domid].p2m[gfn] = frame
        self.owner[frame] = domid

    def map_leaf(self, domid: int, block: int, backing: Backing) -> None:
        """Back an empty block with the superframe that the heap chose, a whole one."""
        superframe = backing(block * SUPER_PAGES) // SUPER_PAGES
        assert superframe in self.whole()
        for gfn, frame in zip(pages(block), pages(superframe), strict=True):
            self.map(domid, gfn, frame)
        self.domains[domid].leaves.add(block)
        self.domains[domid].homes[block] = superframe

    def unmap(self, domid: int, gfn: int) -> int:
        """Take the backing of one gfn away, with its content; returns the frame."""
        domain = self.domains[domid]
        frame = domain.p2m.pop(gfn)
        domain.leaves.discard(gfn // SUPER_PAGES)
        del self.owner[frame]
        self.words.pop(frame, None)
        return frame

    def settle(self, domid: int, gfns: Iterable[int], empties: Iterable[int] = ()) -> None:
        """Clear homes without an entry, find homes for blocks that were empty, make leaves."""
        domain = self.domains[domid]
        for block in [block for block in domain.homes if domain.at_home(block) == 0]:
            del domain.homes[block]
        waiting = set(empties) - domain.homes.keys()
        for gfn in gfns:
            block, frame = gfn // SUPER_PAGES, domain.p2m.get(gfn, -1)
            if block in waiting and frame >= 0:
                waiting.remove(block)
                if frame % SUPER_PAGES == gfn % SUPER_PAGES and frame // SUPER_PAGES not in self.claims():
                    domain.homes[block] = frame // SUPER_PAGES
        if self.settings.coalesce:
            domain.leaves |= {block for block in domain.homes if domain.at_home(block) == SUPER_PAGES}

    def empties(self, domid: int, gfns: Iterable[int]) -> set[int]:
        """List the blocks of these gfns that hold nothing."""
        return {block for block in {gfn // SUPER_PAGES for gfn in gfns} if not self.domains[domid].populated(block)}

    def map_anywhere(self, domid: int, gfns: list[int], backing: Backing) -> None:
        """Back gfns with what the heap chose, checked."""
        self.check_choice([backing(gfn) for gfn in gfns])
        for gfn in gfns:
            self.map(domid, gfn, backing(gfn))

    # -- the toolstack's operations

    def create(self, domid: int, domain: NaiveDomain, target_pages: int, backing: Backing) -> None:
        """Enter a domain that holds nothing, and build it: leaves from the bottom, then single frames."""
        self.domains[domid] = domain
        leaves = min(len(self.whole()), target_pages // SUPER_PAGES)
        for block in range(leaves):
            self.map_leaf(domid, block, backing)
        rest = list(range(leaves * SUPER_PAGES, target_pages))
        self.map_anywhere(domid, rest, backing)
        self.settle(domid, rest, range(leaves, target_pages // SUPER_PAGES))
