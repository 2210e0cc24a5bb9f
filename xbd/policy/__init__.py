"""Policies: pure functions from the state of a host to what its domains should hold.

Read `autoballoon` first (one step of the policy, and why), with `model` (its inputs and outputs) beside it; `progress`
judges domains, `balance` shares memory out, `reservations` holds some free, `cases` is one domain within a step.
`shares` is another policy, without state, for known demand.
"""

from xbd.policy.autoballoon import step
from xbd.policy.model import (
    Action,
    Balance,
    CannotFree,
    DomainSnapshot,
    DomainsUncooperative,
    Progress,
    Reservation,
    ReservationState,
    Safety,
    SetMax,
    SetTarget,
    Settings,
    Snapshot,
    State,
    Verdict,
)
from xbd.policy.reservations import release, reserve
from xbd.policy.shares import Share, share_out

__all__ = [
    "Action",
    "Balance",
    "CannotFree",
    "DomainSnapshot",
    "DomainsUncooperative",
    "Progress",
    "Reservation",
    "ReservationState",
    "Safety",
    "SetMax",
    "SetTarget",
    "Settings",
    "Share",
    "Snapshot",
    "State",
    "Verdict",
    "release",
    "reserve",
    "share_out",
    "step",
]
