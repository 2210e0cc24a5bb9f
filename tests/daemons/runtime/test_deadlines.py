"""Deadlines of many parties, kept by one task."""

import math
from functools import partial

import numpy as np
import trio
from trio.testing import MockClock

from xbd.daemons.runtime.deadlines import GRAIN_S, Deadlines, Party


async def test_each_is_called_at_its_time_and_at_no_other(autojump_clock: MockClock) -> None:
    """Deadlines that are set, moved either way and taken back at random are kept to the grain."""
    rng = np.random.default_rng(1)
    deadlines = Deadlines()
    called: list[tuple[int, float]] = []

    def call(index: int) -> None:
        called.append((index, autojump_clock.current_time()))

    parties = [Party(partial(call, index)) for index in range(20)]
    due = [math.inf] * len(parties)
    calls = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(deadlines.run)
        for _ in range(400):
            index, now = int(rng.integers(len(parties))), autojump_clock.current_time()
            due[index] = math.inf if rng.random() < 0.2 else now + float(rng.random()) * 3
            deadlines.set(parties[index], None if due[index] == math.inf else due[index])
            await trio.sleep(float(rng.random()) * 0.3)
            for one, at_s in called:
                assert due[one] <= at_s + 1e-9 <= due[one] + 2 * GRAIN_S
                due[one] = math.inf
            calls += len(called)
            called.clear()
            assert all(one + 2 * GRAIN_S > autojump_clock.current_time() for one in due)
        nursery.cancel_scope.cancel()
    assert calls > 100


def test_nobody_is_called_before_the_deadline() -> None:
    """It is rounded up, never down: who is called too soon has nothing to do, and is called again at once."""
    # Of 3 s / 100 and the next number that a float can be, rounding makes the former.
    for due_s in (math.nextafter(number / 100, math.inf) for number in range(1, 20_000)):
        party = Party(lambda: None)
        Deadlines().set(party, due_s)
        assert party.due_s >= due_s


async def test_others_get_their_turns(autojump_clock: MockClock) -> None:
    """A party that is always due does not keep other tasks from running."""
    deadlines = Deadlines()
    calls = 0

    def again() -> None:
        nonlocal calls
        calls += 1
        deadlines.set(party, autojump_clock.current_time() - 1)

    party = Party(again)
    deadlines.set(party, 0.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(deadlines.run)
        for _ in range(10):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert 10 < calls < 1000
