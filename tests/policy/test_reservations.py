"""Reservations: asked for, released, and what becomes of them."""

import pytest

from tests.policy.simulated import Guest, Host
from xbd.errors import AlreadyExists, BadArgument
from xbd.policy import (
    CannotFree,
    DomainsUncooperative,
    ReservationState,
    SetMax,
    SetTarget,
    Settings,
    State,
    release,
    reserve,
)
from xbd.units import SUPER_PAGES as S

_SETTINGS = Settings(headroom_pages=0, threshold_pages=S)


def _host(*guests: Guest, free: int = 0) -> Host:
    return Host(list(guests), free, State(_SETTINGS))


def _state_of(host: Host, name: str) -> ReservationState:
    found = host.state.reservation(name)
    assert found is not None
    return found.state


def test_a_name_is_taken_once() -> None:
    """A second reservation of the name is refused, a failed one holds its name until released, and release is repeatable."""
    state = reserve(State(), "new", S, 0.0)
    with pytest.raises(AlreadyExists, match="'new'"):
        reserve(state, "new", S, 1.0)

    assert release(release(state, "new"), "new").reservations == ()


@pytest.mark.parametrize("pages", [0, -1, 1 << 60])
def test_impossible_sizes_are_refused(pages: int) -> None:
    """No reservation of nothing, of less, or of more than any host."""
    with pytest.raises(BadArgument, match="a reservation of "):
        reserve(State(), "new", pages, 0.0)


def test_what_is_free_is_held_at_once() -> None:
    """With enough free in the first step the reservation is held, and nobody grows into it."""
    host = _host(Guest(1, S, 100 * S, 50 * S, max_pages=50 * S), free=60 * S)
    host.state = reserve(host.state, "new", 40 * S, host.now)
    host.tick()

    assert _state_of(host, "new") is ReservationState.HELD
    host.run(30)
    assert host.guest(1).tot == 70 * S
    assert host.wrong == []


def test_shrinks_by_target_then_max_and_gives_back_on_release() -> None:
    """A reservation shrinks in the order target, max_pages; its release lets the domain grow by max_pages, target."""
    host = _host(Guest(1, S, 50 * S, 50 * S))
    host.state = reserve(host.state, "new", 20 * S, host.now)

    assert host.tick() == [SetTarget(1, 30 * S), SetMax(1, 30 * S)]
    host.run(20)
    assert _state_of(host, "new") is ReservationState.HELD
    host.state = release(host.state, "new")
    assert host.tick() == [SetMax(1, 50 * S), SetTarget(1, 50 * S)]


def test_fails_when_the_possible_has_shrunk() -> None:
    """A pending reservation fails, with what is still possible, when a domain's minimum is raised."""
    host = _host(Guest(1, S, 50 * S, 50 * S, rate=S))
    host.state = reserve(host.state, "new", 40 * S, host.now)
    host.tick()
    assert _state_of(host, "new") is ReservationState.PENDING
    host.guest(1).least = 30 * S
    host.tick()

    found = host.state.reservation("new")
    assert found is not None
    assert found.failure == CannotFree(40 * S, 20 * S)
    host.run(60)
    assert host.guest(1).tot == 50 * S
    assert host.wrong == []


def test_one_that_fails_takes_nothing_from_the_next() -> None:
    """Of two the first is too large; the second is met as though there had never been a first."""
    host = _host(Guest(1, S, 50 * S, 50 * S))
    for name, pages in (("large", 60 * S), ("small", 49 * S)):
        host.state = reserve(host.state, name, pages, host.now)
    host.run(5)

    assert _state_of(host, "large") is ReservationState.FAILED
    assert _state_of(host, "small") is ReservationState.HELD


def test_known_refusers_are_named_at_once() -> None:
    """Who refused a minute ago is named in the first step, not waited for again."""
    host = _host(Guest(7, S, 50 * S, 50 * S, stuck=(0.0, 1e9)), Guest(8, S, 50 * S, 50 * S), free=S)
    host.state = reserve(host.state, "first", 80 * S, host.now)
    host.run(25)
    host.state = reserve(host.state, "second", 70 * S, host.now)
    host.tick()

    for name in ("first", "second"):
        found = host.state.reservation(name)
        assert found is not None
        assert found.failure == DomainsUncooperative((7,))
    assert host.wrong == []


def test_claims_are_not_handed_out() -> None:
    """What is claimed stays free, and what is claimed beyond what is free is freed."""
    host = _host(Guest(1, S, 100 * S, 50 * S), free=10 * S)
    host.claimed = 30 * S
    host.run(20)

    assert host.guest(1).tot == 30 * S
    assert host.free == host.claimed
    assert host.wrong == []
