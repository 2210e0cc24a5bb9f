"""Sharing out: the common fraction, floors, ceilings and demand."""

from hypothesis import given
from hypothesis import strategies as st

from xbd.policy.balance import Claimant, by_demand, fair
from xbd.units import SUPER_PAGES as S

_WHOLE = st.integers(0, 200).map(lambda count: count * S)


@st.composite
def _claimants(draw: st.DrawFn) -> list[Claimant]:
    claimants = []
    for _ in range(draw(st.integers(1, 8))):
        least, most, floor, ceiling = (draw(_WHOLE) for _ in range(4))
        demand = draw(st.one_of(st.none(), st.integers(least, max(least, most))))
        claimants.append(Claimant(min(least, most), max(least, most), min(floor, ceiling), max(floor, ceiling), demand))
    return claimants


@given(_claimants(), st.integers(0, 1000 * S), st.booleans())
def test_gives_no_more_than_there_is(claimants: list[Claimant], pages: int, demand: bool) -> None:  # noqa: FBT001 -- drawn
    """Each is between its floor and its ceiling, and together they have what there is, unless the floors alone are more."""
    given_pages = (by_demand if demand else fair)(claimants, pages)

    for each, held in zip(claimants, given_pages, strict=True):
        assert each.floor <= held <= each.ceiling
    at_least = sum(min(max(each.least, each.floor), each.ceiling) for each in claimants)
    assert sum(given_pages) <= max(pages, at_least)


@given(_claimants(), st.integers(0, 1000 * S))
def test_leaves_only_what_rounding_leaves(claimants: list[Claimant], pages: int) -> None:
    """What is left over is less than a superpage for each, unless all have all that they may."""
    given_pages = fair(claimants, pages)
    at_most = sum(min(max(each.most, each.floor), each.ceiling) for each in claimants)

    assert sum(given_pages) > min(pages, at_most) - S * len(claimants)


def test_equal_fractions() -> None:
    """A range of 90 superpages gets three times as much beyond its minimum as one of 30; one of 0 gets its minimum."""
    claimants = [Claimant(10 * S, 100 * S, 0, 1 << 40), Claimant(S, 31 * S, 0, 1 << 40), Claimant(S, S, 0, 1 << 40)]

    assert fair(claimants, 52 * S) == [40 * S, 11 * S, S]


def test_one_at_its_floor_leaves_the_rest_even() -> None:
    """What one does not give up is missed by all others alike."""
    claimants = [Claimant(0, 90 * S, 60 * S, 90 * S), Claimant(0, 90 * S, 0, 90 * S), Claimant(0, 90 * S, 0, 90 * S)]

    assert fair(claimants, 100 * S) == [60 * S, 20 * S, 20 * S]


def test_demand_takes_nothing_that_others_ask_for() -> None:
    """When not all fits, who asks for little has it; of two that ask for much each has the same, however much it is."""
    asked = [10 * S, 45 * S, 90 * S]
    claimants = [Claimant(0, 90 * S, 0, 90 * S, demand) for demand in asked]

    assert by_demand(claimants, 90 * S) == [10 * S, 40 * S, 40 * S]


def test_who_is_silent_stands_where_a_fair_balance_has_it() -> None:
    """No report is a report of the fair share, whether demand fits or not."""
    for asked, expected in ((20 * S, 30 * S), (90 * S, 30 * S)):
        claimants = [Claimant(0, 90 * S, 0, 90 * S, None), *[Claimant(0, 90 * S, 0, 90 * S, asked)] * 2]
        assert by_demand(claimants, 90 * S)[0] == expected
