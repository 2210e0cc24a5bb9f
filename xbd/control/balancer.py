"""The autoballoon daemon's core: from listed domains to new targets and limits, and clients' reservations.

A policy decides, and the safety layer around it (`xbd.policy.autoballoon`); here the list of domains becomes its snapshot, and a client that
wants memory held free gets a reservation, which ends with its connection.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

from xbd.control.endpoint import CallEndpoint
from xbd.control.targets import BadRequest, choose
from xbd.domain import RUNNING, DomainInfo
from xbd.errors import BadArgument, Busy
from xbd.policy import autoballoon, reservations
from xbd.policy.autoballoon import Look
from xbd.policy.builtin.fair import Fair
from xbd.policy.model import (
    Action,
    CannotFree,
    Decision,
    DomainSnapshot,
    DomainsUncooperative,
    GuestReport,
    Progress,
    Reservation,
    Settings,
    Snapshot,
    State,
)
from xbd.policy.plugin import Answer, Policy, ask
from xbd.protocol import fields
from xbd.protocol.autoballoon_methods import AUTOBALLOON_METHODS
from xbd.protocol.codec import Request
from xbd.target_rules import used_pages

# A quarter; Qubes' qmemman adds 30 %.
_SLACK_SHIFT: Final = 2
# As many domains as a host may have, for some that are gone by now.
MAX_EXCLUDED: Final = 32_768


def demand_of(domain: DomainInfo) -> int | None:
    """Work out how many pages a guest needs, by its own untrusted report; None: it has not reported it.

    That is what it uses and a quarter more: otherwise a guest that has used up its memory could not show that it
    needs more.
    """
    used = domain.used_pages
    return None if used is None else used + (used >> _SLACK_SHIFT)


def report_of(untrusted: Mapping[str, Any]) -> GuestReport:
    """Read what a guest reports for policies; what makes no sense is not said."""
    pressure = _reported(untrusted, "pressure_ppm")
    return GuestReport(
        used_pages(untrusted),
        _reported(untrusted, "guest_free_pages"),
        _reported(untrusted, "cache_pages"),
        _reported(untrusted, "available_pages"),
        _reported(untrusted, "pages_refaulted"),
        None if pressure is None else min(pressure / 1e6, 1.0),
    )


def _reported(untrusted: Mapping[str, Any], name: str) -> int | None:
    count = untrusted.get(name)
    return count if type(count) is int and count >= 0 else None


def managed_domains(domains: Sequence[DomainInfo], patterns: Sequence[str]) -> list[DomainInfo]:
    """Choose the domains that the policy manages; a pattern that matches none now is no error, one may be created later."""
    found: dict[int, DomainInfo] = {}
    for pattern in patterns:
        try:
            found |= {domain.domid: domain for domain in choose(domains, [pattern])}
        except BadRequest:
            continue  # no domain has that name now
    return [found[domid] for domid in sorted(found)]


def snapshot_of(
    host: Mapping[str, object], domains: Sequence[DomainInfo], demands: Mapping[str, int | None] = MappingProxyType({})
) -> Snapshot:
    """Make the policy's snapshot of a host; *demands* are those, by their lives, of domains that do not say now."""
    return Snapshot(
        free_pages=_count(host, "free_frames"),
        total_pages=_count(host, "frames"),
        claimed_pages=_count(host, "claimed_frames"),
        domains=tuple(
            DomainSnapshot(
                domid=domain.domid,
                tot_pages=domain.tot_pages,
                target_pages=domain.target_pages,
                max_pages=domain.max_pages,
                min_pages=domain.min_pages,
                static_max_pages=domain.static_max_pages,
                can_balloon=domain.state == RUNNING,
                demand_pages=demand if (demand := demand_of(domain)) is not None else demands.get(domain.life),
                life=domain.life,
                guest=report_of(domain.reported),
            )
            for domain in domains
        ),
    )


def _count(raw: Mapping[str, object], name: str) -> int:
    number = raw.get(name)
    return number if isinstance(number, int) else 0


