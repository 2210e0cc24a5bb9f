"""Turns of the guests of a host, one in each round of the loop while more than one waits.

Between two rounds the loop hears of new bytes, so who has just sent a call is among those who are chosen from.
A guest that is alone has its turn at once.
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from xbd.control.fair_turns import FairTurns, Share
from xbd.daemons.runtime.check_in import CheckIn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    # The endpoints of guests need numpy, and not every daemon has guests.
    from xbd.control.endpoint import Endpoint


class Turns(trio.abc.Instrument):
    """Hands out the turns of a host's guests while they are `served`."""

    def __init__(self) -> None:
        self._order: FairTurns[trio.Event] = FairTurns()
        self._contended = trio.Event()
        # Whether somebody has had a turn in this round; how many were chosen, and have not had theirs yet.
        self._had_one = False
        self._chosen = 0
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
        """Choose one of those who wait in each round, for ever."""
        with CheckIn("choose whose turn it is").watched() as check_in:
            while True:
                with check_in.idle():
                    await self._contended.wait()
                self._contended = trio.Event()
                while self._order:
                    self._chosen += 1
                    self._order.next().set()
                    await trio.lowlevel.checkpoint()
                    check_in.here()

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
        # A turn that others kept from the processor took no longer for that; and where time is virtual, none takes any.
        ended_s = self._now_s()
        self._order.end(share, min(time.thread_time() - cpu_began_s, ended_s - began_s), ended_s)
        return answers

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
