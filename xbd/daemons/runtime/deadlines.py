"""Deadlines of many parties, kept by one task: none of them has to be woken to be called.

A task of its own that waits with a time-out costs two system calls and a cancellation each time, which for a guest that
ticks once a second is a good part of what the tick costs.
"""

import heapq
import math
from collections.abc import Callable
from itertools import count
from typing import Final

import trio

from xbd.daemons.runtime.peers import Alarm
from xbd.replaceable import replaceable

# Deadlines are rounded up to this, so that many parties are called in one pass of the scheduler.
GRAIN_S: Final = 0.01
# Whoever else has something to do gets a turn after so many calls.
_CALLS_IN_A_ROW: Final = 16


class Party:
    """One that is called when its deadline has come; *call* does not wait, and may set the next deadline."""

    __slots__ = ("call", "due_s", "queued_s")

    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call
        self.due_s = self.queued_s = math.inf


class Deadlines:
    """The deadlines of all parties."""

    def __init__(self) -> None:
        # Of each party its earliest entry counts (its *queued_s*); an entry that was overtaken is skipped.
        self._queue: list[tuple[float, int, Party]] = []
        self._numbers = count()
        self._earlier = Alarm()

    def set(self, party: Party, due_s: float | None) -> None:
        """Call *party* at *due_s* or soon after, and at no other time; None: never."""
        # Never before the deadline, as the product may come out by a rounding: there would be nothing to do yet.
        party.due_s = math.inf if due_s is None else max(due_s, math.ceil(due_s / GRAIN_S) * GRAIN_S)
        if party.due_s < party.queued_s:
            self.overtake(party)

    @replaceable
    def overtake(self, party: Party) -> None:
        """Queue a party that is to be called earlier than it was."""
        self._enter(party)
        if self._queue[0][2] is party:
            self._earlier.ring()

    def _enter(self, party: Party) -> None:
        party.queued_s = party.due_s
        heapq.heappush(self._queue, (party.due_s, next(self._numbers), party))

    async def run(self) -> None:
        """Call whose time has come, for ever."""
        while True:
            for _ in range(_CALLS_IN_A_ROW):
                if not self._call_first(trio.current_time()):
                    break
            else:
                await trio.lowlevel.checkpoint()
                continue
            with trio.move_on_at(self._queue[0][0] if self._queue else math.inf):
                await self._earlier.wait()

    def _call_first(self, now_s: float) -> bool:
        """Call the first of those whose time has come; returns False if nobody's has."""
        if not self._queue or self._queue[0][0] > now_s:
            return False
        queued_s, _, party = heapq.heappop(self._queue)
        if queued_s == party.queued_s:
            party.queued_s = math.inf
            if party.due_s <= now_s:
                party.due_s = math.inf
                party.call()
            elif party.due_s < math.inf:
                self._enter(party)
        return True
