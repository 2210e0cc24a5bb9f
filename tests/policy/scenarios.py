"""The scenarios that the policy must master: each built fresh, with a limit on simulated time.

A scenario names what must hold at its end; what must hold at every step is `simulated`'s. `play` returns all that
did not, as sentences. Sizes are in superpages (S = 512 pages).
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from tests.policy.simulated import Guest, Host, constant
from xbd.policy import (
    CannotFree,
    DomainsUncooperative,
    Policy,
    ReservationState,
    Safety,
    Settings,
    State,
    Verdict,
    reserve,
)
from xbd.policy.builtin.demand import Demand
from xbd.policy.builtin.fair import Fair
from xbd.units import SUPER_PAGES as S

_SETTINGS: Final = Settings(headroom_pages=8 * S, threshold_pages=4 * S)
_DEMAND: Final = Demand()
_FOREVER: Final = (0.0, 1e9)

Check = Callable[[Host], list[str]]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One story: *free* pages and *guests* at first, *reserves* (when, name, pages), what *holds* after *limit_s*."""

    name: str
    description: str
    limit_s: float
    free: int
    guests: Callable[[], list[Guest]]
    holds: Check
    policy: Policy = Fair()  # noqa: RUF009 - frozen
    reserves: tuple[tuple[float, str, int], ...] = field(default=())

    def build(self, *off: Safety) -> Host:
        """Build its host, with some safety mechanisms switched off."""
        return Host(self.guests(), self.free, State(replace(_SETTINGS, off=frozenset(off))), self.policy)

    def play(self, *off: Safety) -> list[str]:
        """Play it to its limit; return what did not hold, which is nothing."""
        host = self.build(*off)
        waiting = list(self.reserves)
        while host.now < self.limit_s:
            while waiting and waiting[0][0] <= host.now:
                _, name, pages = waiting.pop(0)
                host.state = reserve(host.state, name, pages, host.now)
            host.tick()
        return host.wrong + self.holds(host)


# -- what holds


def evenly(*domids: int) -> Check:
    """These (all, if none is named) stand at the same fraction, give or take the threshold and a superpage."""

    def check(host: Host) -> list[str]:
        guests = [host.guest(domid) for domid in domids] or host.guests
        fractions = host.fractions(*domids)
        mean = sum(fractions) / len(fractions)
        slack = host.state.settings.threshold_pages + S
        return [
            f"d{guest.domid} is at {at:.3f}, all at {mean:.3f}"
            for guest, at in zip(guests, fractions, strict=True)
            if abs(at - mean) * (guest.most - guest.least) > slack
        ]

    return check


