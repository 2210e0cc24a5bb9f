"""Standard error of a daemon, as a place that can fail: what cannot be written at once is lost, counted, and said later.

A daemon serves guests, whoever reads its log. So a write here neither raises nor waits: the reader of a pipe may leave
or stop reading, a terminal be stopped with Ctrl-S or closed, a disk fill up. `install` puts a `LogSink` in the place
of `sys.stderr`, so that log lines, click's messages, Python's warnings and tracebacks all go this one way.

How a write is kept from waiting depends on what standard error is:

- a pipe or a terminal is opened anew for this process with O_NONBLOCK. Setting the flag on descriptor 2 itself would
  set it for everybody who shares it, such as the shell that started the daemon;
- one that cannot be opened anew (it is another user's) is asked with poll first, and given at most PIPE_BUF bytes at
  a time, for which a pipe that polls writable has room. Another process that fills the same pipe between the two
  calls can make this one wait until somebody reads; nothing better is known for such a descriptor;
- a socket, as the journal's, is sent to with MSG_DONTWAIT;
- a file or another device is written to as it is: a disk answers, if only with an error. One that hangs (a network
  file system without its server) is waited for.

No line is torn: of one that was written in part, the rest is written before anything else.
"""

import io
import os
import re
import select
import socket
import stat
import sys
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final, TextIO, cast

from xbd import log
from xbd.control.console import Console
from xbd.daemons.runtime.outside import calls
from xbd.protocol.backoff import Backoff
from xbd.replaceable import replaceable

STANDARD_ERROR: Final = 2
# A line without an end is written out at this length, so that it does not grow for ever.
MAX_LINE_CHARACTERS: Final = 1 << 20
# Pauses between attempts to write what is left while nothing new is logged; they double up to the longest. That many
# wake-ups a second is all that a sink costs which never comes back.
FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 2.0

# Where a line begins that has no priority of its own.
_UNMARKED: Final = re.compile(r"^(?!<[0-7]>)(?=.)", re.MULTILINE)

# Writes some bytes at once and returns how many; raises OSError (BlockingIOError where it would have to wait).
Writer = Callable[[bytes], int]


class LogSink(io.TextIOBase):
    """A text stream that never raises and never waits; lines that its writer does not take at once are lost and counted.

    Any thread may write to it, also a finalizer that runs in the middle of another write: texts are queued,
    and whoever comes first writes for all.

    Args:
        writer: writes bytes at once, or raises OSError.
        descriptor: which standard stream this is; `fileno` and `isatty` tell of it.
        tell: makes the line, without its end, that says how many lines were lost.
        encoding: of the text; what it cannot encode is written as a backslash escape.
        mark: what a line begins with that does not begin with a priority: what is no log line, such as a traceback or
            the sentence that a daemon ends with, is an error to the journal.
    """

    errors = "backslashreplace"

    def __init__(
        self,
        writer: Writer,
        *,
        descriptor: int = STANDARD_ERROR,
        tell: Callable[[int], str] = log.lost_line,
        encoding: str = "utf-8",
        mark: str = "",
    ) -> None:
        super().__init__()
        self.writer = writer
        self._descriptor = descriptor
        self._tell = tell
        self._encoding = encoding
        self._mark = mark
        # What waits to be taken; None asks for what is there of an unfinished line.
        self._incoming: deque[str | None] = deque()
        # Held by the one who writes, never waited for by who logs.
        self._busy = threading.Lock()
        self.console = Console()
        self._begun_line = ""
        self._unwritten = b""
        self._lost_lines = 0
        self._retrying = False

    @property
    def encoding(self) -> str:  # type: ignore[override]  # typeshed declares a plain attribute
        """Name the encoding of what is written."""
        return self._encoding

    @property
    def lost_lines(self) -> int:
        """Tell how many lines were lost that the log does not say yet."""
        return self._lost_lines

    @property
    def owes(self) -> bool:
        """Tell whether something is left to write: the rest of a line, or how many were lost."""
        return bool(self._lost_lines or self._unwritten)

    def write(self, text: str, /) -> int:
        """Write *text* as far as its lines are whole; returns its length, also when it is lost.

        Raises:
            TypeError: it is no text, as of every text stream; click tells them by that.
        """
        if not isinstance(text, str):
            raise TypeError(f"a log is written as text, not as {type(text).__name__}")
        self._incoming.append(text)
        self._take_all()
        return len(text)

    def flush(self) -> None:
        """Write a line that has no end yet; all others were written, or lost, at once."""
        if self._begun_line:
            self._incoming.append(None)
            self._take_all()

    def writable(self) -> bool:
        """Say yes."""
        return True

    def fileno(self) -> int:
        """Return the descriptor of the standard stream."""
        return self._descriptor

    def isatty(self) -> bool:
        """Tell whether it is a terminal now; one that was closed is none."""
        return os.isatty(self._descriptor)

    def _take_all(self) -> None:
        """Write what is queued, unless somebody is at it, who then writes this, too."""
        while self._incoming and self._busy.acquire(blocking=False):
            try:
                while self._incoming:
                    self._take(self._incoming.popleft())
            finally:
                self._busy.release()

    def _take(self, text: str | None) -> None:
        """Add *text* to the line that has begun, and write whole lines."""
        if text and text[-1] == "\n" and not self._begun_line:
            whole = text  # as nearly all are
        else:
            line = self._begun_line + (text or "")
            # All of it when it was flushed, or is too long; else up to the last line's end.
            end = len(line) if text is None or len(line) > MAX_LINE_CHARACTERS else line.rfind("\n") + 1
            whole, self._begun_line = line[:end], line[end:]
            if not whole:
                return
        self.console.add(whole)
        may_begin = not (self._lost_lines or self._unwritten) or self._catch_up()
        if not (may_begin and self._begin(whole)):
            self._lost_lines += max(1, whole.count("\n"))
        if self._lost_lines or self._unwritten:
            self._retry_later()

    def _catch_up(self) -> bool:
        """Write the rest of what was written in part, then say what was lost; False: something is left."""
        if self._unwritten:
            self._unwritten = self._unwritten[self.write_now(self._unwritten) :]
        if self._lost_lines and not self._unwritten and self._begin(self._tell(self._lost_lines) + "\n"):
            self._lost_lines = 0
        return not self.owes

    def _begin(self, text: str) -> bool:
        """Write *text*, its rest later if need be; False: nothing of it was written."""
        marked = _UNMARKED.sub(self._mark, text) if self._mark else text
        encoded = marked.encode(self._encoding, "backslashreplace")
        written = self.write_now(encoded)
        if 0 < written < len(encoded):
            self._unwritten = encoded[written:]
        return written > 0

    @replaceable
    def write_now(self, encoded: bytes) -> int:
        """Write what can be written at once; returns how many bytes that were."""
        written = 0
        try:
            written = taken = self.writer(encoded)
            while taken and written < len(encoded):
                taken = self.writer(encoded[written:])
                written += taken
        except OSError:
            # Nobody reads, no room, a terminal that was closed: there is nobody to tell, until there is again.
            pass
        return written

    def _retry_later(self) -> None:
        """See to it that what is left is written when that is possible, also if nothing more is logged."""
        # A thread that is started while the interpreter ends never runs, and its starter would wait for that.
        if self._retrying or sys.is_finalizing():
            return
        self._retrying = True
        try:
            threading.Thread(target=self._retry, name="log sink", daemon=True).start()
        except RuntimeError:
            # No more threads: the next line tries again.
            self._retrying = False

    def _retry(self) -> None:
        """Try until nothing is left."""
        pauses, never, is_done = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S), threading.Event(), False
        while not is_done:
            never.wait(pauses.next_s())
            with self._busy:
                is_done = self._catch_up()
                self._retrying = not is_done
            # What was queued while the lock was held here.
            self._take_all()


