"""Child processes: `xbd` commands that a daemon starts, hears of, starts again when they die, and ends with itself.

Each child is in a session of its own, so a Ctrl-C on the terminal reaches the parent alone. Its standard input is one end
of a pair of sockets: there it tells its parent what daemons tell a service manager (`xbd.daemons.runtime.sd_notify`),
and when the parent is gone, however it went, that ends, and the child stops itself. Nobody else can speak on it.
Whatever was meant for the parent alone (its own service manager, passed sockets) is not handed on.
"""

import math
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import trio

from xbd.daemons.runtime import sockets
from xbd.daemons.runtime.check_in import CheckIn
from xbd.daemons.runtime.outside import calls
from xbd.daemons.runtime.peers import Alarm
from xbd.daemons.runtime.sd_notify import MAX_MESSAGE_BYTES, for_child, parse_message
from xbd.errors import XbdError

# As long as nobody wonders; after that it is said what is being waited for.
SILENCE_S: Final = 2.0
# One that dies so soon after its start, so often in a row, would only die again.
SOON_S: Final = 10.0
DEATHS_IN_A_ROW: Final = 5
# Doubles with each death in a row, so a broken installation does not spin.
RESTART_DELAY_S: Final = 0.5

# sysexits.h: EX_CONFIG.
EXIT_CONFIG: Final = 78

# Messages stay apart, and one's end is heard by the other.
_KIND: Final = socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK

Say = Callable[[str], None]


class Ending:
    """How a daemon and its children end, for `run_service`: at the first signal in order, at the second at once.

    Args:
        say: what a person is told, a line at a time.
        asked: tells the person which signal has begun it.

    Attributes: *begun*: all is to end; *impatient*: at once; *exit_code*: the daemon's, so far; *changed* rings when a
    child has something new to say of itself.
    """

    def __init__(self, say: Say, asked: Say) -> None:
        self.say = say
        self._asked = asked
        self.begun = trio.Event()
        self.impatient = trio.Event()
        self.exit_code = 0
        self.changed = Alarm()

    def stop(self, why: str) -> None:
        """End all, because of a signal."""
        if self.begun.is_set():
            self.say("again: ending everything at once")
            self.impatient.set()
            return
        self._asked(why)
        self.begun.set()

    def give_up(self, exit_code: int) -> None:
        """End all, because it cannot go on."""
        self.exit_code = exit_code
        self.begun.set()


