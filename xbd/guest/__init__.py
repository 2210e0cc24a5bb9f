"""The guest: a kernel's memory side, its workload and its balloon driver. Pure: it asks by yielding commands.

Read `kernel` first (`Guest.step`: an event in, commands out), then `procedures` (how work waits for results), `zone`
(the page allocator) and the balloon: `balloon.worker`, `balloon.balloon`, `balloon.queues`. `compaction` with
`balloon.migration` is what keeps the balloon in 2 MiB pages. `components` shows how all of it is put together;
`workload` is what runs in the guest, `io` its block I/O.
"""

from typing import TYPE_CHECKING

from xbd.lazy import lazily

if TYPE_CHECKING:
    from xbd.guest.events import (
        Answered,
        CompactAsked,
        Demand,
        Event,
        LimitSet,
        MemoryFreed,
        MessagesWaiting,
        ModeSet,
        Note,
        ShutdownAsked,
        Step,
        TargetSet,
        Tick,
    )
    from xbd.guest.kernel import Guest
    from xbd.guest.mode import GuestMode, ModeKind, parse_mode
    from xbd.guest.settings import DRIVERS, BlockBackEnd, DriverSettings, GuestSettings, override_driver
    from xbd.guest.statistics import GuestStatistics, Standing

__all__ = [
    "DRIVERS",
    "Answered",
    "BlockBackEnd",
    "CompactAsked",
    "Demand",
    "DriverSettings",
    "Event",
    "Guest",
    "GuestMode",
    "GuestSettings",
    "GuestStatistics",
    "LimitSet",
    "MemoryFreed",
    "MessagesWaiting",
    "ModeKind",
    "ModeSet",
    "Note",
    "ShutdownAsked",
    "Standing",
    "Step",
    "TargetSet",
    "Tick",
    "override_driver",
    "parse_mode",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "xbd.guest.events": (
            "Answered",
            "CompactAsked",
            "Demand",
            "Event",
            "LimitSet",
            "MemoryFreed",
            "MessagesWaiting",
            "ModeSet",
            "Note",
            "ShutdownAsked",
            "Step",
            "TargetSet",
            "Tick",
        ),
        "xbd.guest.kernel": ("Guest",),
        "xbd.guest.mode": ("GuestMode", "ModeKind", "parse_mode"),
        "xbd.guest.settings": ("DRIVERS", "BlockBackEnd", "DriverSettings", "GuestSettings", "override_driver"),
        "xbd.guest.statistics": ("GuestStatistics", "Standing"),
    },
)
