"""The guest: a kernel's memory side, its workload and its balloon driver. Pure: it talks in commands."""

from xbd.guest.events import (
    Answered,
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
from xbd.guest.statistics import GuestStatistics

__all__ = [
    "DRIVERS",
    "Answered",
    "BlockBackEnd",
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
    "Step",
    "TargetSet",
    "Tick",
    "override_driver",
    "parse_mode",
]