class Child:
    """One `xbd` command, started any number of times.

    Args:
        ending: its parent's.
        who: what people are told of it.
        arguments: of `xbd`, without `--supervised`.
        watchdog_s: one that is ready, and then has not said for so long that it is well, is killed; None: it need not.

    Attributes: *process*: the last that was started; *is_ready*: it has said so; *status*: how it stands, as it says.
    """

    def __init__(self, ending: Ending, who: str, *arguments: str, watchdog_s: float | None = None) -> None:
        self._ending = ending
        self.who = who
        self._arguments = arguments
        self._watchdog_s = watchdog_s
        # Who ends it waits for who is just starting it, and nobody starts it after that.
        self._lock = trio.Lock()
        self._connection: socket.socket | None = None
        self.process: trio.Process | None = None
        self.is_ready = False
        self.status = ""

    async def start(self) -> trio.Process | None:
        """Start it, unless all is to end: then None. Raises XbdError: the system has no room for it."""
        async with self._lock:
            if self._ending.begun.is_set():
                return None
            self._forget()
            try:
                self._connection, theirs = socket.socketpair(socket.AF_UNIX, _KIND)
                with theirs:
                    environ = for_child(os.environ, self._watchdog_s)
                    self.process = await spawn(theirs, environ, *self._arguments)
            except OSError as error:
                raise XbdError(f"{self.who} cannot be started: {error.strerror}") from error
            return self.process

    def _forget(self) -> None:
        """Close what an earlier process spoke on."""
        self.is_ready, self.status = False, ""
        if self._connection is not None:
            sockets.close(self._connection)
            self._connection = None

    async def keep(self, again: str) -> None:
        """Keep it running until all is to end; when it keeps dying, all is.

        Args:
            again: what is said when it is started again, such as what that means to others.
        """
        deaths = 0
        say, begun = self._ending.say, self._ending.begun
        with CheckIn(f"keep {self.who}").watched() as check_in:
            while not begun.is_set():
                began = trio.current_time()
                with check_in.idle():
                    sentence, code = await self._live()
                if begun.is_set():
                    return
                deaths = deaths + 1 if trio.current_time() - began < SOON_S else 1
                say(sentence)
                if code == EXIT_CONFIG:
                    # It has said what is wrong, and would only say so again.
                    say("giving up")
                    self._ending.give_up(code)
                    return
                if deaths >= DEATHS_IN_A_ROW:
                    say(f"that was {deaths} times in a row: giving up")
                    self._ending.give_up(1)
                    return
                with trio.move_on_after(RESTART_DELAY_S * 2 ** (deaths - 1)):
                    await begun.wait()
                if not begun.is_set():
                    say(f"starting {self.who} again; {again}")

    async def _live(self) -> tuple[str, int]:
        """Start it, and wait until it has ended or all is to end; returns a sentence that says how, and its exit code."""
        try:
            if await self.start() is not None:
                await first_of(self.ended, self._ending.begun.wait)
        except XbdError as error:
            return str(error), 1
        code = None if self.process is None else self.process.returncode
        return ("", 0) if code is None else (f"{self.who} died: {how_it_ended(code)}", code)

    async def ended(self) -> int:
        """Hear what it says of itself until it has ended; returns its exit code."""
        assert self.process is not None, f"{self.who} was not started"
        try:
            await first_of(self.process.wait, self._hear)
        finally:
            self.is_ready = False
            self._ending.changed.ring()
        return await self.process.wait()

    async def _hear(self) -> None:
        """Hear it, for ever; kill it when it was ready and is not well any more."""
        process, connection = self.process, self._connection
        assert process is not None
        every_s = math.inf if self._watchdog_s is None else self._watchdog_s
        well_until_s = math.inf
        while True:
            with trio.move_on_at(well_until_s) as patience:
                message = await _next_message(connection)
            if patience.cancelled_caught:
                self._ending.say(f"{self.who} hangs: it has not said for {every_s:g} s that it is well; killing it")
                process.kill()
                message = None
            if message is None:
                # Whoever waits for its end goes on.
                await trio.sleep_forever()
            self.is_ready = self.is_ready or "READY" in message
            self.status = message.get("STATUS", self.status)
            if "READY" in message or "WATCHDOG" in message:
                well_until_s = trio.current_time() + every_s
            self._ending.changed.ring()

    async def end(self, grace_s: float) -> None:
        """End it, when all is to end: ask, wait, insist. One that ends badly makes its parent's exit code 1."""
        async with self._lock:
            process, say, impatient = self.process, self._ending.say, self._ending.impatient
            if process is not None and process.returncode is None:
                process.terminate()
                with trio.move_on_after(SILENCE_S):
                    await first_of(process.wait, impatient.wait)
                if process.returncode is None and not impatient.is_set():
                    again = "a second signal ends everything at once"
                    say(f"{self.who}: not done yet, waiting up to {grace_s:g} s; {again}")
                    with trio.move_on_after(grace_s):
                        await first_of(process.wait, impatient.wait)
                if process.returncode is None:
                    say(f"{self.who} did not stop: killed")
                    process.kill()
                code = await process.wait()
                # One that had not got round to handling the signal yet had nothing to clean up either.
                if code not in (0, -signal.SIGTERM):
                    say(f"{self.who} ended badly: {how_it_ended(code)}")
                    self._ending.exit_code = self._ending.exit_code or 1
            self._forget()


async def _next_message(connection: socket.socket | None) -> Mapping[str, str] | None:
    """Receive what a child says next; None: it says no more, for it has closed its end, or we have ours."""
    while connection is not None:
        # What is there is taken before anything is waited for: it came in time, however late this process is.
        try:
            received = calls.receive(connection, MAX_MESSAGE_BYTES)
            return parse_message(received) if received else None
        except BlockingIOError:
            pass
        except OSError:
            return None
        try:
            await sockets.until_readable(connection)
        except trio.ClosedResourceError:
            return None
    return None


async def spawn(stdin: socket.socket, environ: Mapping[str, str], *arguments: str) -> trio.Process:
    """Start `xbd ARGUMENTS` as a child that ends when nobody holds the other end of *stdin* any more. Raises OSError."""
    command = (sys.executable, "-m", "xbd", *arguments, "--supervised")
    return await trio.lowlevel.open_process(command, stdin=stdin.fileno(), start_new_session=True, env=environ)


def how_it_ended(code: int) -> str:
    """Put a process's exit code into words."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"


async def first_of(*waits: Callable[[], Awaitable[object]]) -> None:
    """Return when the first of *waits* does."""
    async with trio.open_nursery() as nursery:

        async def wait(one: Callable[[], Awaitable[object]]) -> None:
            await one()
            nursery.cancel_scope.cancel()

        for one in waits:
            nursery.start_soon(wait, one)
