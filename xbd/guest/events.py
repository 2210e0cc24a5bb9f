"""The events that a guest's kernel takes, and the result of one of its steps."""

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
    """The deadline was reached; also harmless at any other time."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a driven workload (a trace) wants to hold now: all used pages but the cache, and the page cache.

    *cache_reads*: how many pages of that cache its programs have read since the last demand; None: it is not known.
    *at_random*: what processes give up for it are single pages, wherever they lie; else programs end.
    """

    anon_pages: int
    cache_pages: int
    cache_reads: int | None = None
    at_random: bool = False


@dataclass(frozen=True, slots=True)
class CompactAsked:
    """Compact the whole zone: somebody writes to Linux's `/proc/sys/vm/compact_memory`."""


@dataclass(frozen=True, slots=True)
class MessagesWaiting:
    """There are new messages in the guest's inbox."""


@dataclass(frozen=True, slots=True)
class MemoryFreed:
    """The host has free memory again, after it refused this guest some."""


@dataclass(frozen=True, slots=True)
class ShutdownAsked:
    """Stop: start nothing new, and note `shutdown` when nothing is in flight any more."""


Event = (
    Answered
    | TargetSet
    | LimitSet
    | ModeSet
    | Tick
    | Demand
    | CompactAsked
    | MessagesWaiting
    | MemoryFreed
    | ShutdownAsked
)


@dataclass(frozen=True, slots=True)
class Note:
    """A log event of the guest: a fixed name and its data."""

    name: str
    fields: Mapping[str, int | float | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """The result of a step: commands to carry out in this order, and when to call again (None: only at an event)."""

    commands: list[Command]
    deadline: float | None
    notes: list[Note]