def install(tell: Callable[[int], str] = log.lost_line) -> None:
    """Make standard error of this process one that neither raises nor waits, from here to its end.

    A standard stream that was closed is opened to /dev/null, lest another file take its number. Where
    `sys.stderr` is not the process's own (a test has replaced it), it is left as it is.

    Args:
        tell: makes the line, without its end, that says how many lines were lost.
    """
    _fill_closed_streams()
    if sys.stderr is not sys.__stderr__:
        return
    writer: Writer = _to_nowhere if sys.stderr is None else writer_to(STANDARD_ERROR)
    encoding = "utf-8" if sys.stderr is None else sys.stderr.encoding
    mark = "" if sys.stderr is None else log.mark_for("error")
    sys.stderr = cast(TextIO, LogSink(writer, tell=tell, encoding=encoding, mark=mark))


def console() -> Console:
    """Return the last lines of this process's log; where standard error is not its own, none are kept."""
    return sys.stderr.console if isinstance(sys.stderr, LogSink) else Console()


def writer_to(descriptor: int) -> Writer:
    """Choose how to write to *descriptor* without waiting; see this module. Its own flags are left as they are."""
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISSOCK(mode):
        return _sender_to(descriptor)
    if stat.S_ISFIFO(mode) or os.isatty(descriptor):
        try:
            own = calls.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:
            return polled_writer_to(descriptor)
        return partial(_write, own)
    return partial(_write, descriptor)


def _write(descriptor: int, encoded: bytes) -> int:
    return calls.write_log(descriptor, encoded)


def polled_writer_to(descriptor: int) -> Writer:
    """Make a writer to a pipe or terminal that may block: it asks first, and writes little at a time."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)

    def write(encoded: bytes) -> int:
        if not poll.poll(0):
            raise BlockingIOError
        return calls.write_log(descriptor, encoded[: select.PIPE_BUF])

    return write


def _sender_to(descriptor: int) -> Writer:
    """Make a writer to a socket."""
    peer = calls.socket(fileno=descriptor)
    family, kind, protocol = peer.family, peer.type, peer.proto
    peer.detach()

    def send(encoded: bytes) -> int:
        # Made anew each time, and detached: a socket object would close the descriptor when it goes.
        peer = calls.socket(family, kind, protocol, fileno=descriptor)
        try:
            return calls.send(peer, encoded, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        finally:
            peer.detach()

    return send


def _to_nowhere(encoded: bytes) -> int:
    """Write to a standard error that was closed from the start: nobody misses it."""
    return len(encoded)


def _fill_closed_streams() -> None:
    """Open /dev/null in the place of each standard stream that is closed."""
    # The lowest free number is taken first, so these are filled in order.
    opened = calls.open(os.devnull, os.O_RDWR)
    while opened <= STANDARD_ERROR:
        opened = calls.open(os.devnull, os.O_RDWR)
    os.close(opened)
