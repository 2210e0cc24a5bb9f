"""Signals are heard here, for whoever is told of them: the daemons' service, the screen of `xbd top`, a soak."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from xbd.daemons.runtime.nurseries import plain_errors
from xbd.daemons.runtime.outside import calls


@asynccontextmanager
async def signals_heard(handle: Callable[[int], None], *numbers: int) -> AsyncIterator[None]:
    """Call *handle* with the number of each signal of *numbers* that comes while the block runs.

    Until the block has ended none of them has its default effect. What *handle* raises ends the block.
    """

    async def hear(task_status: trio.TaskStatus[None]) -> None:
        with calls.signals(*numbers) as received:
            task_status.started()
            async for number in received:
                handle(number)

    with plain_errors():
        async with trio.open_nursery() as hearing:
            await hearing.start(hear)
            yield
            hearing.cancel_scope.cancel()
