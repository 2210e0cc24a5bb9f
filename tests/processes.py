"""Real `xbd` processes for tests: started, awaited by what they say, and never left behind."""

import queue
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests import forked
from xbd.testing.processes import XBD, start

# A hung process is killed then, so that a test fails instead of hanging; nothing is expected to take so long.
WATCHDOG_S = 120.0


class Xbd:
    """A running `xbd` command; *said* is what it had written to stderr when it was last waited for.

    *launcher* is what runs `python -m xbd ...`, handed to it as its arguments, with the descriptors *pass_fds*.
    It is killed after *within_s*.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        launcher: Sequence[str] = (),
        pass_fds: Sequence[int] = (),
        within_s: float = WATCHDOG_S,
    ) -> None:
        command = [*launcher, *XBD, *arguments]
        self.process = start(command, forked.start, stderr=subprocess.PIPE, pass_fds=pass_fds)
        self.said: list[str] = []
        self._unheard: queue.SimpleQueue[str] = queue.SimpleQueue()
        # Read all the time, for who writes to a pipe that is full waits.
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self._watchdog = threading.Timer(within_s, self.process.kill)
        self._watchdog.start()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._unheard.put(line)
        self._unheard.put("")

    def _heard(self) -> Iterator[str]:
        """Take the lines that it writes, up to the end of its stderr."""
        while line := self._unheard.get():
            self.said.append(line)
            yield line
        # Whoever asks again is at its end, too.
        self._unheard.put(line)

    def wait_until_it_says(self, words: str) -> str:
        """Wait for a line on stderr that holds *words*, and return it; fail if it ends before."""
        for line in self._heard():
            if words in line:
                return line
        raise AssertionError(f"it ended without saying {words!r}, but:\n{''.join(self.said)}")

    def end(self, with_signal: signal.Signals = signal.SIGINT) -> int:
        """Send it a signal, read what is left, return its exit code."""
        self.process.send_signal(with_signal)
        assert self.process.stderr is not None
        deque(self._heard(), maxlen=0)
        self._listener.join()
        self.process.stderr.close()
        code = self.process.wait()
        self._watchdog.cancel()
        return code


@contextmanager
def running(
    *arguments: str, launcher: Sequence[str] = (), pass_fds: Sequence[int] = (), within_s: float = WATCHDOG_S
) -> Iterator[Xbd]:
    """Run an `xbd` command for the length of a block."""
    xbd = Xbd(arguments, launcher, pass_fds, within_s)
    try:
        yield xbd
    finally:
        if xbd.process.stderr is not None and not xbd.process.stderr.closed:
            xbd.end()


def children_of(pid: int) -> dict[str, int]:
    """List a process's children: the `xbd` subcommand that each runs (and, of several, its `--share`), and its pid."""
    children = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            command = (stat.parent / "cmdline").read_text().split("\0")
        except OSError:
            continue  # it ended while we looked
        # One that has just been forked is not yet what it will be.
        if int(fields[1]) == pid and fields[0] != "Z" and "xbd" in command:
            share = command[command.index("--share") + 1 :][:1] if "--share" in command else []
            children[" ".join([command[command.index("xbd") + 1], *share])] = int(stat.parent.name)
    return children


def is_alive(pid: int) -> bool:
    """Tell whether a process runs (one that only waits to be reaped does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
