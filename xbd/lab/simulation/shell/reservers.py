"""Who asks the autoballoon daemon to free memory and hold it: some now and then, or more at once than have a place."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from xbd.client.client import Client, open_client
from xbd.client.lease import LOOK_EVERY_S, why_lost
from xbd.errors import HypercallError
from xbd.lab.simulation.daemons.trace import Trace
from xbd.lab.simulation.rng import Rng
from xbd.lab.simulation.shell.operators import LOST
from xbd.limits import MAX_RESERVERS
from xbd.testing.oracle import Violation
from xbd.units import SUPER_PAGES

_PAUSE_S: Final = 3.0
_MOST_SUPERFRAMES: Final = 12
_ASK_EVERY_S: Final = 0.5
_WAITS_S: Final = 15.0
_HOLDS_S: Final = 6.0
# More than the daemon has places for, each of which a reservation keeps.
_CROWD: Final = 66
_CROWD_STAYS_S: Final = 2.0


class Reserver:
    """One who reserves memory at *socket*, holds it for a while, and begins again after a pause, *calm* times as long.

    *life* tells which process the daemon that holds it is at present.
    """

    def __init__(self, socket: Path, trace: Trace, rng: Rng, calm: float, life: Callable[[], object]) -> None:
        self._pause_s = _PAUSE_S * calm
        self._socket = socket
        self._trace = trace
        self._rng = rng
        self._life = life

    async def work(self) -> None:
        """Reserve for ever. Raises Violation: memory is taken for held that nobody holds."""
        while True:
            await trio.sleep(self._rng.exponential(self._pause_s))
            pages = (1 + self._rng.below(_MOST_SUPERFRAMES)) * SUPER_PAGES
            try:
                async with open_client(self._socket) as client:
                    await client.call("reserve", {"pages": pages})
                    await self._hold(client, pages)
            except* (*LOST, HypercallError) as group:
                self._trace.line("reserver", f"not reserved: {group.exceptions[0]}")

    async def _hold(self, client: Client, pages: int) -> None:
        held = False
        with trio.move_on_after(_WAITS_S):
            # A reservation is asked after, as `xbd reserve` does it; nobody is told.
            while (state := (await client.call("reservation"))["state"]) == "pending":  # noqa: ASYNC110
                await trio.sleep(_ASK_EVERY_S)
            self._trace.line("reserver", f"{pages} pages: {state}")
            held = state == "held"
            self._trace.sometimes("a reservation was held" if held else "a reservation could not be held")
        if held:
            with trio.move_on_after(self._rng.exponential(_HOLDS_S)):
                await self._watch(client)

    async def _watch(self, client: Client) -> None:
        """Look whether the memory is still held, as `xbd reserve` does it, until it is not."""
        life = self._life()
        while True:
            await trio.sleep(LOOK_EVERY_S)
            try:
                why = why_lost(await client.call("reservation"))
            except LOST as error:
                why = why_lost(error)
            if why:
                self._trace.line("reserver", f"no longer held: {why}")
                self._trace.sometimes("a reservation was lost while it was held")
                return
            if self._life() is not life:
                raise Violation("a reservation is taken for held, though the daemon that held it has ended")


async def come_in_a_crowd(socket: Path, trace: Trace) -> None:
    """Reserve from more connections than there are places for, and stay a while. Raises Violation: all have got in."""
    here = 0

    async def one() -> None:
        nonlocal here
        try:
            async with open_client(socket) as client:
                await client.call("reserve", {"pages": SUPER_PAGES})
                here += 1
                if here > MAX_RESERVERS:
                    raise Violation(f"{here} reserve memory at once, of {MAX_RESERVERS} places")
                await trio.sleep(_CROWD_STAYS_S)
                here -= 1
        except* (*LOST, HypercallError):
            trace.sometimes("one of a crowd was turned away")

    async with trio.open_nursery() as nursery:
        for _ in range(_CROWD):
            nursery.start_soon(one)
