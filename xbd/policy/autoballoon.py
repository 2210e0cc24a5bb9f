"""The safety layer around every policy: from the state of a host, and what a policy wants, to new targets; pure.

Theory of operation. Every step sees the host afresh and does the same in the same order:

1. *Judge* each domain by its progress (`progress`): willing, stuck, uncooperative, unable.
2. *Reservations*: held, still pending, or impossible (`reservations`).
3. *Hold* those whose time is up: an unreachable target becomes what the domain holds, so that its worker rests.
4. *Cap*: nobody's max_pages stays above its target; that of a stuck or unable one not above what it holds.
5. *Ask* the policy (`plugin`) what each should hold; what it wants counts within the domain's bounds and refusals. If all
   is more than all hold and what is free, less headroom, claims and reservations, those that want most get less.
6. *Shrink* those that have more than that: target, then max_pages.
7. *Grow* those that have less, once nobody willing still gives up: max_pages, then target.

`look` is 1 to 4, `act` 5 to 7; between them the policy is asked, here (`step`) or by another process.

Memory counts as promised as soon as a domain may take it, that is up to its max_pages. Growing domains together get
no more than what is free and promised to nobody at that moment. So it never makes free memory fall below the
headroom, and what is held for a reservation stays free even if every guest takes all that it may.

A change is sent if it is at least `threshold_pages`, and the domain has not been moved for `min_interval_s`. A smaller one is
sent if a larger one waits for its memory; and while memory is needed (headroom, claims, reservations), both
rules give way for shrinking, and only for that.

With `bare` none of this is done: what the policy wants is sent, as its original would send it.

What it deliberately does not do: remember the host (a restarted one goes on from what it finds, and only has to
learn
again which domains are stuck); end or page out a domain; change one that cannot balloon, other than capping it.

Assumptions:
    1. The snapshot is of one moment, and the actions of a step are sent, in order, before the next snapshot. One that fails
       is seen in the next snapshot, and is decided anew.
    2. A domain that is not in the snapshot is nobody's here: it may free memory, and takes it only through claims or
       when it is created; if that eats the headroom, it is freed again.
    3. A claim of a domain that is in the snapshot counts beside its room up to max_pages: too careful, never too generous.
    4. Minimum and maximum are the operator's, the page counts the hypervisor's. Only demand_pages is a guest's word.
    5. `now` never runs backwards; steps come about once a second, and sooner when something has changed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from xbd.policy.balance import fair
from xbd.policy.builtin.fair import Fair
from xbd.policy.cases import Case
from xbd.policy.model import (
    Action,
    Decision,
    Reservation,
    ReservationState,
    Safety,
    SetMax,
    SetTarget,
    Settings,
    Snapshot,
    State,
    bounds_of,
)
from xbd.policy.plugin import Answer, Policy, ask
from xbd.policy.progress import gap, observe, overdue, refuse
from xbd.policy.reservations import judge
from xbd.target_rules import Approach, limit_comes_first
from xbd.units import round_down, round_up

_NO_ANSWER: Final = Answer()
_FAIR: Final = Fair()


@dataclass(frozen=True, slots=True)
class Look:
    """The host judged at a moment, ready for the policy: *seen* is what it is shown. To be acted on once."""

    state: State
    seen: Snapshot
    reservations: tuple[Reservation, ...]
    host: "_Host"


def step(state: State, snapshot: Snapshot, now: float, policy: Policy = _FAIR) -> tuple[State, list[Action]]:
    """Decide what to do next, with a policy that is asked in this process.

    Args:
        state: what the last step returned, with what was reserved or released since; not modified.
        snapshot: the host at this moment; each domid once.
        now: seconds on any clock that never runs backwards.
        policy: asked as long as it makes no trouble.

    Returns:
        The new state, and the actions in the order in which they are to be sent: all within each domain's bounds and
        multiples of 512 pages, unless the settings are `bare`.
    """
    looked = look(state, snapshot, now)
    return act(looked, _NO_ANSWER if state.trouble else ask(policy, state.own, looked.seen, now))


def look(state: State, snapshot: Snapshot, now: float) -> Look:
    """Judge the host; arguments as of `step`."""
    cases = _judge_all(state, snapshot, now)
    usable = snapshot.free_pages - snapshot.claimed_pages
    if state.settings.on(Safety.HEADROOM):
        usable -= state.settings.headroom_pages
    reservations = judge(state.reservations, cases, usable, now)
    host = _Host(usable - _set_aside(reservations, state.settings), cases, state.settings)
    if not state.settings.bare:
        spare = host.budget()
        for case in cases:
            if case.bounds.most and overdue(case.progress, state.settings, now):
                spare -= _refused(case, spare)
        for case in cases:
            case.cap()
    set_aside = snapshot.free_pages - snapshot.claimed_pages - host.usable
    seen = replace(snapshot, domains=tuple(case.seen() for case in cases), set_aside_pages=set_aside)
    return Look(state, seen, reservations, host)


def act(looked: Look, answer: Answer) -> tuple[State, list[Action]]:
    """Make of what the policy answered what is to be sent; returns as `step` does."""
    state, host = looked.state, looked.host
    if state.settings.bare:
        actions = _as_it_is(host.cases, answer)
    else:
        _set_goals(host, answer)
        _shrink(host)
        grown = _grow(host)
        actions = [action for case in host.cases if case.domain.domid not in grown for action in case.actions]
        actions += [action for case in host.cases if case.domain.domid in grown for action in case.actions]
    waits = _waits(host)
    decisions = {case.domain.domid: Decision(case.goal, case.kept(waits=waits), case.reason) for case in host.cases}
    after = replace(
        state,
        progress=MappingProxyType({case.domain.domid: case.settled() for case in host.cases}),
        reservations=looked.reservations,
        decisions=MappingProxyType(decisions),
        own=answer.own,
        trouble=state.trouble or answer.trouble,
    )
    return after, actions


def _as_it_is(cases: Sequence[Case], answer: Answer) -> list[Action]:
    """Send what the policy wants, and the limit with it, as the toolstack does."""
    wanted = {target.domid: target for target in answer.targets}
    actions: list[Action] = []
    for case in cases:
        target = wanted.get(case.domain.domid, SetTarget(case.domain.domid, case.target))
        case.goal, case.reason = target.pages, target.reason
        if target.pages != case.target:
            limit = SetMax(target.domid, round_up(target.pages))
            first = limit_comes_first(target.pages, case.limit)
            actions += [limit, target] if first else [target, limit]
    return actions


@dataclass(frozen=True, slots=True)
class _Host:
    """The host in this step: *usable* pages are free beyond headroom, claims and reservations; negative: missing."""

    usable: int
    cases: Sequence[Case]
    settings: Settings

    def budget(self) -> int:
        """Count the pages that are free and promised to nobody; negative: so many more are promised than are free."""
        return self.usable - sum(case.room for case in self.cases)


def _judge_all(state: State, snapshot: Snapshot, now: float) -> list[Case]:
    cases = []
    for domain in snapshot.domains:
        progress = observe(state.progress.get(domain.domid), domain, state.settings, now)
        bounds = bounds_of(domain)
        cases.append(Case(domain, bounds, progress, state.settings, now, domain.target_pages, domain.max_pages))
    return cases


def _set_aside(reservations: Sequence[Reservation], settings: Settings) -> int:
    """Count what reservations keep from being shared out."""
    kept = settings.on(Safety.HOLD_RESERVATIONS)
    return sum(each.pages for each in reservations if each.live and (kept or each.state is ReservationState.PENDING))


def _refused(case: Case, spare: int) -> int:
    """Note a refusal, and set the domain's target to what it holds; return what that takes of the *spare* pages."""
    settings, tot, room = case.settings, case.domain.tot_pages, case.room
    pages = round_up(tot) if tot > case.progress.aim_pages else round_down(tot)
    if pages - tot > spare:
        # Rounding up would take what is not there.
        pages = round_down(tot)
    case.progress = refuse(case.progress, tot, settings, case.now)
    if settings.on(Safety.HOLD_UNREACHABLE):
        case.hold(case.bounds.clamp(pages))
        left = gap(tot, case.target)
        case.progress = replace(case.progress, aim_pages=case.target, approach=Approach(left, case.now), stuck=left > 0)
    return max(case.room - room, 0)


