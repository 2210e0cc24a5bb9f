"""What can happen to a guest, and what a step of its kernel answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from xbd.abi import Command, Result
from xbd.guest.mode import GuestMode


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """Results of the oldest commands in flight, in the order sent; at least one."""

    results: list[Result]


@dataclass(frozen=True, slots=True)
class TargetSet:
    """The toolstack wants the guest to hold *pages*."""

    pages: int


@dataclass(frozen=True, slots=True)
class LimitSet:
    """The guest's max_pages is now *pages*."""

    pages: int


@dataclass(frozen=True, slots=True)
class ModeSet:
    """Behave like this from now on."""

    mode: GuestMode


@dataclass(frozen=True, slots=True)
class Tick:
    """The deadline was reached, or somebody wants to look."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a driven workload (a trace) wants to hold now: all used pages but the cache, and the page cache."""

    anon_pages: int
    cache_pages: int


@dataclass(frozen=True, slots=True)
class MessagesWaiting:
    """There are messages in the guest's inbox that it was not told of yet."""


@dataclass(frozen=True, slots=True)
class MemoryFreed:
    """The host has memory again, after it had none for this guest."""


@dataclass(frozen=True, slots=True)
class ShutdownAsked:
    """Stop: start nothing new, and note `shutdown` when nothing is in flight any more."""


Event = Answered | TargetSet | LimitSet | ModeSet | Tick | Demand | MessagesWaiting | MemoryFreed | ShutdownAsked


@dataclass(frozen=True, slots=True)
class Note:
    """Something that a log or a test wants to know: a fixed name and its data."""

    name: str
    fields: Mapping[str, int | float | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """What one step wants: commands to carry out in this order, when to look again (None: when something happens)."""

    commands: list[Command]
    deadline: float | None
    notes: list[Note]