def used(host: Host) -> list[str]:
    """No more is left unused than thresholds and rounding explain."""
    left = host.budget(ReservationState.HELD, ReservationState.PENDING)
    most = (host.state.settings.threshold_pages + S) * max(len(host.guests) // 4, 1)
    return [] if 0 <= left <= most else [f"{left} pages are free beyond the headroom, at most {most} were expected"]


def resting(host: Host) -> list[str]:
    """No worker has anything left to do, except who cannot and who is being tried again."""
    return [
        f"d{guest.domid} holds {guest.tot} and is to hold {guest.target}"
        for guest in host.guests
        if guest.able and abs(guest.target - guest.tot) > S
    ]


def holding(domid: int, superpages: int) -> Check:
    """A domain holds just so much, give or take the threshold."""

    def check(host: Host) -> list[str]:
        tot = host.guest(domid).tot
        near = abs(tot - superpages * S) <= host.state.settings.threshold_pages
        return [] if near else [f"d{domid} holds {tot / S} superpages, {superpages} were expected"]

    return check


def judged(domid: int, verdict: Verdict) -> Check:
    """The policy thinks this of a domain."""

    def check(host: Host) -> list[str]:
        found = host.state.progress[domid].verdict
        return [] if found is verdict else [f"d{domid} is thought {found}, not {verdict}"]

    return check


def calm(since: float, most_moves: int, domid: int | None = None) -> Check:
    """From a time on, targets (of one domain, or all) were changed no oftener than this."""

    def check(host: Host) -> list[str]:
        moves = host.moves_since(since, domid)
        return [] if moves <= most_moves else [f"{moves} moves since {since} s, at most {most_moves} were expected"]

    return check


def held(name: str) -> Check:
    """A reservation is HELD, and its memory stays free even if every guest takes all that it may."""

    def check(host: Host) -> list[str]:
        found = host.state.reservation(name)
        if found is None or found.state is not ReservationState.HELD:
            return [f"reservation {name} is {found}"]
        host.grab()
        least = host.state.settings.headroom_pages + found.pages
        return [] if host.free >= least else [f"{host.free} pages stay free for {name}, {least} should"]

    return check


def failed(name: str, failure: CannotFree | DomainsUncooperative) -> Check:
    """A reservation failed, for just this reason."""

    def check(host: Host) -> list[str]:
        found = host.state.reservation(name)
        return [] if found is not None and found.failure == failure else [f"reservation {name} is {found}"]

    return check


def every(*checks: Check) -> Check:
    """All of these hold."""
    return lambda host: [wrong for check in checks for wrong in check(host)]


# -- guests


def _unequal(**changes: object) -> Callable[[], list[Guest]]:
    """Four guests of 10 to 100 superpages, unequally filled (d1 to d4); *changes* are d1's."""

    def guests() -> list[Guest]:
        first = Guest(1, 10 * S, 100 * S, 90 * S)
        for name, value in changes.items():
            setattr(first, name, value)
        first.target = first.tot
        return [first, *(Guest(domid, 10 * S, 100 * S, 40 * S) for domid in (2, 3, 4))]

    return guests


def _hundred() -> list[Guest]:
    return [Guest(i + 1, (4 + i % 5) * S, (40 + 3 * (i % 7)) * S, (10 + i % 29) * S) for i in range(100)]


def _demanding(*demands: Callable[[float], int | None], able: bool = True) -> Callable[[], list[Guest]]:
    """Guests of 10 to 100 superpages that hold 40 and demand so; *able* is d1's."""

    def guests() -> list[Guest]:
        return [
            Guest(i + 1, 10 * S, 100 * S, 40 * S, demand=each, able=able or i > 0) for i, each in enumerate(demands)
        ]

    return guests


def _jitter(now: float) -> int:
    return (50 + int(now) % 3) * S


def _seesaw(now: float) -> int:
    return (20 if int(now) % 6 < 3 else 60) * S


def _leftovers() -> list[Guest]:
    """Three with a superpage too much each, and one that lacks four: more than is free."""
    return [*(Guest(i, 10 * S, 100 * S, 51 * S) for i in (1, 2, 3)), Guest(4, 10 * S, 100 * S, 46 * S)]


_OTHERS: Final = evenly(2, 3, 4)

SCENARIOS: Final = {
    scenario.name: scenario
    for scenario in (
        Scenario("all willing", "All go to the same fraction.", 30, 8 * S, _unequal(), every(evenly(), used, resting)),
        Scenario(
            "roomy",
            "More is free than all can use: all grow, and the headroom stays.",
            30,
            170 * S,
            _unequal(),
            every(evenly(), used, resting),
        ),
        Scenario(
            "a floor",
            "d1 goes no lower than 70 superpages and is left there; the others share the rest.",
            240,
            8 * S,
            _unequal(floor=70 * S),
            every(
                _OTHERS, used, resting, holding(1, 70), judged(1, Verdict.UNCOOPERATIVE), calm(0, 10, 1), calm(60, 8)
            ),
        ),
        Scenario(
            "a ceiling",
            "d1 goes no higher than 20 superpages and is left there; the others share the rest.",
            240,
            8 * S,
            _unequal(tot=15 * S, ceiling=20 * S),
            every(_OTHERS, used, resting, holding(1, 20), judged(1, Verdict.UNCOOPERATIVE), calm(0, 10, 1)),
        ),
        Scenario(
            "a floor between superpages",
            "d1 stops 300 pages above a superpage on a host that is full.",
            120,
            8 * S,
            _unequal(tot=90 * S + 300, floor=70 * S + 300),
            every(_OTHERS, used, resting),
        ),
        Scenario(
            "one stuck",
            "d1 never moves; the others do not wait for it, and are left in peace.",
            240,
            38 * S,
            _unequal(stuck=_FOREVER),
            every(_OTHERS, used, resting, holding(1, 90), judged(1, Verdict.UNCOOPERATIVE), calm(40, 8)),
        ),
        Scenario(
            "sticks and recovers",
            "d1 does not move for 12 s, then does.",
            60,
            8 * S,
            _unequal(stuck=(0.0, 12.0)),
            every(evenly(), used, resting, judged(1, Verdict.WILLING)),
        ),
        Scenario(
            "recovers late",
            "d1 does not move for 40 s, when it was given up already; it is tried again.",
            150,
            8 * S,
            _unequal(stuck=(0.0, 40.0)),
            every(evenly(), used, resting, judged(1, Verdict.WILLING)),
        ),
        Scenario(
            "a stuck grower recovers late",
            "d1 does not grow for 40 s, then does.",
            150,
            8 * S,
            _unequal(tot=15 * S, stuck=(0.0, 40.0)),
            every(evenly(), used, resting, judged(1, Verdict.WILLING)),
        ),
        Scenario(
            "a newcomer",
            "d1 is to grow from its minimum while the others must shrink, slowly.",
            60,
            14 * S,
            lambda: [
                Guest(1, 10 * S, 100 * S, 10 * S),
                *(Guest(i, 10 * S, 100 * S, 80 * S, rate=4 * S) for i in (2, 3)),
            ],
            every(evenly(), used, resting),
        ),
        Scenario(
            "absurd demand",
            "d1 and d2 report demands beyond all sense; who asks for little has it, and the others are even.",
            60,
            8 * S,
            _demanding(constant(1 << 62), constant(-(1 << 62)), constant(30 * S), constant(90 * S)),
            every(evenly(1, 4), used, resting, holding(2, 10), holding(3, 30)),
            _DEMAND,
        ),
        Scenario(
            "demand that fits",
            "All have what they demand, and what is left over raises who has least.",
            60,
            8 * S,
            _demanding(constant(70 * S), constant(20 * S), constant(20 * S), constant(10 * S)),
            every(evenly(2, 3, 4), used, resting, holding(1, 70)),
            _DEMAND,
        ),
        Scenario(
            "demand of one that cannot balloon",
            "d1 demands all and has no agent; it is given nothing, and the others have what there is.",
            60,
            38 * S,
            _demanding(constant(100 * S), constant(60 * S), constant(60 * S), able=False),
            every(evenly(2, 3), used, resting, holding(1, 40), judged(1, Verdict.UNABLE)),
            _DEMAND,
        ),
        Scenario(
            "never reports",
            "d1 reports nothing and stands where a fair balance has it; of the others each has its demand.",
            60,
            8 * S,
            _demanding(lambda _now: None, constant(70 * S), constant(10 * S)),
            every(holding(1, 40), holding(2, 70), holding(3, 10), used, resting),
            _DEMAND,
        ),
        Scenario(
            "minimum equal to maximum",
            "d1's range is nothing: it stays, and divides nothing.",
            30,
            8 * S,
            lambda: [Guest(1, 50 * S, 50 * S, 50 * S), *_unequal()()[1:], Guest(5, 10 * S, 100 * S, 90 * S)],
            every(evenly(2, 3, 4, 5), used, resting, holding(1, 50)),
        ),
        Scenario("a hundred", "A hundred at once.", 30, 100 * S, _hundred, every(evenly(), used, resting)),
        Scenario(
            "a slow one",
            "d1 moves a superpage in two seconds, and is waited for.",
            150,
            8 * S,
            _unequal(rate=S // 2),
            every(evenly(), used, resting, judged(1, Verdict.WILLING)),
        ),
        Scenario(
            "a reservation",
            "Memory for something new is freed evenly and stays free, whatever guests take.",
            60,
            8 * S,
            _unequal(),
            every(evenly(), used, held("new")),
            reserves=((20, "new", 60 * S),),
        ),
        Scenario(
            "two reservations and a stuck one",
            "Both are met by those who give.",
            60,
            8 * S,
            _unequal(stuck=_FOREVER),
            every(_OTHERS, held("new"), held("odd")),
            reserves=((3, "new", 30 * S), (4, "odd", 1000)),
        ),
        Scenario(
            "too large a reservation",
            "More than all could give: it fails at once with what is possible, and changes nothing.",
            60,
            8 * S,
            _unequal(),
            every(evenly(), used, failed("new", CannotFree(180 * S, 170 * S)), calm(21, 0)),
            reserves=((20, "new", 180 * S),),
        ),
        Scenario(
            "a reservation that one refuses",
            "d1 would have to give and does not: it is named after the deadline, and the others get theirs back.",
            120,
            8 * S,
            _unequal(stuck=_FOREVER),
            every(_OTHERS, used, resting, failed("new", DomainsUncooperative((1,)))),
            reserves=((0, "new", 120 * S),),
        ),
        Scenario(
            "jitter",
            "Demand that trembles moves nobody.",
            120,
            16 * S,
            _demanding(_jitter, constant(30 * S), constant(40 * S)),
            every(used, resting, calm(20, 0)),
            _DEMAND,
        ),
        Scenario(
            "seesaw",
            "Demand that rises and falls every 3 s moves nobody more often than every 10 s.",
            120,
            8 * S,
            _demanding(_seesaw, constant(60 * S), constant(40 * S)),
            every(calm(0, 40)),
            _DEMAND,
        ),
        Scenario("leftovers", "Who lacks much gets no more than is free.", 30, 9 * S, _leftovers, every(used)),
    )
}