def _set_goals(host: _Host, answer: Answer) -> None:
    """Set what each domain should hold: what the policy wants, as far as it is possible, and all together is there."""
    wanted = {target.domid: target for target in answer.targets}
    claimants = [case.claimant() for case in host.cases]
    for case, claimant in zip(host.cases, claimants, strict=True):
        target = wanted.get(case.domain.domid)
        pages = case.target
        if target is not None and case.takes_part:
            pages, case.reason, case.urgent = round_down(target.pages), target.reason, target.urgent
        case.goal = min(max(pages, claimant.floor), claimant.ceiling)
    pages = host.usable + sum(case.domain.tot_pages for case in host.cases)
    if sum(case.goal for case in host.cases) <= pages:
        return
    at_most = [replace(each, ceiling=case.goal) for each, case in zip(claimants, host.cases, strict=True)]
    for case, goal in zip(host.cases, fair(at_most, pages), strict=True):
        if goal != case.goal:
            case.goal, case.reason = goal, f"{case.reason or 'it kept its target'}; all want more than there is"


def _shrink(host: _Host) -> None:
    """Shrink domains above their share: all while memory is needed, else those that are rested and far above it.

    Those a little above it are shrunk too, largest excess first, as far as a larger growth waits for their memory.
    """
    needed = -host.budget() - sum(case.owing for case in host.cases)
    small = []
    for case in host.cases:
        if not case.takes_part or case.goal >= case.target:
            continue
        if needed > 0 or (case.rested and case.significant(case.goal)):
            case.shrink()
        elif case.rested:
            small.append(case)
    growers = _growers(host)
    lacking = sum(_cost(case, case.goal) for case in growers) - host.budget()
    lacking -= sum(case.owing for case in host.cases)
    # A new try is small, but other domains must make room for it.
    if lacking < host.settings.threshold_pages and not any(case.tries(case.goal) for case in growers):
        return
    for case in sorted(small, key=lambda each: each.goal - each.target):
        if lacking <= 0:
            break
        lacking -= case.target - case.goal
        case.shrink()


