"""Run one cell of an arena in this process, on virtual time: guests of a set, a host, a policy, a seed; pure.

Once a second every guest is told what it wants, and the policy looks. Programs that do not get memory wait for it, for up
to `PATIENCE_S`; pages that they then give up are denied. What a second of a guest waited is how long it took until all
that it asked for was there, and the reading of files' pages that had been dropped, at `REFAULT_S` each. Time to move memory
is none: hypercalls take no virtual time, so waits are those for the policy and for what drivers wait.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from xbd.config.strategies import DEFAULT_STRATEGY, find_strategy
from xbd.errors import BadArgument
from xbd.guest import Demand, GuestSettings, ModeSet, parse_mode
from xbd.guest.state import REFAULT_S
from xbd.guest.statistics import GuestStatistics
from xbd.guest.workload import Driven, Trace
from xbd.lab.arena.guests import Wanted, make_up, play, wear_of
from xbd.lab.experiments.grid import digest, digest_trace
from xbd.lab.experiments.meter import Number
from xbd.lab.experiments.outcome import OutcomeOf, Watch
from xbd.policy import Policy, Settings
from xbd.testing.governor import Governor
from xbd.testing.virtual_host import VirtualHost
from xbd.units import GIB_PAGES, SUPER_PAGES, round_to_superpages, round_up

# Longer than a policy may take that looks every ten seconds; then a program, or its user, has given up.
PATIENCE_S: Final = 60.0
# Of the host, what the safety layer keeps free.
_HEADROOM_SHARE: Final = 64
# Of a cell's curves, how many points are kept.
_POINTS: Final = 120
_SECONDS_PER_HOUR: Final = 3600
# A target that is taken back within so long was none.
_TAKEN_BACK_S: Final = 60.0
# A guest's word that it reports nothing; all else are modes.
SILENT: Final = "silent"


@dataclass(frozen=True, slots=True)
class Member:
    """A guest of a set: *kind* of `KINDS`, or empty: a trace, by its *digest*.

    *mode*: how it behaves, as `xbd guest-mode` takes it, or `silent`: it reports nothing. *reads_share*: of a trace's
    cache, what is read in a second.
    """

    name: str
    memory_pages: int
    kind: str = ""
    digest: str = ""
    mode: str = "normal"
    offset_s: float = 0.0
    reads_share: float = 0.0


@dataclass(frozen=True, slots=True)
class GuestSet:
    """Guests that live together on one host."""

    name: str
    members: tuple[Member, ...]

    @property
    def total_pages(self) -> int:
        """The sum of the guests' memory."""
        return sum(member.memory_pages for member in self.members)


@dataclass(frozen=True, slots=True)
class Entry:
    """A policy that competes: *name* as it is called here, the *policy* and its *settings*, *bare*: without safety layer.

    *source*: what tells a stranger's code from what it was.
    """

    name: str
    policy: str
    settings: tuple[tuple[str, Any], ...] = ()
    bare: bool = False
    source: str = ""


@dataclass(frozen=True, slots=True)
class ArenaCell:
    """One run of *seconds*, on a host *overcommit* times smaller than its guests."""

    entry: Entry
    guests: GuestSet
    overcommit: float
    seed: int
    seconds: int

    def key(self, model: str) -> str:
        """Return the key of this cell's outcome with this version of the model: equal keys, equal outcomes."""
        return digest(json.dumps([model, asdict(self)], sort_keys=True).encode())

    def coordinates(self) -> dict[str, str | float | int]:
        """Return its place in the arena, as columns of a table."""
        return {
            "policy": self.entry.name,
            "guests": self.guests.name,
            "overcommit": self.overcommit,
            "seed": self.seed,
        }

    def label(self) -> str:
        """Format it for people."""
        return f"{self.entry.name}, {self.guests.name}, overcommit {self.overcommit:g}, seed {self.seed}"


@dataclass(frozen=True, slots=True)
class Point:
    """The guests at a time, in the order of their set: what each holds, and what it wants, in pages."""

    t_s: float
    held_pages: list[int]
    wanted_pages: list[int]


ArenaOutcome = OutcomeOf[ArenaCell, Point]


