"""What runs in a guest: programs that allocate and free its pages as a profile or a trace says.

Read `profiles` first (what is wanted at each tick), then `programs` (how that is reached) and `holdings` (which page
belongs to whom); `placement` decides which free page goes where, `trace` reads recorded guests,
`playing` plays them.
"""

from typing import TYPE_CHECKING

from xbd.lazy import lazily

if TYPE_CHECKING:
    from xbd.guest.workload.playing import Played, Player
    from xbd.guest.workload.profiles import (
        PROFILES,
        Bursty,
        Driven,
        Goals,
        Idle,
        Pace,
        Profile,
        Steady,
        UnmovableHeavy,
        Workload,
        make_workload,
    )
    from xbd.guest.workload.programs import Programs
    from xbd.guest.workload.trace import Trace, parse_trace

__all__ = [
    "PROFILES",
    "Bursty",
    "Driven",
    "Goals",
    "Idle",
    "Pace",
    "Played",
    "Player",
    "Profile",
    "Programs",
    "Steady",
    "Trace",
    "UnmovableHeavy",
    "Workload",
    "make_workload",
    "parse_trace",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "xbd.guest.workload.playing": ("Played", "Player"),
        "xbd.guest.workload.profiles": (
            "PROFILES",
            "Bursty",
            "Driven",
            "Goals",
            "Idle",
            "Pace",
            "Profile",
            "Steady",
            "UnmovableHeavy",
            "Workload",
            "make_workload",
        ),
        "xbd.guest.workload.programs": ("Programs",),
        "xbd.guest.workload.trace": ("Trace", "parse_trace"),
    },
)