class Balancer:
    """The safety layer's state around a policy, its clients' reservations, and whom it leaves out.

    Attributes: *now*: the time of the last step; a new reservation begins then. *policy_name*: what the policy is called;
    *excluded*: the lives of domains that are left out; *keep* is called when these have changed.
    """

    def __init__(self, settings: Settings, policy: Policy | None = None, policy_name: str = "fair") -> None:
        self.state = State(settings)
        self.now = 0.0
        self.policy_name = policy_name
        self.excluded: frozenset[str] = frozenset()
        self.keep: Callable[[], None] = lambda: None
        self._policy: Policy = policy or Fair()
        self._names = 0
        # What each domain has last reported that it needs, by its life.
        self._demands: dict[str, int | None] = {}

    def snapshot(self, host: Mapping[str, object], domains: Sequence[DomainInfo]) -> Snapshot:
        """Make a snapshot of a host. A domain of which there is no report needs what it last needed, as far as is known.

        A hypervisor that has restarted has no report until the agent is back; a guest that does not answer cannot balloon.
        """
        snapshot = snapshot_of(host, domains, self._demands)
        self._demands = {domain.life: domain.demand_pages for domain in snapshot.domains}
        return snapshot

    def step(self, snapshot: Snapshot, now: float) -> Sequence[Action]:
        """Run one step, with the policy in this process; returns the actions to carry out, in this order."""
        looked = self.look(snapshot, now)
        return self.act(looked, self.ask(looked))

    def look(self, snapshot: Snapshot, now: float) -> Look:
        """Judge the host; then the policy is to be asked, and to be acted on what it answers."""
        self.now = now
        return autoballoon.look(self.state, snapshot, now)

    def ask(self, looked: Look) -> Answer:
        """Ask the policy in this process; one that was in trouble is not asked."""
        return Answer() if self.state.trouble else ask(self._policy, self.state.own, looked.seen, self.now)

    def act(self, looked: Look, answer: Answer) -> Sequence[Action]:
        """Make actions of what the policy answered, to be carried out in this order.

        What was reserved, released or changed while it was asked stays so.
        """
        after, actions = autoballoon.act(looked, answer)
        judged = {each.name: each for each in after.reservations}
        after = replace(
            after,
            settings=self.state.settings,
            reservations=tuple(judged.get(each.name, each) for each in self.state.reservations),
        )
        if looked.state.number != self.state.number:
            after = replace(after, number=self.state.number, own=None, trouble="")
        self.state = after
        return actions

    def change(self, settings: Settings, policy: Policy | None = None, policy_name: str = "fair") -> None:
        """Replace the settings and the policy, which begins anew; what is known of domains, and reservations, stay."""
        self._policy, self.policy_name = policy or Fair(), policy_name
        self.state = replace(self.state, settings=settings, own=None, trouble="", number=self.state.number + 1)

    def exclude(self, life: str) -> None:
        """Leave a domain out. Raises BadArgument: too many are."""
        if len(self.excluded) >= MAX_EXCLUDED:
            raise BadArgument(f"{MAX_EXCLUDED} domains are excluded", "one of them to be included first")
        self.excluded |= {life}
        self.keep()

    def include(self, life: str) -> None:
        """Govern a domain again; one that was not excluded changes nothing."""
        self.excluded -= {life}
        self.keep()

    def governed(self, domains: Sequence[DomainInfo], patterns: Sequence[str]) -> list[DomainInfo]:
        """Choose the domains that are governed: those that are managed, but who is excluded."""
        return [domain for domain in managed_domains(domains, patterns) if domain.life not in self.excluded]

    def reserve(self, pages: int) -> str:
        """Begin to free memory for a client; returns the reservation's name. Raises BadArgument."""
        self._names += 1
        name = f"r{self._names}"
        self.state = reservations.reserve(self.state, name, pages, self.now)
        return name

    def release(self, name: str) -> None:
        """End the reservation *name*: domains may have its memory again."""
        self.state = reservations.release(self.state, name)

    def reservation(self, name: str) -> Reservation | None:
        """Find a reservation."""
        return self.state.reservation(name)


