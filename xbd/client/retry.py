"""The loop that tries again, of every daemon that follows another."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from xbd.protocol.backoff import Backoff

T = TypeVar("T")


async def retry(attempt: Callable[[], Awaitable[T]], backoff: Backoff, passes: Callable[[Exception], bool]) -> T:
    """Call *attempt* until it returns, and return what it does; after each error that *passes* there is a pause.

    Raises:
        Exception: whatever an attempt raises that does not pass.
    """
    while True:
        try:
            return await attempt()
        except Exception as error:
            if not passes(error):
                raise
        await trio.sleep(backoff.next_s())
