"""The policy on random hosts: its promises always hold, and willing domains come to rest."""

from dataclasses import replace

from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from tests.policy.simulated import Guest, Host, constant, silent
from xbd.config.policies import BUILT_IN
from xbd.policy import (
    Action,
    CannotFree,
    DomainSnapshot,
    GuestReport,
    Policy,
    ReservationState,
    SetMax,
    SetTarget,
    Settings,
    Snapshot,
    State,
    Verdict,
    release,
    reserve,
    step,
)
from xbd.policy.builtin.demand import Demand
from xbd.policy.builtin.fair import Fair
from xbd.units import SUPER_PAGES as S
from xbd.units import round_up

_SETTINGS = st.builds(
    Settings,
    headroom_pages=st.integers(0, 20 * S),
    threshold_pages=st.sampled_from([0, 1, S, 4 * S, 10 * S]),
    min_interval_s=st.sampled_from([0.0, 3.0, 10.0]),
)


_POLICIES = st.sampled_from([kind() for kind in BUILT_IN.values()])
_REPORTS = st.builds(
    GuestReport,
    used_pages=st.one_of(st.none(), st.integers(0, 200 * S)),
    unused_pages=st.one_of(st.none(), st.integers(0, 200 * S)),
    available_pages=st.one_of(st.none(), st.integers(0, 200 * S)),
    pressure=st.one_of(st.none(), st.floats(0, 1)),
)


@st.composite
def _guests(draw: st.DrawFn, *, willing: bool) -> list[Guest]:
    """Draw up to eight guests; *willing*: all of them move as they are told."""
    guests = []
    for domid in range(1, draw(st.integers(1, 8)) + 1):
        least = draw(st.integers(0, 40 * S))
        most = max(least + draw(st.one_of(st.just(0), st.integers(0, 100 * S))), S)
        # Within bounds that are whole superpages, as the toolstack builds domains; what it holds need not be whole.
        least, most = max(round_up(least), S), round_up(most)
        tot = draw(st.integers(least, most))
        guest = Guest(domid, least, most, tot, max_pages=draw(st.integers(tot, most)), rate=S * 16)
        guest.demand = draw(st.sampled_from([silent, constant(-5), constant(1 << 70), constant(30 * S)]))
        guest.report = draw(_REPORTS)
        if not willing:
            guest.rate = draw(st.sampled_from([1, 100, S, 64 * S]))
            guest.floor = draw(st.sampled_from([0, 0, least + 700, most]))
            guest.ceiling = draw(st.sampled_from([1 << 40, 1 << 40, max(least, most - 900)]))
            begin = draw(st.integers(0, 60))
            guest.stuck = (begin, begin + draw(st.sampled_from([0, 3, 12, 40, 1000])))
            guest.able = draw(st.sampled_from([True, True, True, False]))
        guests.append(guest)
    return guests


@examples(max_examples=60)
@given(
    _guests(willing=False),
    st.integers(0, 100 * S),
    _SETTINGS,
    _POLICIES,
    st.tuples(st.integers(1, 80 * S), st.integers(0, 60)),
)
def test_never_breaks_a_promise(
    guests: list[Guest], free: int, settings: Settings, policy: Policy, reservation: tuple[int, int]
) -> None:
    """Whatever guests do, and whatever the policy is: headroom, bounds, promises, order, phases and intervals hold at every step."""
    reserved, reserve_at_s = reservation
    host = Host(guests, free, State(settings), policy)
    host.run(reserve_at_s)
    host.state = reserve(host.state, "new", reserved, host.now)
    host.run(40)
    host.state = release(host.state, "new")
    host.run(20)

    assert host.wrong == []


@examples(max_examples=30)
@given(_guests(willing=True), st.integers(0, 100 * S), _SETTINGS, st.sampled_from([Fair(), Demand()]))
def test_willing_domains_come_to_rest(guests: list[Guest], free: int, settings: Settings, policy: Policy) -> None:
    """Within a minute all hold their targets, nobody is moved any more, and a fair balance is even."""
    host = Host(guests, free, State(replace(settings, min_interval_s=3.0)), policy)
    host.run(60)

    assert host.wrong == []
    assert host.moves_since(45) == 0
    assert [guest for guest in guests if not -S < guest.tot - guest.target <= 0] == []
    assert {progress.verdict for progress in host.state.progress.values()} == {Verdict.WILLING}
    if isinstance(policy, Fair):
        # What was too small to send for each of two sides, and rounding.
        slack = 2 * (settings.threshold_pages + S)
        even = _evenly(guests, host.total - settings.headroom_pages)
        assert [guest for guest, pages in zip(guests, even, strict=True) if abs(guest.tot - pages) > slack] == []


def _evenly(guests: list[Guest], pages: int) -> list[float]:
    """Find the common fraction by halving, not as the policy does."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        if sum(guest.least + middle * (guest.most - guest.least) for guest in guests) > pages:
            high = middle
        else:
            low = middle
    return [guest.least + low * (guest.most - guest.least) for guest in guests]


@given(
    st.lists(st.tuples(*[st.integers(0, 3000)] * 5, st.booleans(), st.one_of(st.none(), st.integers())), max_size=6),
    st.integers(0, 10_000),
    st.integers(0, 10_000),
)
def test_takes_any_snapshot(
    domains: list[tuple[int, int, int, int, int, bool, int | None]], free: int, claimed: int
) -> None:
    """No snapshot, however crooked, makes it fail, and what it sets is within bounds and whole."""
    state = State()
    for now in (0.0, 6.0, 25.0, 90.0):
        seen = tuple(DomainSnapshot(domid, *rest) for domid, rest in enumerate(domains))
        state, actions = step(state, Snapshot(free, 20_000, claimed, seen), now)
        for action in actions:
            most = seen[action.domid].static_max_pages
            assert 0 < action.pages <= most
            assert action.pages % S == 0


def _two_below_their_minimum(free: int, claimed: int = 0) -> list[Action]:
    """Step on a host with two domains that hold 10 superpages of a minimum of 40, with a headroom of 8."""
    domains = tuple(DomainSnapshot(domid, 10 * S, 10 * S, 10 * S, 40 * S, 100 * S) for domid in (1, 2))
    snapshot = Snapshot(free * S, 1000 * S, claimed * S, domains)
    return step(State(Settings(headroom_pages=8 * S)), snapshot, 0.0)[1]


def test_no_target_is_set_below_a_minimum() -> None:
    """A domain below its minimum gets all of that or waits: part of it the hypervisor would refuse."""
    assert _two_below_their_minimum(free=37) == []
    assert _two_below_their_minimum(free=38) == [SetMax(1, 40 * S), SetTarget(1, 40 * S)]
    assert {action.domid for action in _two_below_their_minimum(free=68)} == {1, 2}


def test_what_is_claimed_is_not_shared_out() -> None:
    """Memory that is free, but promised to somebody by a claim, makes nobody grow."""
    assert _two_below_their_minimum(free=60, claimed=22) == _two_below_their_minimum(free=38)
    assert _two_below_their_minimum(free=60, claimed=23) == []


def test_two_reservations_do_not_count_the_same_memory() -> None:
    """What is held for one is not there for the other."""
    state = State(Settings(headroom_pages=0))
    for name in ("first", "second"):
        state = reserve(state, name, 60 * S, 0.0)
        state, _ = step(state, Snapshot(100 * S, 100 * S, 0, ()), 1.0)
    first, second = state.reservations

    assert first.state is ReservationState.HELD
    assert second.failure == CannotFree(60 * S, 40 * S)
