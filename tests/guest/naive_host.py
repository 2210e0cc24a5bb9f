"""A naive hypervisor for the guest's tests: sets and dicts, partial answers at random, every refusal there is."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from xbd.abi import (
    BATCH_EXTENTS,
    LIST_EXTENTS,
    BootInfo,
    Command,
    Decrease,
    Deflate,
    DomainType,
    Exchange,
    Features,
    Frames,
    Inflate,
    Load,
    LoadResult,
    MemopResult,
    Populate,
    PopulateDepopulate,
    Refused,
    Result,
    Stop,
    Store,
)
from xbd.guest import Answered, Event, Guest, Tick
from xbd.guest.procedures import Procedure
from xbd.units import SUPER_PAGES


@dataclass
class NaiveHost:
    """One domain on a host: *words* by populated gfn, *free_frames* left, *whole_frames* of superframes left."""

    gfn_count: int
    max_pages: int
    free_frames: int = 1 << 40
    superframes: int = 1 << 40
    features: Features = field(default_factory=Features)
    domain_type: DomainType = DomainType.PVH
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    budget_chance: float = 0.0
    refuse_chance: float = 0.0
    words: dict[int, int] = field(default_factory=dict)
    executed: list[Command] = field(default_factory=list)
    broken_promise: bool = False

    def boot(self, populated: int, target: int | None = None) -> BootInfo:
        """Populate gfns from the bottom and say what a booting guest is told."""
        self.words = dict.fromkeys(range(populated), 0)
        return self.boot_again(populated if target is None else target)

    def boot_again(self, target: int) -> BootInfo:
        """Say what a guest that boots now is told."""
        gfns = np.array(sorted(self.words), dtype=np.int64)
        firsts = gfns[np.diff(gfns, prepend=-2) != 1]
        ends = gfns[np.diff(gfns, append=self.gfn_count + 2) != 1] + 1
        runs = np.stack((firsts, ends), axis=1) if gfns.size else np.zeros((0, 2), dtype=np.int64)
        return BootInfo(1, "g", self.gfn_count, runs, target, self.max_pages, self.features, self.domain_type)

    # -- operations: each tries one extent and says why not

    def _populate(self, gfn: int, order: int) -> Stop | None:
        pages = range(gfn, gfn + (1 << order))
        if any(page in self.words for page in pages):
            return Stop.EEXIST
        if len(self.words) + len(pages) > self.max_pages:
            return Stop.E2BIG
        if self.free_frames < len(pages) or (order and not self.superframes):
            return Stop.ENOMEM
        self.superframes -= bool(order)
        self.free_frames -= len(pages)
        self.words.update(dict.fromkeys(pages, 0))
        return None

    def _decrease(self, gfn: int, order: int) -> Stop | None:
        pages = range(gfn, gfn + (1 << order))
        if any(page not in self.words for page in pages):
            return Stop.ENOENT
        for page in pages:
            del self.words[page]
        self.free_frames += len(pages)
        return None

    def _swap(self, gives: int, gets: int, *, needs_frame: bool) -> Stop | None:
        if gets in self.words:
            return Stop.EEXIST
        if gives not in self.words:
            return Stop.ENOENT
        if needs_frame and not self.free_frames:
            return Stop.ENOMEM
        del self.words[gives]
        self.words[gets] = 0
        return None

    def _exchange_block(self, block: int, gets: list[int]) -> Stop | None:
        """Unback a whole block for 512 single pages; all or nothing."""
        given = range(block, block + SUPER_PAGES)
        if any(page in self.words for page in gets):
            return Stop.EEXIST
        if any(page not in self.words for page in given):
            return Stop.ENOENT
        if self.free_frames < SUPER_PAGES:
            return Stop.ENOMEM
        for page in given:
            del self.words[page]
        self.words.update(dict.fromkeys(gets, 0))
        return None

    def _load(self, gfn: int, words: list[int]) -> Stop | None:
        if gfn not in self.words:
            return Stop.EFAULT
        words.append(self.words[gfn])
        return None

    def _store(self, gfn: int, word: int) -> Stop | None:
        if gfn not in self.words:
            return Stop.EFAULT
        self.words[gfn] = word
        return None

    def execute(self, command: Command) -> Result:
        """Carry a command out, or a part of it."""
        self.executed.append(command)
        if self.refuse_chance and self.rng.random() < self.refuse_chance and not isinstance(command, Load | Store):
            return Refused("EBUSY", "not now")
        words: list[int] = []
        if not self.offers(command):
            return Refused("EOPNOTSUPP", "this host has no such operation")
        assert extents_of(command) <= (LIST_EXTENTS if self.domain_type is DomainType.VIRTIO else BATCH_EXTENTS)
        attempts = self._attempts(command, words)
        budget = len(attempts)
        if self.rng.random() < self.budget_chance:
            budget = int(self.rng.integers(1, budget + 1))
        done, stop = 0, None
        for attempt in attempts[:budget]:
            stop = attempt()
            if stop is not None:
                break
            done += 1
        if stop is None and done < len(attempts):
            stop = Stop.BUDGET
        if isinstance(command, Load):
            return LoadResult(done, stop, np.array(words, dtype=np.uint64))
        return MemopResult(done, stop)

    def offers(self, command: Command) -> bool:
        """Say whether this host has the operation for this type of domain, whatever it promised."""
        if isinstance(command, Load | Store):
            return True
        if self.domain_type is DomainType.VIRTIO:
            return isinstance(command, Inflate | Deflate)
        if isinstance(command, PopulateDepopulate):
            return self.features.populate_depopulate and not self.broken_promise
        if isinstance(command, Exchange):
            return self.features.exchange and not self.broken_promise
        return isinstance(command, Populate | Decrease)

    def _attempts_of_pairs(self, command: PopulateDepopulate | Exchange) -> list[Callable[[], Stop | None]]:
        if isinstance(command, PopulateDepopulate):
            gives, gets = command.depopulate, command.populate
        else:
            gives, gets = command.gives, command.gets
            if command.gives_order:
                lists = gets.reshape(gives.size, SUPER_PAGES).tolist()
                return [partial(self._exchange_block, *pair) for pair in zip(gives.tolist(), lists, strict=True)]
        needs_frame = isinstance(command, Exchange)
        pairs = zip(gives.tolist(), gets.tolist(), strict=True)
        return [partial(self._swap, give, get, needs_frame=needs_frame) for give, get in pairs]

    def _attempts(self, command: Command, words: list[int]) -> list[Callable[[], Stop | None]]:
        """List what the command tries, extent by extent."""
        match command:
            case Populate(gfns, order) | Deflate(gfns, order):
                return [partial(self._populate, gfn, order) for gfn in gfns.tolist()]
            case Decrease(gfns, order) | Inflate(gfns, order):
                return [partial(self._decrease, gfn, order) for gfn in gfns.tolist()]
            case PopulateDepopulate() | Exchange():
                return self._attempts_of_pairs(command)
            case Load(gfns):
                return [partial(self._load, gfn, words) for gfn in gfns.tolist()]
            case Store(gfns, stored):
                pairs = zip(gfns.tolist(), stored.tolist(), strict=True)
                return [partial(self._store, gfn, word) for gfn, word in pairs]
            case _:
                raise AssertionError(f"the balloon driver has no use for {command}")


@dataclass
class SlotUser:
    """Who asks a guest for slots: *held*, by request, the queue's name and the gfns; *answers*: how many came each time."""

    held: list[tuple[str, Frames]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)

    def ask(self, guest: Guest, count: int, queue: str) -> Procedure:
        """Request once, and keep what comes."""
        gfns = yield from guest._slots.request(count, queue)
        self.answers.append(gfns.size)
        if gfns.size:
            self.held.append((queue, gfns))

    def gfns(self) -> list[int]:
        """List all slots."""
        return [gfn for _, gfns in self.held for gfn in gfns.tolist()]


