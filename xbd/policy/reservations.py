"""Reservations: memory that is freed for something and then held free, or the exact reason why it cannot be.

A reservation is PENDING while memory is freed for it; HELD once what is free, less the headroom, all claims, all that
any domain may still take and all other reservations, covers it; FAILED when those that could give cannot give enough.
It then holds nothing, and stays to be read until it is released. A HELD one remains: if somebody else takes
its memory, the policy frees more.

A client that has used the memory (created a domain in it, claimed it) must release at once: until then it counts twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from xbd.errors import AlreadyExists, BadArgument
from xbd.policy.cases import Case
from xbd.policy.model import (
    MAX_RESERVATION_PAGES,
    MAX_RESERVATIONS,
    CannotFree,
    DomainsUncooperative,
    Failure,
    Reservation,
    ReservationState,
    State,
)
from xbd.units import exact_size, round_down


def reserve(state: State, name: str, pages: int, now: float) -> State:
    """Ask for memory to be freed and held; the next step says PENDING, HELD, or why not.

    Raises:
        AlreadyExists: *name* has a reservation, failed ones included.
        BadArgument: *pages* is not above 0, or there are too many reservations.
    """
    if state.reservation(name) is not None:
        raise AlreadyExists(f"there is a reservation {name!r}", "another name, or its release first")
    if not 0 < pages <= MAX_RESERVATION_PAGES:
        raise BadArgument(f"a reservation of {exact_size(pages)}", f"a page to {exact_size(MAX_RESERVATION_PAGES)}")
    if len(state.reservations) >= MAX_RESERVATIONS:
        raise BadArgument(f"{MAX_RESERVATIONS} reservations exist", "one of them to be released first")
    return replace(state, reservations=(*state.reservations, Reservation(name, pages, now)))


def release(state: State, name: str) -> State:
    """Give a reservation back, whatever its state; one that is not there changes nothing (a client may be gone twice)."""
    return replace(state, reservations=tuple(each for each in state.reservations if each.name != name))


@dataclass(frozen=True, slots=True)
class _Supply:
    """What domains could give up: *willing_pages*, and *refused_pages* that the *refusers* among them do not give."""

    willing_pages: int
    refused_pages: int
    refusers: tuple[int, ...]


def judge(
    reservations: Sequence[Reservation], cases: Sequence[Case], usable_pages: int, now: float
) -> tuple[Reservation, ...]:
    """Say where each reservation stands; *usable_pages* are free beyond headroom and claims."""
    pending = ReservationState.PENDING
    if not any(each.state is pending for each in reservations):
        return tuple(reservations)
    supply = _supply(cases)
    room = sum(case.room for case in cases)
    promised = sum(each.pages for each in reservations if each.state is ReservationState.HELD)
    judged = []
    for each in reservations:
        after = each
        if each.state is pending:
            if usable_pages - room - promised >= each.pages:
                after = replace(each, state=ReservationState.HELD, since_s=now)
            else:
                failure = _failure(each.pages, supply, usable_pages - promised)
                if failure is not None:
                    after = replace(each, state=ReservationState.FAILED, failure=failure, since_s=now)
            if after.live:
                promised += each.pages
        judged.append(after)
    return tuple(judged)


def _failure(pages: int, supply: _Supply, usable_pages: int) -> Failure | None:
    possible = usable_pages + supply.willing_pages
    if pages <= possible:
        return None
    if supply.refusers and pages <= possible + supply.refused_pages:
        return DomainsUncooperative(supply.refusers)
    return CannotFree(pages, max(round_down(possible), 0))


def _supply(cases: Sequence[Case]) -> _Supply:
    """Add up what domains could give; a stuck one counts as willing until its deadline."""
    willing = refused = 0
    refusers = []
    for case in cases:
        tot, least = case.domain.tot_pages, case.bounds.least
        if not case.progress.able or case.bounds.most == 0:
            willing -= case.room
            continue
        floor = max(least, case.progress.least_pages or 0)
        willing += tot - min(floor, max(case.limit, tot))
        withheld = min(tot, floor) - least
        if withheld > 0:
            refused += withheld
            refusers.append(case.domain.domid)
    return _Supply(willing, refused, tuple(refusers))
