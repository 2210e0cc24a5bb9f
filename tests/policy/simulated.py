"""A simulated host for the policy: domains that behave, page counts that move as guests' do, time that is a number.

Every simulated second the policy sees a snapshot, its actions are applied in order, and the guests move: at a rate,
never past max_pages, never into memory that is not free. What must hold at every step is checked at every step, and
violations are collected as sentences.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from xbd.policy import (
    Action,
    DomainSnapshot,
    GuestReport,
    Policy,
    ReservationState,
    SetMax,
    SetTarget,
    Snapshot,
    State,
    Verdict,
    step,
)
from xbd.policy.builtin.fair import Fair
from xbd.policy.model import bounds_of
from xbd.units import SUPER_PAGES, round_up

TICK_S = 1.0
Demand = Callable[[float], int | None]


def silent(_now: float) -> int | None:
    """Report no demand."""
    return None


def constant(pages: int) -> Demand:
    """Report the same demand for ever."""
    return lambda _now: pages


@dataclass(slots=True)
class Guest:
    """A simulated domain; sizes in pages.

    Attributes:
        least, most, tot: its bounds and what it holds; its target begins there.
        max_pages: its cap at first; 0: *most*.
        rate: pages that it moves in a second.
        floor, ceiling: what it does not go below or above, whatever its target.
        stuck: it does not move from the first time to the second.
        able: it has an agent.
        demand: what it reports at a time.
        report: what else it reports.
    """

    domid: int
    least: int
    most: int
    tot: int
    max_pages: int = 0
    rate: int = 1 << 18
    floor: int = 0
    ceiling: int = 1 << 40
    stuck: tuple[float, float] = (0.0, 0.0)
    able: bool = True
    demand: Demand = silent
    report: GuestReport = GuestReport()  # noqa: RUF009 - frozen
    target: int = 0

    def __post_init__(self) -> None:
        self.target = self.target or self.tot
        self.max_pages = self.max_pages or self.most

    def move(self, aim: int, free: int, now: float) -> int:
        """Move toward *aim* for a second; return the pages taken (above 0) or given."""
        if not self.able or self.stuck[0] <= now < self.stuck[1]:
            return 0
        aim = min(max(aim, self.floor), self.ceiling)
        if aim > self.tot:
            moved = max(min(aim - self.tot, self.rate, self.max_pages - self.tot, free), 0)
        else:
            moved = -min(self.tot - aim, self.rate)
        self.tot += moved
        return moved

    def snapshot(self, now: float) -> DomainSnapshot:
        """Show it as the toolstack sees it."""
        return DomainSnapshot(
            self.domid,
            self.tot,
            self.target,
            self.max_pages,
            self.least,
            self.most,
            self.able,
            self.demand(now),
            guest=self.report,
        )


@dataclass(slots=True)
class Host:
    """A host under the policy. *wrong* is what did not hold, *moves* when each domain's target was changed."""

    guests: list[Guest]
    free: int
    state: State
    policy: Policy = Fair()  # noqa: RUF009 - frozen
    claimed: int = 0
    now: float = 0.0
    wrong: list[str] = field(default_factory=list)
    moves: dict[int, list[float]] = field(default_factory=dict)
    total: int = 0
    _by_domid: dict[int, Guest] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.total = self.free + sum(guest.tot for guest in self.guests)
        self._by_domid = {guest.domid: guest for guest in self.guests}

    def guest(self, domid: int) -> Guest:
        """Find a guest."""
        return self._by_domid[domid]

    def snapshot(self) -> Snapshot:
        """Show the host as the toolstack sees it."""
        domains = tuple(guest.snapshot(self.now) for guest in self.guests)
        return Snapshot(self.free, self.total, self.claimed, domains)

    def budget(self, *states: ReservationState) -> int:
        """Count what is free beyond headroom, claims, all promises, and reservations in *states*."""
        kept = sum(each.pages for each in self.state.reservations if each.state in states)
        room = sum(max(guest.max_pages - guest.tot, 0) for guest in self.guests)
        return self.free - self.claimed - self.state.settings.headroom_pages - kept - room

    def _idle_room(self) -> int:
        """Count the room up to max_pages that no target asks for: what is capped first."""
        beyond = ((guest, max(guest.tot, round_up(guest.target))) for guest in self.guests)
        return sum(max(guest.max_pages - pages, 0) for guest, pages in beyond)

    def tick(self) -> list[Action]:
        """Let the policy act, then a second pass."""
        self.state, actions = step(self.state, self.snapshot(), self.now, self.policy)
        lacking = self.budget(ReservationState.HELD, ReservationState.PENDING) < 0
        # Room that nobody asks for is taken away in the same step, not handed to others.
        before = self.budget(ReservationState.HELD) + self._idle_room()
        grown = self._apply(actions, lacking=lacking)
        owing = [
            guest.domid
            for guest in self.guests
            if guest.tot > guest.target and self.state.progress[guest.domid].verdict is Verdict.WILLING
        ]
        self._expect(not (grown and owing), f"{grown} may grow while {owing} still give up")
        after = self.budget(ReservationState.HELD)
        self._expect(after >= min(before, 0), f"promised {-after} pages more than there is, {-before} before")
        free = self.free
        for guest in self.guests:
            self.free -= guest.move(guest.target, self.free, self.now)
        # Reservations stay free too; what was promised too much before the policy came is not its doing.
        kept = sum(each.pages for each in self.state.reservations if each.state is ReservationState.HELD)
        least = min(self.claimed + self.state.settings.headroom_pages + kept + min(after, 0), free)
        self._expect(self.free >= least, f"{self.free} pages free, at least {least} were to be")
        self.now += TICK_S
        return actions

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while self.now < end:
            self.tick()

    def grab(self) -> None:
        """Let every guest take all that it may, whatever its target, until nobody can take more."""
        for guest in self.guests:
            if guest.able and guest.tot < guest.max_pages:
                taken = min(guest.max_pages - guest.tot, self.free)
                guest.tot += taken
                self.free -= taken

    # -- what happened

    def moves_since(self, since: float, domid: int | None = None) -> int:
        """Count target changes from a time on, of one domain or of all."""
        all_moves = self.moves.values() if domid is None else [self.moves.get(domid, [])]
        return sum(at >= since for moves in all_moves for at in moves)

    def fractions(self, *domids: int) -> list[float]:
        """Say where domains (all, if none is named) stand between least and most."""
        guests = [self.guest(domid) for domid in domids] or self.guests
        return [(guest.tot - guest.least) / (guest.most - guest.least) for guest in guests]

    def _expect(self, holds: bool, otherwise: str) -> None:  # noqa: FBT001 -- it is what the assert statement takes
        if not holds:
            self.wrong.append(f"at {self.now:.0f} s: {otherwise}")

    def _apply(self, actions: list[Action], *, lacking: bool) -> list[int]:
        """Apply actions in order and check each; return who may grow from now on."""
        grown = []
        by_domid: dict[int, list[type[Action]]] = {}
        for action in actions:
            by_domid.setdefault(action.domid, []).append(type(action))
        for action in actions:
            guest = self.guest(action.domid)
            bounds = bounds_of(guest.snapshot(self.now))
            within = bounds.least <= action.pages <= bounds.most and action.pages % SUPER_PAGES == 0
            self._expect(within, f"{action} is not within {bounds} or no multiple of {SUPER_PAGES}")
            if isinstance(action, SetMax):
                guest.max_pages = action.pages
                continue
            holds = abs(action.pages - guest.tot) < SUPER_PAGES
            grows = action.pages > guest.target
            self._expect(guest.able, f"{action}, but it cannot balloon")
            urgent = holds or (lacking and not grows) or (action.urgent and grows)
            self._expect(urgent or self._rested(guest), f"{action} comes too soon after the last")
            expected = [SetMax, SetTarget] if grows else [SetTarget, SetMax]
            self._expect(
                len(by_domid[action.domid]) == 1 or by_domid[action.domid] == expected,
                f"d{action.domid}: {by_domid[action.domid]} in the wrong order",
            )
            if grows and not holds and action.pages > guest.tot:
                grown.append(action.domid)
            guest.target = action.pages
            self.moves.setdefault(action.domid, []).append(self.now)
        repeated = [kind for kinds in by_domid.values() for kind, times in Counter(kinds).items() if times > 1]
        self._expect(not repeated, f"the same was set twice in a step: {repeated}")
        return grown

    def _rested(self, guest: Guest) -> bool:
        moves = self.moves.get(guest.domid, [])
        return not moves or self.now - moves[-1] >= self.state.settings.min_interval_s
