"""Procedures that wait: generators that yield commands and receive their results.

A procedure yields a list of 1 to 8 commands and is sent as many results; or it yields a `Lock` and
is resumed, with an empty list, when it holds it. `Procedures` runs them in a fixed order: the one that was
ready first resumes first, the commands yielded first are sent first, and results go to the oldest
commands. So every transport gives the same order (`xbd/docs/contributing/design.md`, "A guest").
"""

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

import numpy as np

from xbd.abi import (
    BATCH_EXTENTS,
    MAX_IN_FLIGHT,
    MAX_WORDS,
    Command,
    Frames,
    Load,
    LoadResult,
    MemopResult,
    Refused,
    Result,
    Stop,
    Store,
    Words,
)

# After so many answers of BUDGET in a row with nothing done, the call counts as refused.
_IDLE_ROUNDS_MAX = 64


class Lock:
    """A lock with one holder at a time; waiters get it in order. A procedure acquires it by yielding it."""

    def __init__(self) -> None:
        self.held = False
        self._waiters: deque[_Running] = deque()
        self._woken: list[_Running] = []

    def try_acquire(self) -> bool:
        """Take the lock if nobody holds it and nobody waits for it."""
        if self.held:
            return False
        self.held = True
        return True

    def release(self) -> None:
        """Give the lock up; the first waiter holds it at once."""
        assert self.held, "a lock was released that nobody holds"
        if self._waiters:
            self._woken.append(self._waiters.popleft())
        else:
            self.held = False

    def enqueue(self, waiter: "_Running") -> None:
        """Let *waiter* hold the lock when its turn comes."""
        self._waiters.append(waiter)

    def collect_woken(self) -> "list[_Running]":
        """Return, once, those who got the lock since the last call."""
        woken, self._woken = self._woken, []
        return woken


Request = list[Command] | Lock
Procedure = Generator[Request, list[Result], None]


@dataclass(eq=False, slots=True)
class _Running:
    procedure: Procedure
    started: bool = False
    commands: list[Command] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)


class Procedures:
    """The procedures of one guest, and its commands in flight (never more than 8)."""

    def __init__(self, *locks: Lock) -> None:
        self._locks = locks
        self._ready: deque[_Running] = deque()
        self._outbox: deque[_Running] = deque()
        self._in_flight: deque[_Running] = deque()
        self.in_flight_count = 0

    def start(self, procedure: Procedure) -> None:
        """Let *procedure* run; it starts in the next `run`."""
        self._ready.append(_Running(procedure))

    def answer(self, results: list[Result]) -> None:
        """Hand results to the oldest commands in flight."""
        assert len(results) <= self.in_flight_count, f"{len(results)} results for {self.in_flight_count} commands"
        for result in results:
            waiting = self._in_flight[0]
            waiting.results.append(result)
            self.in_flight_count -= 1
            if len(waiting.results) == len(waiting.commands):
                self._ready.append(self._in_flight.popleft())

    def run(self) -> list[Command]:
        """Resume whatever can go on, and return the commands to send now."""
        while self._ready:
            self._resume(self._ready.popleft())
            for lock in self._locks:
                self._ready.extend(lock.collect_woken())
        sent: list[Command] = []
        while self._outbox and self.in_flight_count + len(self._outbox[0].commands) <= MAX_IN_FLIGHT:
            waiting = self._outbox.popleft()
            self._in_flight.append(waiting)
            self.in_flight_count += len(waiting.commands)
            sent += waiting.commands
        return sent

    def _resume(self, running: _Running) -> None:
        results, running.results, running.commands = running.results, [], []
        try:
            request = running.procedure.send(results) if running.started else next(running.procedure)
        except StopIteration:
            return
        running.started = True
        if isinstance(request, Lock):
            if request.try_acquire():
                self._ready.append(running)
            else:
                request.enqueue(running)
            return
        assert 0 < len(request) <= MAX_IN_FLIGHT, f"a procedure yielded {len(request)} commands"
        running.commands = request
        self._outbox.append(running)


# -- calls: what most procedures do with their commands


@dataclass(eq=False, slots=True)
class Call:
    """One operation on *extents*, and how far it came: *done* of them, then *stop* (an errno name, None: all done)."""

    make: Callable[[Frames], Command]
    extents: Frames
    done: int = 0
    stop: str | None = None
    idle_rounds: int = 0

    @property
    def finished(self) -> bool:
        """Whether nothing is left to issue."""
        return self.stop is not None or self.done == self.extents.size

    @property
    def did(self) -> Frames:
        """The extents that are done."""
        return self.extents[: self.done]

    @property
    def left(self) -> Frames:
        """The extents of which nothing was done."""
        return self.extents[self.done :]

    def command(self) -> Command:
        """Build the command for what is left."""
        return self.make(self.left)

    def settle(self, result: Result) -> None:
        """Take note of one result; BUDGET means that the rest is to be issued again."""
        if isinstance(result, Refused):
            self.stop = result.errno
            return
        assert 0 <= result.done <= self.extents.size - self.done, f"{result.done} extents done of {self.left.size}"
        self.done += result.done
        self.idle_rounds = 0 if result.done else self.idle_rounds + 1
        if self.done < self.extents.size and (result.stop is not Stop.BUDGET or self.idle_rounds > _IDLE_ROUNDS_MAX):
            self.stop = result.stop or Stop.BUDGET


