"""What a machine must do, said with dicts and sets, one page after the other.

The model decides everything itself but one thing: which free frame the heap chose, which it reads
back from the real machine (`Backing`) and holds against the heap's policy. It keeps no counter: what
is at home, kept, claimed or free is counted anew each time.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from xbd import abi
from xbd.abi import MemopResult, Stop
from xbd.machine import HostSettings
from xbd.units import SUPER_PAGES

Backing = Callable[[int], int]
ORDERS = (0, 9)


@dataclass
class NaiveDomain:
    """A domain: its map, its leaves (blocks), its homes (block to superframe)."""

    gfn_count: int
    max_pages: int
    p2m: dict[int, int] = field(default_factory=dict)
    leaves: set[int] = field(default_factory=set)
    homes: dict[int, int] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    extents: Counter[str] = field(default_factory=Counter)

    def populated(self, block: int) -> int:
        """Count the populated gfns of a block."""
        return sum(gfn in self.p2m for gfn in pages(block))

    def home_frame(self, gfn: int) -> int | None:
        """Name the frame in which a gfn would be at home."""
        home = self.homes.get(gfn // SUPER_PAGES)
        return None if home is None else home * SUPER_PAGES + gfn % SUPER_PAGES

    def at_home(self, block: int) -> int:
        """Count the gfns of a block that are at home."""
        return sum(gfn in self.p2m and self.p2m[gfn] == self.home_frame(gfn) for gfn in pages(block))


def pages(index: int) -> range:
    """Spell out a block, or a superframe."""
    return range(index * SUPER_PAGES, (index + 1) * SUPER_PAGES)


class NaiveHost:
    """A host and its domains by domid; *owner* by frame, *words* by frame where they are not 0."""

    def __init__(self, superframes: int, settings: HostSettings) -> None:
        self.superframes = superframes
        self.settings = settings
        self.domains: dict[int, NaiveDomain] = {}
        self.owner: dict[int, int] = {}
        self.words: dict[int, int] = {}

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

    def create(self, domid: int, max_pages: int, target_pages: int, gfn_count: int, backing: Backing) -> None:
        """Make a domain: leaves from the bottom, then single frames."""
        self.domains[domid] = NaiveDomain(gfn_count, max_pages)
        leaves = min(len(self.whole()), target_pages // SUPER_PAGES)
        for block in range(leaves):
            self.map_leaf(domid, block, backing)
        rest = list(range(leaves * SUPER_PAGES, target_pages))
        self.map_anywhere(domid, rest, backing)
        self.settle(domid, rest, range(leaves, target_pages // SUPER_PAGES))

    def destroy(self, domid: int) -> None:
        """Free all that a domain has."""
        for gfn in list(self.domains[domid].p2m):
            self.unmap(domid, gfn)
        del self.domains[domid]

    # -- the guests' operations

    def execute(self, domid: int, command: abi.Command, real: abi.Result, backing: Backing) -> None:
        """Say what *command* answers, compare with what the machine answered, and follow it."""
        name = {
            abi.Populate: "populate",
            abi.Decrease: "decrease",
            abi.Exchange: "exchange",
            abi.PopulateDepopulate: "populate_depopulate",
            abi.Load: "load",
            abi.Store: "store",
        }[type(command)]
        domain = self.domains[domid]
        expected = self._refusal(domain, command) or self._do(domid, command, real, backing)
        if isinstance(real, abi.Refused):
            assert expected == real.errno
        else:
            assert expected == MemopResult(real.done, real.stop)
        if name in ("load", "store"):
            return
        if isinstance(real, abi.Refused):
            domain.calls[f"{name}:{real.errno}"] += 1
        else:
            domain.calls[f"{name}:{real.stop or 'done'}"] += 1
            domain.extents[name] += real.done

    def _refusal(self, domain: NaiveDomain, command: abi.Command) -> str | None:
        match command:
            case abi.Populate(gfns, order) | abi.Decrease(gfns, order):
                sides = [(gfns.tolist(), order)]
            case abi.Exchange(gives, gets, gives_order, gets_order):
                if not self.settings.exchange_translated:
                    return "EOPNOTSUPP"
                sides = [(gives.tolist(), gives_order), (gets.tolist(), gets_order)]
            case abi.PopulateDepopulate(fills, drains, order):
                if not self.settings.populate_depopulate:
                    return "EOPNOTSUPP"
                sides = [(fills.tolist(), order), (drains.tolist(), order)]
            case abi.Load(gfns):
                sides = [(gfns.tolist(), 0)]
            case abi.Store(gfns, words):
                sides = [(gfns.tolist(), 0)]
                if gfns.size != words.size:
                    return "EINVAL"
        named = [gfn for gfns, _ in sides for gfn in gfns]
        sensible = all(
            order in ORDERS
            and len(gfns) <= abi.MAX_EXTENTS
            and all(0 <= gfn <= domain.gfn_count - (1 << order) and gfn % (1 << order) == 0 for gfn in gfns)
            for gfns, order in sides
        )
        sensible &= len(set(named)) == len(named)
        sensible &= len({order for _, order in sides}) == 1 and len({len(gfns) for gfns, _ in sides}) == 1
        return None if sensible else "EINVAL"

    def _do(self, domid: int, command: abi.Command, real: abi.Result, backing: Backing) -> MemopResult:
        assert not isinstance(real, abi.Refused), real
        match command:
            case abi.Populate(gfns, order):
                return self._populate(domid, gfns.tolist(), order, backing)
            case abi.Decrease(gfns, order):
                return self._decrease(domid, gfns.tolist(), order, real)
            case abi.Exchange(gives, gets, order, _):
                return self._exchange(
                    domid, list(zip(gets.tolist(), gives.tolist(), strict=True)), order, real, backing
                )
            case abi.PopulateDepopulate(fills, drains, order):
                pairs = list(zip(fills.tolist(), drains.tolist(), strict=True))
                return self._swap(domid, pairs, order, real, backing)
            case abi.Load(gfns):
                assert isinstance(real, abi.LoadResult)
                frames = self._reach(domid, gfns.tolist())
                assert real.words.tolist() == [self.words.get(frame, 0) for frame in frames]
                return MemopResult(len(frames), None if len(frames) == gfns.size else Stop.EFAULT)
            case abi.Store(gfns, words):
                frames = self._reach(domid, gfns.tolist())
                for frame, word in zip(frames, words.tolist(), strict=False):
                    self.words[frame] = word
                self.words = {frame: word for frame, word in self.words.items() if word}
                return MemopResult(len(frames), None if len(frames) == gfns.size else Stop.EFAULT)
            case _:
                raise AssertionError(f"the model does not know {command}")

    def _reach(self, domid: int, gfns: list[int]) -> list[int]:
        p2m = self.domains[domid].p2m
        reached = []
        for gfn in gfns:
            if gfn not in p2m:
                break
            reached.append(p2m[gfn])
        return reached

    def _populate(self, domid: int, gfns: list[int], order: int, backing: Backing) -> MemopResult:
        domain, stop = self.domains[domid], None
        tot_pages = len(domain.p2m)
        room = len(self.whole()) if order else self.free_frames()
        done: list[int] = []
        for gfn in gfns:
            if len(done) == 512:
                stop = Stop.BUDGET
            elif domain.populated(gfn // SUPER_PAGES) if order else gfn in domain.p2m:
                stop = Stop.EEXIST
            elif tot_pages + ((len(done) + 1) << order) > domain.max_pages:
                stop = Stop.E2BIG
            elif len(done) == room:
                stop = Stop.ENOMEM
            if stop:
                break
            done.append(gfn)
        if order:
            for gfn in done:
                self.map_leaf(domid, gfn // SUPER_PAGES, backing)
            return MemopResult(len(done), stop)
        empties = self.empties(domid, done)
        homed = [gfn for gfn in done if self.settings.home_fill == "always" and self._home_is_free(domain, gfn)]
        for gfn in homed:
            assert backing(gfn) == domain.home_frame(gfn)
            self.map(domid, gfn, backing(gfn))
        self.map_anywhere(domid, [gfn for gfn in done if gfn not in domain.p2m], backing)
        self.settle(domid, done, empties)
        return MemopResult(len(done), stop)

    def _home_is_free(self, domain: NaiveDomain, gfn: int) -> bool:
        home_frame = domain.home_frame(gfn)
        return home_frame is not None and home_frame not in self.owner

    def _decrease(self, domid: int, gfns: list[int], order: int, real: abi.Result) -> MemopResult:
        domain, stop, done = self.domains[domid], None, 0
        for gfn in gfns:
            if over_budget(done, order, real):
                stop = Stop.BUDGET
            elif domain.populated(gfn // SUPER_PAGES) < SUPER_PAGES if order else gfn not in domain.p2m:
                stop = Stop.ENOENT
            if stop:
                break
            for page in range(gfn, gfn + (1 << order)):
                self.unmap(domid, page)
            done += 1
        self.settle(domid, [])
        return MemopResult(done, stop)

    def _bad_pair(self, domid: int, fill: int, drain: int, order: int) -> Stop | None:
        domain = self.domains[domid]
        if domain.populated(fill // SUPER_PAGES) if order else fill in domain.p2m:
            return Stop.EEXIST
        if domain.populated(drain // SUPER_PAGES) < SUPER_PAGES if order else drain not in domain.p2m:
            return Stop.ENOENT
        return None

    def _valid_pairs(self, domid: int, pairs: list[tuple[int, int]]) -> tuple[list[tuple[int, int]], Stop | None]:
        for done, (fill, drain) in enumerate(pairs):
            stop = Stop.BUDGET if done == 512 else self._bad_pair(domid, fill, drain, 0)
            if stop:
                return pairs[:done], stop
        return pairs, None

    def _exchange(
        self, domid: int, pairs: list[tuple[int, int]], order: int, real: abi.Result, backing: Backing
    ) -> MemopResult:
        if order:
            return self._exchange_blocks(domid, pairs, real, backing)
        valid, stop = self._valid_pairs(domid, pairs)
        room = self.free_frames()
        if valid and not room:
            return MemopResult(0, Stop.ENOMEM)
        # Each chunk is as large as the free frames allow; how many chunks make a turn is the budget's affair.
        done = 0
        while done < len(valid):
            if over_budget(done, 9, real):
                return MemopResult(done, Stop.BUDGET)
            chunk = valid[done : done + room]
            self.check_choice([backing(fill) for fill, _ in chunk])
            for _, drain in chunk:
                self.unmap(domid, drain)
            empties = self.empties(domid, (fill for fill, _ in chunk))
            for fill, _ in chunk:
                self.map(domid, fill, backing(fill))
            self.settle(domid, [fill for fill, _ in chunk], empties)
            done += len(chunk)
        return MemopResult(done, stop)

    def _exchange_blocks(
        self, domid: int, pairs: list[tuple[int, int]], real: abi.Result, backing: Backing
    ) -> MemopResult:
        for done, (fill, drain) in enumerate(pairs):
            stop = self._bad_pair(domid, fill, drain, 9)
            if stop is None and over_budget(done, 9, real):
                stop = Stop.BUDGET
            if stop is None and not self.whole():
                stop = Stop.ENOMEM
            if stop:
                return MemopResult(done, stop)
            self.map_leaf(domid, fill // SUPER_PAGES, backing)
            for page in pages(drain // SUPER_PAGES):
                self.unmap(domid, page)
            self.settle(domid, [])
        return MemopResult(len(pairs), None)

    def _swap(
        self, domid: int, pairs: list[tuple[int, int]], order: int, real: abi.Result, backing: Backing
    ) -> MemopResult:
        if order:
            for done, (fill, drain) in enumerate(pairs):
                stop = self._bad_pair(domid, fill, drain, 9)
                if stop is None and over_budget(done, 9, real):
                    stop = Stop.BUDGET
                if stop:
                    return MemopResult(done, stop)
                self._swap_blocks(domid, fill // SUPER_PAGES, drain // SUPER_PAGES, backing)
            return MemopResult(len(pairs), None)
        valid, stop = self._valid_pairs(domid, pairs)
        domain = self.domains[domid]
        homed = {fill for fill, _ in valid if self.settings.home_fill != "never" and self._home_is_free(domain, fill)}
        frames = {fill: domain.home_frame(fill) if fill in homed else domain.p2m[drain] for fill, drain in valid}
        for _, drain in valid:
            self.unmap(domid, drain)
        empties = self.empties(domid, frames)
        for fill, frame in frames.items():
            assert frame is not None
            self.map(domid, fill, frame)
        self.settle(domid, frames, empties)
        return MemopResult(len(valid), stop)

    def _swap_blocks(self, domid: int, fill: int, drain: int, backing: Backing) -> None:
        domain = self.domains[domid]
        if drain not in domain.leaves and self.whole():
            self.map_leaf(domid, fill, backing)
            for page in pages(drain):
                self.unmap(domid, page)
            self.settle(domid, [])
            return
        was_leaf, home = drain in domain.leaves, domain.homes.pop(drain, None)
        for target, source in zip(pages(fill), pages(drain), strict=True):
            self.map(domid, target, self.unmap(domid, source))
        if home is not None:
            domain.homes[fill] = home
        if was_leaf:
            domain.leaves.add(fill)


def over_budget(done: int, order: int, real: abi.Result) -> bool:
    """Tell whether a turn may end here: after 512 extents of order 0; for others the machine may say so once it did something."""
    if order == 0:
        return done == 512
    return not isinstance(real, abi.Refused) and real.stop is Stop.BUDGET and done == real.done > 0
