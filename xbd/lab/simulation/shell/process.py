"""What a process is to its daemon, in a simulation: signals, a log, an end with an exit code, and being dropped.

A dropped process is as near to SIGKILL as one process can come. At that instant what it has written is set apart
(`on_drop`), and from then on every call of its fails, so nothing that it still does, cleaning up among it, can be seen
from outside. Then its tasks are cancelled.
"""

import errno
import signal
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

import trio

from xbd.errors import ConfigError, XbdError
from xbd.lab.simulation.daemons.trace import Trace
from xbd.lab.simulation.shell.log_pipe import LogPipe
from xbd.testing.oracle import Violation

EXIT_CONFIG: Final = 78
EXIT_FAILED: Final = 1
# More signals than that at once are as many as a process would hear of.
_SIGNALS_QUEUED: Final = 64
# How much of where an error came from is told.
_FRAMES_TOLD: Final = 9


@dataclass(frozen=True, slots=True)
class End:
    """How a process ended: its exit code, and the sentence that it said; *code* None: it was dropped."""

    code: int | None
    sentence: str = ""


class Process:
    """One life of a daemon.

    Args:
        name: of the daemon, for the trace.
        main: what it runs; returns its exit code.
        trace: of the run.
        pipe: where its log goes.
        on_drop: sets apart what it has written.

    Attributes: *dropped*; *told*: it got a SIGTERM; *struck*: how many faults its calls met. *immune*: none does.
    *is_ready*: it has said that it serves.
    """

    def __init__(
        self,
        name: str,
        main: "Callable[[Process], Awaitable[int]]",
        trace: Trace,
        pipe: LogPipe,
        on_drop: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.pipe = pipe
        self.dropped = False
        self.told = False
        self.struck = 0
        self.immune = False
        self.is_ready = False
        self._main = main
        self._trace = trace
        self._on_drop = on_drop
        self._scope = trio.CancelScope()
        self._signals: trio.MemorySendChannel[int] | None = None
        self._due: tuple[int, str] | None = None

    async def run(self) -> End:
        """Run it to its end. Raises Violation: it ended as no daemon may."""
        before = current.set(self)
        code: int | None = None
        try:
            with self._scope:
                code = await self._main(self)
        except ConfigError as error:
            return self._ended(EXIT_CONFIG, str(error))
        except XbdError as error:
            return self._ended(EXIT_FAILED, str(error))
        except Exception as error:
            if not self.dropped:
                raise Violation(f"{self.name} ended with {_innermost(error)}") from error
        finally:
            current.reset(before)
        return self._ended(code, "")

    def _ended(self, code: int | None, sentence: str) -> End:
        if self.dropped:
            return End(None)
        assert code is not None, "only one that was dropped is cancelled"
        self._trace.line(self.name, f"ended with {code} {sentence}".rstrip())
        return End(code, sentence)

    def retry_log(self) -> None:
        """Let its log sink try again, as its thread does in a process of its own."""
        before = current.set(self)
        try:
            self.pipe.retry()
        finally:
            current.reset(before)

    # -- what befalls it

    def drop(self) -> None:
        """End it here and now; nothing of it counts any more."""
        if self.dropped:
            return
        self.dropped = True
        self._on_drop()
        self._scope.cancel()

    def drop_at(self, count: int, what: str) -> None:
        """Drop it at one of its next *what*: "call" or "note"."""
        self._due = (count, what)

    def reach(self, what: str) -> None:
        """Note that it is at a call or a note. Raises OSError: it was dropped."""
        if self._due is not None and self._due[1] == what and not self.dropped:
            count = self._due[0] - 1
            self._due = (count, what) if count else None
            if not count:
                self._trace.fault(self.name, "drop-midway", f"at a {what}")
                self._trace.sometimes(f"the hypervisor was dropped at a {what}")
                if not self.is_ready:
                    self._trace.sometimes("the hypervisor was dropped while it started")
                self.drop()
        if self.dropped and what == "call":
            raise OSError(errno.EIO, "the process is gone")

    def signal(self, number: int) -> None:
        """Send it a signal; before it has said what it does with signals, that ends it."""
        self.told = self.told or number == signal.SIGTERM
        if self._signals is None:
            self.drop()
            return
        try:
            self._signals.send_nowait(number)
        except (trio.BrokenResourceError, trio.WouldBlock):
            # It has stopped listening, for it is ending; or has more of them than it needs.
            return

    @contextmanager
    def receive_signals(self) -> Iterator[AsyncIterator[int]]:
        """Be `trio.open_signal_receiver` to this process."""
        self._signals, receiver = trio.open_memory_channel[int](_SIGNALS_QUEUED)
        with self._signals, receiver:
            yield receiver


current: ContextVar[Process | None] = ContextVar("current_process", default=None)


@contextmanager
def signals_of_processes(*numbers: int) -> Iterator[AsyncIterator[int]]:
    """Be `trio.open_signal_receiver` to whichever process asks."""
    del numbers
    process = current.get()
    assert process is not None, "who is no process receives no signals"
    with process.receive_signals() as receiver:
        yield receiver


def _innermost(error: BaseException) -> str:
    """Say what an error is and where it came from, without the paths of this machine."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    found = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    # Not the simulation's own call that raised it, but who made that, and for whom.
    ours = [
        f"{file.rpartition('xbd/')[2]}:{line}" for file, line in found if "/xbd/" in file and "/simulation/" not in file
    ]
    where = f" in {', called in '.join(reversed(ours[-_FRAMES_TOLD:]))}" if ours else ""
    return f"{type(error).__name__}{where}: {error}"
