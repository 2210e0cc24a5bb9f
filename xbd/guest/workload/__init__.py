"""What runs in a guest: profiles and traces that allocate and free its pages."""

from xbd.guest.workload.profiles import (
    PROFILES,
    Bursty,
    Driven,
    Idle,
    Profile,
    Steady,
    UnmovableHeavy,
    Workload,
    make_workload,
)
from xbd.guest.workload.programs import Goals, Programs
from xbd.guest.workload.trace import Trace, parse_trace

__all__ = [
    "PROFILES",
    "Bursty",
    "Driven",
    "Goals",
    "Idle",
    "Profile",
    "Programs",
    "Steady",
    "Trace",
    "UnmovableHeavy",
    "Workload",
    "make_workload",
    "parse_trace",
]
