"""What every daemon is around its own work: `run_service` starts it, tells who started it how it stands, and ends it.

SIGTERM and SIGINT end a daemon, in its start as well; SIGHUP reads its
settings again, unless it is the last word of the terminal that it was started on. The service manager, where there is
one, hears of all that (`xbd.daemons.runtime.sd_notify`), and its watchdog is fed as long as each long-lived task checks
in (`xbd.daemons.runtime.check_in`).
"""

import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import structlog
import trio

from xbd import log
from xbd.daemons.runtime import log_sink, sockets
from xbd.daemons.runtime.check_in import watch_from_here
from xbd.daemons.runtime.malloc_trim import trim_now_and_then
from xbd.daemons.runtime.nurseries import plain_errors
from xbd.daemons.runtime.outside import calls
from xbd.daemons.runtime.peers import Alarm
from xbd.daemons.runtime.sd_notify import ServiceManager, parent_on
from xbd.daemons.runtime.signals import signals_heard
from xbd.errors import XbdError

_log = structlog.get_logger(__name__)

# How often it is looked whether all tasks have checked in; where a watchdog watches, it is fed more often than that.
LOOK_EVERY_S: Final = 5.0

# What a SIGHUP does; or the sentence that says why there is nothing to be read again; or None: it ends the daemon.
Reload = Callable[[], Awaitable[None]] | str | None


class Service:
    """How a daemon stands, and what it tells its service manager of that; it watches what is started after it is made.

    Args:
        manager: who started it; by default nobody who would listen.
    """

    def __init__(self, manager: ServiceManager | None = None) -> None:
        self.manager = manager or ServiceManager()
        self._describe: Callable[[], str] = lambda: "starting"
        self._watched = watch_from_here()
        self._late: set[str] = set()
        self._is_ready = trio.Event()

    def is_well(self) -> bool:
        """Tell whether all tasks have checked in; each one that has not is logged, once until it does again."""
        now = trio.current_time()
        late = {one.task for one in self._watched if one.is_late(now)}
        for task in sorted(late - self._late):
            _log.error("task_hangs", task=task, reason="it waits for what does not come; the watchdog is not fed")
        for task in sorted(self._late - late):
            _log.info("task_goes_on", task=task)
        self._late = late
        return not late

    @asynccontextmanager
    async def ready(
        self, describe: Callable[[], str], changed: Callable[[], Awaitable[None]] | None = None
    ) -> AsyncIterator[trio.Nursery]:
        """Tell that everybody is served, and then how things stand, for the length of a block.

        Args:
            describe: says in a line for people how things stand.
            changed: returns when that may be another line.

        Yields:
            A nursery for tasks that end with the block.
        """
        self._describe = describe
        self.manager.ready(describe())
        self._is_ready.set()
        with plain_errors():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.manager.feed, self.is_well)
                nursery.start_soon(self._look_after)
                nursery.start_soon(trim_now_and_then)
                if changed is not None:
                    nursery.start_soon(self.manager.follow, changed, describe)
                yield nursery
                nursery.cancel_scope.cancel()

    async def _look_after(self) -> None:
        while True:
            await trio.sleep(LOOK_EVERY_S)
            self.is_well()

    async def reload(self, reload: Callable[[], Awaitable[None]] | str) -> None:
        """Read the settings again, between telling the manager so and telling it that all is ready."""
        await self._is_ready.wait()
        self.manager.reloading()
        if isinstance(reload, str):
            _log.warning("nothing_to_reload", reason=reload)
        else:
            try:
                await reload()
            except XbdError as error:
                _log.error("reload_failed", reason=str(error), kept="all settings")
        self.manager.ready(self._describe())


def begin(log_level: str = "info") -> None:
    """Set up, first of all, what every daemon's process has: a log that cannot end it, and all descriptors it may have."""
    log_sink.install()
    log.configure(log_level)
    sockets.raise_descriptor_limit()


async def run_service(
    start: Callable[[Service], Awaitable[int]],
    *,
    reload: Reload,
    stop: Callable[[str], None] | None = None,
    farewell: str = "stopping",
    supervised: bool = False,
) -> int:
    """Be a daemon until it has ended; returns the exit code.

    Args:
        start: the daemon's life, from its start on; returns the exit code. It says that it is `ready` when it is.
        reload: what a SIGHUP does.
        stop: asks *start* to return, told why; by default it is cancelled, and the code is 0.
        farewell: what the service manager is told when it is cancelled.
        supervised: it also ends when its standard input does: whoever supervises it is gone. A parent that hears it
            there (`xbd.daemons.runtime.children`) is its service manager.

    Raises:
        XbdError: it cannot start.
    """
    parent = parent_on(sys.stdin.fileno()) if supervised else None
    service = Service(ServiceManager.from_environment(os.environ, os.getpid(), parent))
    exit_code = 0
    hang_ups = Alarm()
    # Signals are heard until the life has ended, its clearing up included: an impatient second SIGTERM, or a SIGHUP that
    # comes meanwhile, must not have its default effect, which is to kill what is just saving its state.
    reloading = trio.CancelScope()
    life = trio.CancelScope()
    on_terminal = sys.stderr.isatty()

    def hear(number: int) -> None:
        # A SIGHUP also comes when the terminal that the daemon was started on is closed: then it ends. Nobody reads what
        # is logged from there on; the log sink bears that.
        is_last_word = number == signal.SIGHUP and on_terminal and not sys.stderr.isatty()
        if number == signal.SIGHUP and reload is not None and not is_last_word:
            hang_ups.ring()
        else:
            end(signal.Signals(number).name)

    def end(why: str) -> None:
        reloading.cancel()
        if stop is not None:
            stop(why)
        elif not life.cancel_called:
            _log.info("stop_asked", signal=why)
            service.manager.stopping(farewell)
            life.cancel()

    async def reload_when_asked() -> None:
        with reloading:
            while reload is not None:
                await hang_ups.wait()
                await service.reload(reload)

    async with signals_heard(hear, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        with life:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(reload_when_asked)
                if supervised:
                    nursery.start_soon(_end_when_orphaned, end)
                exit_code = await start(service)
                nursery.cancel_scope.cancel()
    return exit_code


async def _end_when_orphaned(end: Callable[[str], None]) -> None:
    """Call *end* when standard input ends: whoever supervises this process is gone."""
    # A copy, so that closing it leaves the descriptor 0 taken.
    async with trio.lowlevel.FdStream(calls.duplicate(sys.stdin.fileno())) as supervisor:
        while await supervisor.receive_some(4096):
            pass
    end("supervisor gone")