def split_calls(make: Callable[[Frames], Command], extents: Frames, size: int = BATCH_EXTENTS) -> list[Call]:
    """Cut *extents* into calls of at most *size* each."""
    return [Call(make, extents[first : first + size]) for first in range(0, extents.size, size)]


def carry_out(calls: list[Call]) -> Procedure:
    """Issue the calls, at most 8 at a time and in order, until each is done or stopped."""
    for first in range(0, len(calls), MAX_IN_FLIGHT):
        open_calls = [call for call in calls[first : first + MAX_IN_FLIGHT] if not call.finished]
        while open_calls:
            results = yield [call.command() for call in open_calls]
            for call, result in zip(open_calls, results, strict=True):
                call.settle(result)
            open_calls = [call for call in open_calls if not call.finished]


def load_words(gfns: Frames) -> Generator[Request, list[Result], tuple[Words, int]]:
    """Read the content words of *gfns*; returns (n,) uint64 and how many could not be read (those say 0)."""
    words = np.zeros(gfns.size, dtype=np.uint64)
    unreadable = 0
    at = 0
    while at < gfns.size:
        starts = range(at, min(gfns.size, at + MAX_WORDS * MAX_IN_FLIGHT), MAX_WORDS)
        results = yield [Load(gfns[start : start + MAX_WORDS]) for start in starts]
        for start, result in zip(starts, results, strict=True):
            size = min(MAX_WORDS, gfns.size - start)
            done = result.done if isinstance(result, LoadResult) else 0
            if isinstance(result, LoadResult):
                words[start : start + done] = result.words[:done]
            if done < size:
                unreadable += yield from _load_rest(
                    gfns[start : start + size], words[start : start + size], done, result
                )
        at = starts[-1] + MAX_WORDS
    return words, unreadable


def _load_rest(gfns: Frames, words: Words, done: int, result: Result) -> Generator[Request, list[Result], int]:
    """Go on after a load that stopped early; a page that cannot be read is stepped over."""
    unreadable = 0
    idle_rounds = 0
    while done < gfns.size:
        if isinstance(result, LoadResult) and result.stop is Stop.BUDGET and idle_rounds <= _IDLE_ROUNDS_MAX:
            idle_rounds = 0 if result.done else idle_rounds + 1
        else:
            unreadable += 1
            done += 1
            idle_rounds = 0
            if not isinstance(result, LoadResult):
                return unreadable + gfns.size - done
        if done < gfns.size:
            (result,) = yield [Load(gfns[done:])]
            if isinstance(result, LoadResult):
                words[done : done + result.done] = result.words[: result.done]
                done += result.done
    return unreadable


def store_words(gfns: Frames, words: Words) -> Generator[Request, list[Result], int]:
    """Write the content words of *gfns*; returns how many could not be written."""
    unwritten = 0
    for first in range(0, gfns.size, MAX_WORDS * MAX_IN_FLIGHT):
        spans = [
            slice(s, s + MAX_WORDS) for s in range(first, min(gfns.size, first + MAX_WORDS * MAX_IN_FLIGHT), MAX_WORDS)
        ]
        results = yield [Store(gfns[span], words[span]) for span in spans]
        for span, result in zip(spans, results, strict=True):
            unwritten += yield from _store_rest(gfns[span], words[span], result)
    return unwritten


def _store_rest(gfns: Frames, words: Words, result: Result) -> Generator[Request, list[Result], int]:
    """Go on after a store that stopped early; a page that cannot be written is stepped over."""
    at = unwritten = idle_rounds = 0
    while True:
        if not isinstance(result, MemopResult):
            return unwritten + gfns.size - at
        at += result.done
        if at >= gfns.size:
            return unwritten
        idle_rounds = 0 if result.done else idle_rounds + 1
        if result.stop is not Stop.BUDGET or idle_rounds > _IDLE_ROUNDS_MAX:
            at, unwritten, idle_rounds = at + 1, unwritten + 1, 0
            if at >= gfns.size:
                return unwritten
        (result,) = yield [Store(gfns[at:], words[at:])]
