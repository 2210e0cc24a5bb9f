"""Policies: pure functions from what is known of a host to what its domains should hold."""

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