def _growers(host: _Host) -> list[Case]:
    return [
        case
        for case in host.cases
        if case.takes_part
        and not case.shrunk
        and case.goal > case.allowed
        and case.rested
        and case.significant(case.goal)
    ]


def _waits(host: _Host) -> bool:
    """Whether growing waits for a willing domain that still gives memory up."""
    return host.settings.on(Safety.TWO_PHASES) and any(case.willing and case.owing for case in host.cases)


def _grow(host: _Host) -> set[int]:
    """Grow domains below their share, all by the same fraction if there is not enough; return those that grew.

    While any domain still gives memory up, only those are raised that give up more than they have to: that takes
    nothing.
    """
    growers = _growers(host)
    waiting = _waits(host)
    budget = max(host.budget(), 0)
    grown: set[int] = set()
    if not waiting and host.settings.on(Safety.BUDGET):
        growers, budget = _raise_to_minimum(growers, budget, grown)
    wanted = sum(_cost(case, case.goal) for case in growers)
    for case in growers:
        pages = case.goal
        if waiting:
            pages = min(case.goal, round_down(case.domain.tot_pages))
        elif wanted > budget and host.settings.on(Safety.BUDGET):
            cost = _cost(case, case.goal)
            pages = round_down(case.goal - (cost - cost * budget // wanted))
        if pages > case.allowed and pages >= case.bounds.least and case.significant(pages):
            case.grow(pages)
            grown.add(case.domain.domid)
    return grown


def _raise_to_minimum(growers: list[Case], budget: int, grown: set[int]) -> tuple[list[Case], int]:
    """Raise domains below their minimum to it, the smallest lack first, as far as there is memory.

    A part would be of no use: no target is set below a minimum. Returns the others that grow, and what is left for
    them.
    """
    others = []
    for case in sorted(growers, key=lambda each: _cost(each, each.bounds.least)):
        cost = _cost(case, case.bounds.least)
        if case.target >= case.bounds.least:
            others.append(case)
        elif cost <= budget:
            budget -= cost
            case.grow(case.bounds.least)
            grown.add(case.domain.domid)
    return others, budget


def _cost(case: Case, pages: int) -> int:
    """Count what a domain may take beyond what it already may, if it may hold *pages*."""
    return max(pages - case.domain.tot_pages, 0) - case.room
