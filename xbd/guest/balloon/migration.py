"""Migration of ballooned pages: a ballooned page *old* is backed, a free page *new* takes its place.

Three ways, in the order of preference, and each falls back to the next where the host has not got
it: `populate_depopulate` (atomic, never out of memory), `exchange` (atomic, needs free frames), and
two calls (populate old, then decrease new; needs one page of headroom and is not atomic). Per pair
there are three outcomes: done, nothing changed, or half done: old is backed and new still is too.
Then the guest holds one page more than it should, and the worker levels it.
Source: Linux mm/balloon_compaction.c and virtio_balloon.c, virtballoon_migratepage.
"""

from collections.abc import Generator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from xbd.abi import Decrease, Exchange, Features, Frames, Populate, PopulateDepopulate, Result, Stop
from xbd.guest.balloon.balloon import Balloon
from xbd.guest.procedures import Call, Procedure, Request, carry_out


class Way(StrEnum):
    """How a ballooned page is migrated."""

    POPULATE_DEPOPULATE = "populate_depopulate"
    EXCHANGE = "exchange"
    TWO_CALLS = "two_calls"


# Answers that mean: this host has not got the operation, whatever it promised.
_NOT_THERE: Final = frozenset({"EOPNOTSUPP", "ENOSYS", "EPERM"})


@dataclass(frozen=True, slots=True)
class Migrated:
    """How many pairs of a batch had which outcome."""

    done: int = 0
    unchanged: int = 0
    half_done: int = 0


class Migration:
    """The migration callback of one guest.

    Attributes: *way*: the best that the host is still believed to have. *pages_migrated*, *pages_half_done*: counts.
    """

    def __init__(self, balloon: Balloon, features: Features) -> None:
        self._balloon = balloon
        self.pages_migrated = 0
        self.pages_half_done = 0
        if features.populate_depopulate:
            self.way = Way.POPULATE_DEPOPULATE
        else:
            self.way = Way.EXCHANGE if features.exchange else Way.TWO_CALLS

    def migrate(self, old: Frames, new: Frames) -> Generator[Request, list[Result], Migrated]:
        """Migrate pairs: *old* ballooned single pages, *new* free pages that the caller isolated.

        The caller holds the balloon's token and *new*; both are settled here, whatever the outcome.
        """
        self._balloon.isolate_for_migration(old)
        call = Call(lambda left: PopulateDepopulate(left, new[new.size - left.size :]), old)
        yield from self._attempt(call, Way.POPULATE_DEPOPULATE, Way.EXCHANGE)
        call.make = lambda left: Exchange(gives=new[new.size - left.size :], gets=left)
        yield from self._attempt(call, Way.EXCHANGE, Way.TWO_CALLS)
        half_done = 0
        # A full host cannot exchange, but where there is headroom it may still have frames for two calls.
        if self.way is Way.TWO_CALLS or (self.way is Way.EXCHANGE and call.stop == Stop.ENOMEM):
            half_done = yield from self._in_two_calls(call, new)
        return self._settle(old, new, call.done, half_done)

    def _attempt(self, call: Call, way: Way, fallback: Way) -> Procedure:
        """Carry the call out if *way* is the one in use; remember it if the host has not got that way."""
        if self.way is not way:
            return
        yield from carry_out([call])
        if call.stop in _NOT_THERE:
            self.way, call.stop = fallback, None

    def _in_two_calls(self, call: Call, new: Frames) -> Generator[Request, list[Result], int]:
        """Populate what the headroom allows, decrease as much, and go on while that brings something.

        Adds to *call.done* the pairs that are done; returns how many after those are half done.
        """
        while call.done < call.extents.size:
            populate = Call(Populate, call.left)
            yield from carry_out([populate])
            if not populate.done:
                return 0
            decrease = Call(Decrease, new[call.done : call.done + populate.done])
            yield from carry_out([decrease])
            call.done += decrease.done
            if decrease.left.size:
                return int(decrease.left.size)
        return 0

    def _settle(self, old: Frames, new: Frames, done: int, half_done: int) -> Migrated:
        self._balloon.settle_migrated(old[:done], new[:done])
        backed = done + half_done
        # Half done: both are backed. They are free, and the guest holds so many pages more.
        self._balloon.settle_deflated(old[done:backed], 0)
        self._balloon.settle_not_deflated(old[backed:], 0)
        self._balloon.settle_not_inflated(new[done:], 0)
        self.pages_migrated += done
        self.pages_half_done += half_done
        return Migrated(done, int(old.size) - backed, half_done)