def reservation_map(reservation: Reservation) -> dict[str, object]:
    """Write a reservation for the wire."""
    written: dict[str, object] = {
        "name": reservation.name,
        "pages": reservation.pages,
        "state": reservation.state.value,
    }
    match reservation.failure:
        case CannotFree(needed_pages, possible_pages):
            written["cannot_free"] = {"needed_pages": needed_pages, "possible_pages": possible_pages}
        case DomainsUncooperative(domids):
            written["uncooperative"] = list(domids)
    return written


class BalancerEndpoint(CallEndpoint):
    """A connection of a client of the autoballoon daemon; its reservation ends with it."""

    def __init__(self, balancer: Balancer, wake: Callable[[], None]) -> None:
        super().__init__("autoballoon", wake)
        self._balancer = balancer
        self._reserved: str | None = None

    @property
    def keeps_place(self) -> bool:
        """Whether it has reserved memory."""
        return self._reserved is not None

    def take_pending(self) -> bytes:
        """Return nothing: a client that waits for its reservation polls."""
        return b""

    def closed(self) -> None:
        """End this client's reservation."""
        if self._reserved is not None:
            self._balancer.release(self._reserved)
            self._reserved = None

    def _call(self, request: Request) -> dict[str, object]:
        method = AUTOBALLOON_METHODS.get(request.method)
        if method is None:
            raise BadArgument(f"unknown method {request.method!r:.80}", f"one of {', '.join(AUTOBALLOON_METHODS)}")
        params = fields.check_params(request.method, method.params, request.untrusted_params)
        match request.method:
            case "reserve":
                return self._reserve(params["pages"])
            case "reservation":
                return self._reservation()
            case "exclude" | "include":
                change = self._balancer.exclude if request.method == "exclude" else self._balancer.include
                change(params["life"])
                return {"excluded": sorted(self._balancer.excluded)}
            case _:
                return self._status()

    def _reserve(self, pages: int) -> dict[str, object]:
        if self._reserved is not None:
            raise Busy("this connection has a reservation already", "one for each connection")
        self._reserved = self._balancer.reserve(pages)
        return self._reservation()

    def _reservation(self) -> dict[str, object]:
        reservation = None if self._reserved is None else self._balancer.reservation(self._reserved)
        return {"state": "none"} if reservation is None else reservation_map(reservation)

    def _status(self) -> dict[str, object]:
        state, excluded = self._balancer.state, self._balancer.excluded
        # What was known of a domain at the last step, unless it was excluded since.
        governed = {domid: known for domid, known in state.progress.items() if known.life not in excluded}
        return {
            "domains": {str(domid): progress.verdict.value for domid, progress in governed.items()},
            "details": {str(domid): self._details(domid, progress) for domid, progress in governed.items()},
            "reservations": [reservation_map(reservation) for reservation in state.reservations],
            "excluded": sorted(excluded),
            "headroom_pages": state.settings.headroom_pages,
            "balance": self._balancer.policy_name,
            "trouble": state.trouble or None,
        }

    def _details(self, domid: int, progress: Progress) -> dict[str, object]:
        """Say how the policy sees a domain, and why it does not move it."""
        state = self._balancer.state
        decision = state.decisions.get(domid, Decision())
        rests_s = progress.refused_s + state.settings.retry_after_s - self._balancer.now if progress.refused else 0.0
        return {
            "life": progress.life,
            "verdict": progress.verdict.value,
            "aim_pages": progress.aim_pages,
            "goal_pages": decision.goal_pages,
            "least_pages": progress.least_pages,
            "most_pages": progress.most_pages,
            "rests_s": math.ceil(max(rests_s, 0.0)),
            "kept": decision.kept.value,
            "reason": decision.reason or None,
        }