def run_arena(cell: ArenaCell, traces: Sequence[Trace], policy: Policy, watch: Watch | None = None) -> ArenaOutcome:
    """Run a cell to its end, with its *policy* made. Raises BadArgument: its guests do not fit the host."""
    return _Run(cell, {digest_trace(trace): trace for trace in traces}, policy).to_its_end(watch)


class _Run:
    """A cell that runs."""

    def __init__(self, cell: ArenaCell, traces: Mapping[str, Trace], policy: Policy) -> None:
        members = cell.guests.members
        self._cell = cell
        self._wanted = [self._want(member, number, traces) for number, member in enumerate(members)]
        superframes = int(cell.guests.total_pages / cell.overcommit) // SUPER_PAGES
        headroom = round_up(superframes * SUPER_PAGES // _HEADROOM_SHARE)
        to_give = superframes * SUPER_PAGES - headroom
        if to_give < cell.guests.total_pages // 8:
            raise BadArgument(f"{cell.label()}: {to_give} pages to give", "an eighth of what its guests may hold")
        strategy = find_strategy(DEFAULT_STRATEGY)
        self._host = VirtualHost(superframes, strategy.host, seed=cell.seed)
        settings = GuestSettings(strategy.driver, patience_s=PATIENCE_S)
        self._domids = [
            self._host.create(
                f"{member.name}.{number}",
                max_pages=round_up(member.memory_pages),
                target_pages=round_to_superpages(to_give * member.memory_pages // cell.guests.total_pages),
                gfn_count=member.memory_pages,
                domain_type=strategy.domain_type,
                settings=replace(
                    settings, wear=wear_of(traces[member.digest], member.offset_s) if member.digest else 0.0
                ),
                workload=Driven(),
            )
            for number, member in enumerate(members)
        ]
        silent = frozenset(d for d, member in zip(self._domids, members, strict=True) if member.mode == SILENT)
        safety = Settings(headroom_pages=headroom, bare=cell.entry.bare)
        self._governor = Governor(self._host, policy, safety, self._domids, silent)
        self._demanded: dict[int, Demand] = {}
        self._meter = _Meter(self._host, self._domids, self._wanted)

    def _want(self, member: Member, number: int, traces: Mapping[str, Trace]) -> Wanted:
        seconds = self._cell.seconds
        if member.kind:
            return make_up(member.kind, member.memory_pages, seconds, np.random.default_rng([self._cell.seed, number]))
        return play(traces[member.digest], seconds, member.offset_s, member.reads_share)

    def to_its_end(self, watch: Watch | None) -> ArenaOutcome:
        """Run it second by second."""
        host, points = self._host, []
        every = max(self._cell.seconds // _POINTS, 1)
        for domid, member in zip(self._domids, self._cell.guests.members, strict=True):
            if member.mode != SILENT:
                host.send(domid, ModeSet(parse_mode(member.mode)))
        for second in range(self._cell.seconds):
            host.advance(float(second))
            for domid, wanted in zip(self._domids, self._wanted, strict=True):
                self._demand(domid, wanted, second)
            self._governor.step()
            self._meter.observe(second, self._governor.told)
            if second % every == 0:
                point = self._meter.point(second)
                points.append(point)
                if watch is not None:
                    watch(float(second), host, dict(zip(self._domids, point.wanted_pages, strict=True)))
        summary = self._meter.summary(self._governor.targets)
        summary["trouble"] = int(bool(self._governor.state.trouble))
        return ArenaOutcome(self._cell, summary, tuple(points), tuple(host.check()))

    def _demand(self, domid: int, wanted: Wanted, second: int) -> None:
        """Tell a guest what it wants, unless it has just that already, and reads nothing."""
        demand = Demand(
            int(wanted.anon_pages[second]), int(wanted.cache_pages[second]), int(wanted.cache_reads[second])
        )
        told = self._governor.told.get(domid)
        same = self._demanded.get(domid) == demand and not demand.cache_reads
        if told is None or not same or told.waiting_pages or told.cache_pages < demand.cache_pages:
            self._demanded[domid] = demand
            self._host.send(domid, demand)


class _Meter:
    """What a cell is measured by."""

    def __init__(self, host: VirtualHost, domids: Sequence[int], wanted: Sequence[Wanted]) -> None:
        self._host = host
        self._domids = domids
        self._wanted = wanted
        seconds = wanted[0].anon_pages.size
        self._waited: NDArray[np.float64] = np.zeros((len(domids), seconds))
        self._refaulted = [0] * len(domids)
        self._held_pages = 0
        self._coverage = 0.0
        self._short = 0
        self._had: list[float] = []
        self._targets: list[list[tuple[float, int]]] = [[] for _ in domids]

    def observe(self, second: int, reported: Mapping[int, GuestStatistics]) -> None:
        """Take note of a second, after guests were told what they want in it, and have *reported*."""
        held = leaves = 0
        for number, domid in enumerate(self._domids):
            domain = self._host.machine.domain(domid)
            held += domain.tot_pages
            leaves += domain.leaves
            if not self._targets[number] or self._targets[number][-1][1] != domain.target_pages:
                self._targets[number].append((float(second), domain.target_pages))
            told = reported[domid]
            self._waited[number, second] += (told.pages_refaulted - self._refaulted[number]) * REFAULT_S
            self._refaulted[number] = told.pages_refaulted
            self._short += told.waiting_pages > 0
            self._note_waited(number)
        self._held_pages += held
        self._coverage += leaves * SUPER_PAGES / held if held else 1.0

    def _note_waited(self, number: int) -> None:
        for since_s, waited_s in self._host.guest(self._domids[number]).take_waited():
            self._waited[number, int(since_s)] += waited_s
            self._had.append(waited_s)

    def point(self, second: int) -> Point:
        """Take a point of the curves."""
        held = [self._host.machine.domain(domid).tot_pages for domid in self._domids]
        wanted = [int(each.anon_pages[second] + each.cache_pages[second]) for each in self._wanted]
        return Point(float(second), held, wanted)

    def summary(self, targets: int) -> dict[str, Number]:
        """Return one number for each column of the results."""
        seconds = self._waited.shape[1]
        # Who still waits has waited that long, and has nothing.
        never_had = 0
        for number, domid in enumerate(self._domids):
            never_had += self._host.guest(domid).end_waiting()
            self._note_waited(number)
        guests: list[GuestStatistics] = [self._host.guest(domid).statistics() for domid in self._domids]
        infos = [self._host.machine.domain_info(domid) for domid in self._domids]
        # Seconds in which programs asked for something: the same ones under every policy.
        asked = np.array([np.diff(each.anon_pages, prepend=0) > 0 for each in self._wanted])
        asked |= np.array([each.cache_reads > 0 for each in self._wanted]) | (self._waited > 0)
        waits = np.sort(self._waited[asked]) if asked.any() else np.zeros(1)
        return {
            "held_gib_h": self._held_pages / GIB_PAGES / _SECONDS_PER_HOUR,
            "denied_pages": sum(guest.pages_denied for guest in guests) + never_had,
            "wait_p50_s": float(np.percentile(waits, 50)),
            "wait_p99_s": float(np.percentile(waits, 99)),
            "wait_worst_s": float(waits[-1]),
            "wait_sum_s": float(waits.sum()),
            "had_p99_s": float(np.percentile(self._had, 99)) if self._had else 0.0,
            "short_guest_s": self._short,
            "refaults": sum(self._refaulted),
            "targets": targets,
            "reversals": sum(_reversals(each) for each in self._targets),
            "superpages": self._coverage / seconds,
            "hypercalls": sum(sum(info.hypercalls.values()) for info in infos),
            "extents": sum(sum(info.extents.values()) for info in infos),
            "pages_ballooned": sum(guest.pages_inflated + guest.pages_deflated for guest in guests),
            "pages_moved": sum(guest.pages_moved for guest in guests),
            "content_errors": sum(guest.content_errors for guest in guests),
        }


def _reversals(targets: Sequence[tuple[float, int]]) -> int:
    """Count the targets that go the other way than the last one, within a minute: memory that was moved for nothing."""
    moves = [(after[0], after[1] - before[1]) for before, after in pairwise(targets)]
    return sum(
        (first[1] > 0) != (second[1] > 0) and second[0] - first[0] <= _TAKEN_BACK_S for first, second in pairwise(moves)
    )
