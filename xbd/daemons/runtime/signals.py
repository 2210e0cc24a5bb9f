"""What signals mean to a daemon: SIGTERM and SIGINT end it, SIGHUP reloads, unless it is a terminal's last word."""

import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog
import trio

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Signals:
    """What a daemon receives: numbers of signals; and whether standard error was a terminal when that began."""

    numbers: AsyncIterator[int]
    on_terminal: bool


async def heed(signals: Signals, stop: Callable[[], None], reload: Callable[[], Awaitable[None]]) -> None:
    """Call *stop* for each SIGTERM and SIGINT, *reload* for each SIGHUP, one after the other, until cancelled.

    A SIGHUP also comes when the terminal that the daemon was started on is closed: then it stops.
    """
    async for signum in signals.numbers:
        if signum == signal.SIGHUP and signals.on_terminal and not sys.stderr.isatty():
            # Nobody reads what is logged from here on; the log sink bears that.
            stop()
        elif signum == signal.SIGHUP:
            await reload()
        else:
            _log.info("stop_asked", signal=signal.Signals(signum).name)
            stop()


@contextmanager
def received() -> Iterator[Signals]:
    """Receive signals for the length of a block."""
    on_terminal = sys.stderr.isatty()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as receiver:
        yield Signals(receiver, on_terminal)