@dataclass
class Driver:
    """A direct transport: carries a guest's commands to a naive host, and keeps virtual time."""

    guest: Guest
    host: NaiveHost
    slots: SlotUser = field(default_factory=SlotUser)
    now: float = 0.0
    deadline: float | None = None
    queue: deque[Command] = field(default_factory=deque)
    in_flight_max: int = 0
    notes: list[str] = field(default_factory=list)

    def send(self, event: Event) -> None:
        """Let the guest step once; its commands wait in the queue."""
        step = self.guest.step(event, self.now)
        self.queue.extend(step.commands)
        self.in_flight_max = max(self.in_flight_max, len(self.queue))
        self.deadline = step.deadline
        self.notes += [note.name for note in step.notes]

    def answer(self, count: int = 1) -> None:
        """Carry out the oldest commands and answer them together."""
        self.send(Answered([self.host.execute(self.queue.popleft()) for _ in range(count)]))

    def settle(self) -> None:
        """Carry out whatever the guest wants until nothing is in flight."""
        while self.queue:
            self.answer(int(self.host.rng.integers(1, len(self.queue) + 1)))

    def do(self, event: Event) -> None:
        """Send an event and carry out all that follows at this moment."""
        self.send(event)
        self.settle()

    def run_for(self, seconds: float) -> None:
        """Let virtual time pass, from deadline to deadline."""
        end = self.now + seconds
        while self.deadline is not None and self.deadline <= end:
            self.now = max(self.now, self.deadline)
            self.do(Tick())
        self.now = end

    def request(self, count: int, queue: str = "foreign") -> None:
        """Let somebody ask for slots; it has them, or not, when nothing is in flight any more."""
        self.guest._procedures.start(self.slots.ask(self.guest, count, queue))
        self.send(Tick())

    def release(self, index: int = 0) -> None:
        """Let the slots of the request with this number be released."""
        queue, gfns = self.slots.held.pop(index)
        self.guest._slots.release(gfns, queue)
        self.send(Tick())

    def assert_sound(self) -> None:
        """Assert that the guest's counters are right and that guest and host agree on what is populated."""
        assert self.guest.check() == []
        statistics = self.guest.statistics()
        assert statistics.content_errors == 0
        assert statistics.failed_extents == 0 or self.host.refuse_chance
        assert statistics.slots == sum(gfns.size for _, gfns in self.slots.held)
        assert statistics.slots <= statistics.slots_max_pages
        assert set(self.slots.gfns()).isdisjoint(self.host.words)
        assert len(set(self.slots.gfns())) == statistics.slots
        if not self.queue:
            assert self.guest._balloon.current_pages == len(self.host.words)
            assert ballooned(self.guest).isdisjoint(self.host.words)
            assert len(ballooned(self.guest)) + len(self.host.words) == self.host.gfn_count


def extents_of(command: Command) -> int:
    """Count what one list of a command that moves memory names."""
    match command:
        case Populate(gfns) | Decrease(gfns) | Inflate(gfns) | Deflate(gfns) | Exchange(gfns):
            return gfns.size
        case PopulateDepopulate(gfns):
            return gfns.size
    return 0


def moved(commands: list[Command]) -> list[tuple[str, int, Frames]]:
    """Tell what commands back and unback pages, as (Populate or Decrease, order, gfns), whoever the hypervisor is."""
    named: list[tuple[str, int, Frames]] = []
    for command in commands:
        match command:
            case Populate(gfns, order) | Deflate(gfns, order):
                named.append(("Populate", order, gfns))
            case Decrease(gfns, order) | Inflate(gfns, order):
                named.append(("Decrease", order, gfns))
            case _:
                pass
    return named


def ballooned(guest: Guest) -> set[int]:
    """List every gfn that the guest has in its balloon, slots too."""
    gfns: set[int] = set()
    for queue in guest._balloon.queues.values():
        for base in queue.members().tolist():
            gfns.update(range(base, base + (1 << queue.order)))
    return gfns


def blocks(count: int) -> int:
    """Say how many pages *count* blocks are."""
    return count * SUPER_PAGES
