"""Playing a trace: which of its samples holds at a moment, and when the next one is due.

A `Player` is one playing, whoever does it: a replay steps several of them side by side, a guest whose workload is
`Played` has one of its own. Time is seconds since the playing began; nothing here reads a clock.
"""

from dataclasses import dataclass, field

import numpy as np

from xbd.errors import TraceError
from xbd.guest.events import Demand
from xbd.guest.workload.profiles import AS_RECORDED, Driven, Pace
from xbd.guest.workload.trace import Trace
from xbd.units import MIB_PAGES, round_up


class Player:
    """One playing of a trace.

    Attributes: *at*: the index of the sample that holds, or will be the first; *skipped*: samples whose time had passed
    when `advance` was called, so that nobody held what they say; *rounds*: how often it has begun anew.

    Raises TraceError: the trace ends before *offset_s*, and is not to be played in a loop.
    """

    def __init__(self, trace: Trace, pace: Pace = AS_RECORDED) -> None:
        self.trace = trace
        self._speed = pace.speed
        seconds = trace.seconds
        first, last = float(seconds[0]), float(seconds[-1])
        # The last sample holds as long as samples do.
        self._round_s = last - first + float(np.median(np.diff(seconds))) if trace.samples > 1 else 0.0
        self._loops = pace.loop and self._round_s > 0
        self._offset_s = pace.offset_s
        if self._offset_s > last:
            if not pace.loop:
                raise TraceError(f"{trace.name}: it ends at {last:g} s, before offset_s ({pace.offset_s:g})")
            self._offset_s = first + ((self._offset_s - first) % self._round_s if self._loops else 0.0)
        self._next = self.at = self._found(self._offset_s)
        self._next_round = 0
        self.skipped = 0
        self.rounds = 0

    def _found(self, trace_s: float) -> int:
        """Find the sample that holds at a time of the trace; the first one before it begins."""
        return max(int(np.searchsorted(self.trace.seconds, trace_s, side="right")) - 1, 0)

    @property
    def due_s(self) -> float | None:
        """When the next sample is due, in seconds since the playing began; None: the last one holds for ever."""
        if self._next == self.trace.samples:
            return None
        trace_s = float(self.trace.seconds[self._next]) + self._next_round * self._round_s
        return max((trace_s - self._offset_s) / self._speed, 0.0)

    @property
    def demand(self) -> Demand:
        """What the sample that holds wants."""
        return Demand(int(self.trace.anon_pages[self.at]), int(self.trace.cache_pages[self.at]))

    def step(self) -> None:
        """Let the next sample hold, whatever the time is."""
        self.at, self.rounds = self._next, self._next_round
        self._next += 1
        if self._next == self.trace.samples and self._loops:
            self._next, self._next_round = 0, self._next_round + 1

    def advance(self, elapsed_s: float) -> bool:
        """Let the sample of a moment hold, *elapsed_s* since the playing began; tells whether one was due."""
        due_s = self.due_s
        if due_s is None or elapsed_s < due_s:
            return False
        self.step()
        reached_s = self._offset_s + elapsed_s * self._speed
        rounds = max(int((reached_s - float(self.trace.seconds[0])) // self._round_s), 0) if self._loops else 0
        behind = (rounds - self.rounds) * self.trace.samples + self._found(reached_s - rounds * self._round_s) - self.at
        if behind > 0:
            self.skipped += behind
            self._next_round, self._next = divmod(
                self.rounds * self.trace.samples + self.at + behind, self.trace.samples
            )
            self.step()
        return True


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Played(Driven):
    """A trace that the guest plays by itself, from when it boots."""

    trace: Trace
    pace: Pace = field(default=AS_RECORDED)

    @property
    def wear(self) -> float:
        """The wear with which the trace's guest began what is played."""
        return self.trace.wear_at(Player(self.trace, self.pace).at)

    def check(self, gfn_count: int) -> None:
        """Refuse to be played in a guest of so many pages. Raises TraceError: the trace is of another size, or too short."""
        Player(self.trace, self.pace)
        maximum_pages, needed_pages = round_up(gfn_count), round_up(self.trace.total_pages)
        if maximum_pages != needed_pages:
            raise TraceError(
                f"{self.trace.name}: it is of a guest of {self.trace.total_pages} pages, which a domain with a maximum of"
                f' "{needed_pages // MIB_PAGES}m" plays; this one has "{maximum_pages // MIB_PAGES}m"'
                " (`xbd trace synth --scale` makes a trace of another size)"
            )
