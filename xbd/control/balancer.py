"""The autoballoon daemon's core: from listed domains to new targets and limits, and clients' reservations.

The policy decides (`xbd.policy.autoballoon`); here the list of domains becomes its snapshot, and a client that
wants memory held free gets a reservation, which ends with its connection.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from xbd.control.endpoint import CallEndpoint
from xbd.control.targets import BadRequest, choose
from xbd.domain import RUNNING, DomainInfo
from xbd.errors import BadArgument, Busy
from xbd.policy import autoballoon, reservations
from xbd.policy.model import (
    Action,
    CannotFree,
    Decision,
    DomainSnapshot,
    DomainsUncooperative,
    Progress,
    Reservation,
    Settings,
    Snapshot,
    State,
)
from xbd.protocol import fields
from xbd.protocol.codec import Request
from xbd.protocol.methods import AUTOBALLOON_METHODS

# A quarter; Qubes' qmemman adds 30 %.
_SLACK_SHIFT: Final = 2


def demand_of(domain: DomainInfo) -> int | None:
    """Work out how many pages a guest needs, by its own untrusted report; None: it has not reported it.

    That is what it uses and a quarter more: otherwise a guest that has used up its memory could not show that it
    needs more.
    """
    used = domain.used_pages
    return None if used is None else used + (used >> _SLACK_SHIFT)


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
            )
            for domain in domains
        ),
    )


def _count(raw: Mapping[str, object], name: str) -> int:
    number = raw.get(name)
    return number if isinstance(number, int) else 0


class Balancer:
    """The policy's state, and its clients' reservations.

    Attributes: *now*: the time of the last step; a new reservation begins then.
    """

    def __init__(self, settings: Settings) -> None:
        self.state = State(settings)
        self.now = 0.0
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
        """Run one step of the policy; returns the actions to carry out, in this order."""
        self.now = now
        self.state, actions = autoballoon.step(self.state, snapshot, now)
        return actions

    def change(self, settings: Settings) -> None:
        """Replace the policy's settings; its state stays."""
        self.state = replace(self.state, settings=settings)

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
        state = self._balancer.state
        return {
            "domains": {str(domid): progress.verdict.value for domid, progress in state.progress.items()},
            "details": {str(domid): self._details(domid, progress) for domid, progress in state.progress.items()},
            "reservations": [reservation_map(reservation) for reservation in state.reservations],
            "headroom_pages": state.settings.headroom_pages,
            "balance": state.settings.balance.value,
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
        }
