"""Turns of the guests of a host, few in each round of the loop while more than one waits.

Between two rounds the loop hears of new bytes, so who has just sent a call is among those who are chosen from.
One has its turn in each round, and more where the daemon has much else to do, so that guests have half of the time then.
A guest that is alone has its turn at once.
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio

from xbd.control.fair_turns import FairTurns, Share, turns_in_a_round
from xbd.daemons.runtime.check_in import CheckIn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    # The endpoints of guests need numpy, and not every daemon has guests.
    from xbd.control.endpoint import Endpoint

_TURNS_OF_AVERAGE: Final = 16


class Turns(trio.abc.Instrument):
    """Hands out the turns of a host's guests while they are `served`."""

    def __init__(self) -> None:
        self._order: FairTurns[trio.Event] = FairTurns()
        self._contended = trio.Event()
        # Whether somebody has had a turn in this round; how many were chosen, and have not had theirs yet.
        self._had_one = False
        self._chosen = 0
        # What a turn takes, as an average of the last ones; and what those of this round took.
        self._turn_s = 0.0
        self._spent_s = 0.0
        self._now_s = trio.current_time

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - trio's signature
        """Note that a round of the loop ends."""
        self._had_one = False

    @asynccontextmanager
    async def served(self) -> AsyncIterator[None]:
        """Let those who wait have their turns, for the length of a block."""
        self._now_s = trio.lowlevel.current_clock().current_time
        trio.lowlevel.add_instrument(self)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._choose)
                yield
                nursery.cancel_scope.cancel()
        finally:
            trio.lowlevel.remove_instrument(self)

    async def _choose(self) -> None:
        """Choose among those who wait in each round, for ever."""
        with CheckIn("choose whose turn it is").watched() as check_in:
            while True:
                with check_in.idle():
                    await self._contended.wait()
                self._contended = trio.Event()
                others_s = 0.0
                while self._order:
                    for _ in range(min(turns_in_a_round(self._turn_s, others_s), len(self._order))):
                        self._chosen += 1
                        self._order.next().set()
                    began_s, cpu_began_s, self._spent_s = self._now_s(), time.thread_time(), 0.0
                    await trio.lowlevel.checkpoint()
                    check_in.here()
                    others_s = self._took_s(began_s, cpu_began_s, self._now_s()) - self._spent_s

    async def take(self, share: Share, endpoint: Endpoint) -> bytes:
        """Let an endpoint take its turn when it is next; returns its answers."""
        began_s = self._now_s()
        if began_s < share.rested_at_s:
            await trio.sleep_until(share.rested_at_s)
        if self._had_one or self._chosen or self._order:
            await self._wait(share)
        else:
            self._order.begin(share)
        self._had_one = True
        began_s, cpu_began_s = self._now_s(), time.thread_time()
        answers = endpoint.turn()
        ended_s = self._now_s()
        spent_s = self._took_s(began_s, cpu_began_s, ended_s)
        self._order.end(share, spent_s, ended_s, endpoint.batches)
        self._spent_s += spent_s
        self._turn_s += (spent_s - self._turn_s) / _TURNS_OF_AVERAGE
        return answers

    @staticmethod
    def _took_s(began_s: float, cpu_began_s: float, ended_s: float) -> float:
        """Tell what something took since then: no longer for being kept from the processor, and nothing in virtual time."""
        return min(time.thread_time() - cpu_began_s, ended_s - began_s)

    async def _wait(self, share: Share) -> None:
        """Wait until this share is next."""
        chosen = trio.Event()
        self._order.wait(share, chosen)
        self._contended.set()
        try:
            await chosen.wait()
        except trio.Cancelled:
            self._order.leave(chosen)
            raise
        # Nothing can cancel it between being chosen and here.
        self._chosen -= 1
