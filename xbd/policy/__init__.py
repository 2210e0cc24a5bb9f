"""Policies: pure functions from the state of a host to what its domains should hold.

Read `plugin` first (what a policy is), then `autoballoon` (one step of the safety layer around it, and why), with `model`
(inputs and outputs of both) beside them; `progress` judges domains, `balance` shares memory out, `reservations` holds
some free, `cases` is one domain within a step. `builtin` has the policies that come with xbd. `shares` shares out without
state, for known demand.
"""

from xbd.policy.autoballoon import step
from xbd.policy.model import (
    Action,
    CannotFree,
    DomainSnapshot,
    DomainsUncooperative,
    GuestReport,
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
from xbd.policy.plugin import Policy
from xbd.policy.reservations import release, reserve
from xbd.policy.shares import Share, share_out

__all__ = [
    "Action",
    "CannotFree",
    "DomainSnapshot",
    "DomainsUncooperative",
    "GuestReport",
    "Policy",
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
