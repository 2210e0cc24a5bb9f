"""Fair shares of the processor, by numbers alone."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xbd.control.fair_turns import LONG_TURN_S, LONGEST_REST_S, RESTS, FairTurns, Share, rest_after, turns_in_a_round

COSTS_S = st.lists(st.floats(2e-4, 2e-2), min_size=1, max_size=5)


@dataclass(eq=False)
class Guest:
    """A guest whose turns cost so much, one after the other, over and over."""

    costs_s: list[float]
    share: Share = field(default_factory=Share)
    spent_s: float = 0.0
    turns: int = 0


def serve(order: FairTurns[Guest], until_s: float, now_s: float = 0.0) -> float:
    """Serve those who wait, who all wait again at once; returns the time."""
    while now_s < until_s:
        guest = order.next()
        cost_s = guest.costs_s[guest.turns % len(guest.costs_s)]
        now_s += cost_s
        order.end(guest.share, cost_s, now_s)
        guest.spent_s += cost_s
        guest.turns += 1
        order.wait(guest.share, guest)
    return now_s


@given(st.lists(COSTS_S, min_size=2, max_size=20))
def test_who_always_waits_gets_its_part(costs_s: list[list[float]]) -> None:
    """Whatever the turns of each are like, no two differ by more than a turn of each."""
    order: FairTurns[Guest] = FairTurns()
    guests = [Guest(costs) for costs in costs_s]
    for guest in guests:
        order.wait(guest.share, guest)
    serve(order, 0.5)

    for one in guests:
        for other in guests:
            assert abs(one.spent_s - other.spent_s) <= max(one.costs_s) + max(other.costs_s) + 1e-9


@given(st.lists(COSTS_S, min_size=1, max_size=20), st.floats(0.1, 0.5))
def test_who_comes_is_next(costs_s: list[list[float]], comes_s: float) -> None:
    """Who did not wait before, and has had less than the others, waits for the turn that is under way alone."""
    order: FairTurns[Guest] = FairTurns()
    for costs in costs_s:
        guest = Guest(costs)
        order.wait(guest.share, guest)
    serve(order, comes_s)
    honest = Guest([1e-4])
    order.wait(honest.share, honest)

    while (before := order.next()) is not honest:
        assert before.share.charged_s <= honest.share.charged_s


@given(COSTS_S, st.floats(0.1, 0.5))
def test_no_time_is_saved_up(costs_s: list[float], alone_s: float) -> None:
    """Who had all the time while it was alone has no debt of it, who stayed away no right to it: they share from now on."""
    order: FairTurns[Guest] = FairTurns()
    busy, idle = Guest(costs_s), Guest(costs_s)
    now_s = 0.0
    while now_s < alone_s:
        order.begin(busy.share)
        now_s += costs_s[0]
        order.end(busy.share, costs_s[0], now_s)
    for guest in (busy, idle):
        order.wait(guest.share, guest)
    serve(order, now_s + 0.5, now_s)

    assert abs(busy.spent_s - idle.spent_s) <= 3 * max(costs_s) + 1e-9


def test_the_connections_of_a_guest_share_its_part() -> None:
    """A guest with four connections that wait gets no more turns than one with one."""
    order: FairTurns[Guest] = FairTurns()
    one, many = Guest([1e-3]), Share()
    connections = [Guest([1e-3], many) for _ in range(4)]
    for guest in (*connections, one):
        order.wait(guest.share, guest)
    serve(order, 0.5)

    assert sum(guest.turns for guest in connections) == pytest.approx(one.turns, abs=2)


def test_who_leaves_is_not_chosen() -> None:
    """One that is gone while it waits leaves the others' order as it is."""
    order: FairTurns[str] = FairTurns()
    for name in ("first", "gone", "last"):
        order.wait(Share(), name)
    order.leave("gone")
    order.leave("never there")

    assert [order.next(), order.next(), len(order)] == ["first", "last", 0]


@pytest.mark.parametrize(
    ("turn_s", "rest_s"), [(0.0, 0.0), (LONG_TURN_S, 0.0), (0.0025, 0.002 * RESTS), (1.0, LONGEST_REST_S)]
)
def test_a_long_turn_is_rested_after(turn_s: float, rest_s: float) -> None:
    """In proportion to what it took beyond a batch's time: a twentieth of a core is what long turns can have."""
    assert rest_after(turn_s) == pytest.approx(rest_s)


@pytest.mark.parametrize(("turn_s", "rest_s"), [(2 * LONG_TURN_S, 0.0), (3 * LONG_TURN_S, LONG_TURN_S * RESTS)])
def test_two_batches_may_take_as_long_as_two_turns(turn_s: float, rest_s: float) -> None:
    """After a multicall of two batches is rested as after one batch that took `LONG_TURN_S` less; all of it is charged."""
    order: FairTurns[None] = FairTurns()
    share = Share()
    order.end(share, turn_s, 0.0, 2)

    assert max(share.rested_at_s, 0.0) == pytest.approx(rest_s)
    assert share.charged_s == turn_s


@pytest.mark.parametrize("guests", [1, 8, 50])
@pytest.mark.parametrize("turn_s", [0.002, 0.1])
def test_long_turns_of_many_take_no_more_than_those_of_one(guests: int, turn_s: float) -> None:
    """However many guests make long turns as often as they are let, together they take the time that one may take."""
    order: FairTurns[None] = FairTurns()
    shares = [Share() for _ in range(guests)]
    now_s, spent_s = 0.0, 0.0
    while now_s < 1000.0:
        share = min(shares, key=lambda share: share.rested_at_s)
        now_s = max(now_s, share.rested_at_s) + turn_s
        order.end(share, turn_s, now_s)
        spent_s += turn_s

    # As long as the first of them do not know of the others, they rest for less.
    assert spent_s / now_s < 1.05 * turn_s / rest_after(turn_s)


@given(st.floats(0.0, 0.01), st.floats(0.0, 1.0))
def test_guests_have_half_of_a_round(turn_s: float, others_s: float) -> None:
    """One has a turn in each round; more only as far as they take no longer than the rest of it did."""
    turns = turns_in_a_round(turn_s, others_s)
    assert turns >= 1
    assert (turns - 1) * turn_s <= others_s * (1 + 1e-9)
    assert turns * max(turn_s, 5e-5) >= others_s
