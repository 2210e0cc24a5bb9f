"""`xbd up`: a whole host in the foreground, each service in a process of its own.

The children run in sessions of their own, so a Ctrl-C on the terminal reaches the supervisor alone,
which ends them in order: guests first, then the hypervisor. Each child holds the other end of a pipe
on its standard input; when the supervisor is killed the pipe ends, and the children stop themselves
(`run_service`, told that they are supervised).

A hypervisor that dies takes all domains with it: then everything ends; unless it saves its state, then it
is started again, and the agents resume. Agents that die are started again, and their guests boot anew.
Who keeps dying is not started again.
"""

import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import trio

from xbd.client.client import open_client
from xbd.client.discovery import NoHypervisor
from xbd.client.retry import retry
from xbd.client.runtime_dir import hypervisor_socket
from xbd.daemons.runtime.check_in import CheckIn
from xbd.daemons.runtime.service import Service, run_service
from xbd.errors import ConfigError, XbdError
from xbd.protocol.backoff import Backoff

# The hypervisor answers when all its domains are made; a thousand take a second or two.
READY_WITHIN_S: Final = 120.0
LOOK_EVERY_S: Final = 0.05
# Agents only disconnect, when they are done with what a thousand guests were at; the hypervisor gives its peers 2 s and audits a host of terabytes.
GUESTS_GRACE_S: Final = 30.0
HYPERVISOR_GRACE_S: Final = 60.0
# As long as nobody wonders; after that it is said what is being waited for.
SILENCE_S: Final = 2.0
# Agents that die so soon after their start, so often in a row, would only die again.
SOON_S: Final = 10.0
DEATHS_IN_A_ROW: Final = 5
# Doubles with each death in a row, so a broken installation does not spin.
RESTART_DELAY_S: Final = 0.5

# sysexits.h: EX_CONFIG.
_EXIT_CONFIG: Final = 78

Say = Callable[[str], None]


class Supervisor:
    """The host of one file.

    Args:
        config_path: the host file; it was read without complaint.
        runtime_dir: where the sockets are to be.
        guests: how many of its guests want an agent.
        say: what a person is told, a line at a time.
        saved: whether the host outlives its hypervisor.
    """

    def __init__(self, config_path: Path, runtime_dir: Path, guests: int, say: Say, *, saved: bool) -> None:
        self._config_path = config_path
        self._runtime_dir = runtime_dir
        self._socket = hypervisor_socket(runtime_dir)
        self._guests = guests
        self._say = say
        self._saved = saved
        self._has_answered = False
        self._ending = trio.Event()
        self._impatient = trio.Event()
        self._hypervisor: trio.Process | None = None
        self._agents: trio.Process | None = None
        self._exit_code = 0

    async def run(self) -> int:
        """Start everything, and stay until a signal comes or the host is lost; returns the exit code.

        Raises:
            ConfigError: a hypervisor runs there already.
        """
        await self._refuse_second()
        # A SIGHUP ends it, too: by it, a terminal that is closed says so.
        return await run_service(self._start, reload=None, stop=self._stop)

    async def _start(self, service: Service) -> int:
        async with trio.open_nursery() as nursery:
            try:
                process = self._hypervisor = await self._start_hypervisor()
                nursery.start_soon(self._watch_hypervisor, process)
                if await self._ready(process):
                    with CheckIn("keep the agents").watched() as check_in:
                        async with service.ready(lambda: "the hypervisor and its agents run"):
                            await self._keep_agents(nursery, check_in)
            finally:
                self._ending.set()
                with trio.CancelScope(shield=True):
                    await self._end("the agents", self._agents, GUESTS_GRACE_S)
                    await self._end("the hypervisor", self._hypervisor, HYPERVISOR_GRACE_S)
            nursery.cancel_scope.cancel()
        return self._exit_code

    async def _refuse_second(self) -> None:
        try:
            async with open_client(self._socket):
                pass
        except NoHypervisor:
            return
        raise ConfigError(
            self._config_path, "host.runtime_dir", f"a hypervisor runs at {self._socket} already; stop it first"
        )

    def _stop(self, why: str) -> None:
        if self._ending.is_set():
            self._say("again: ending everything at once")
            self._impatient.set()
            return
        self._say(f"{why}: stopping agents, then the hypervisor")
        self._ending.set()

    async def _start_hypervisor(self) -> trio.Process:
        return await _spawn("hypervisor", "--config", str(self._config_path), "--runtime-dir", str(self._runtime_dir))

    async def _watch_hypervisor(self, process: trio.Process) -> None:
        """End everything when the hypervisor dies, or start it again, if its state is saved and it comes back."""
        deaths = 0
        with CheckIn("keep the hypervisor", READY_WITHIN_S).watched() as check_in:
            while True:
                with check_in.idle():
                    code = await process.wait()
                if self._ending.is_set():
                    return
                how = how_it_ended(code)
                # One that ends by itself has said why; only one that was killed, or had a bug, may do better another time.
                if not self._saved or code in (0, _EXIT_CONFIG) or deaths >= DEATHS_IN_A_ROW:
                    self._say(f"the hypervisor died: {how}; {self._what_is_lost()}")
                    self._exit_code = code if code > 0 else 1
                    self._ending.set()
                    return
                self._say(f"the hypervisor died: {how}; starting it again from its state")
                with trio.move_on_after(RESTART_DELAY_S * deaths):
                    await self._ending.wait()
                if self._ending.is_set():
                    return
                process = self._hypervisor = await self._start_hypervisor()
                deaths = 0 if await self._answers(process) else deaths + 1

    def _what_is_lost(self) -> str:
        """Say what became of the domains of a hypervisor that is not started again."""
        if self._saved:
            return "giving up; what it saved is kept"
        return "its domains are gone with it" if self._has_answered else "it had made no domain that anybody could use"

    async def _answers(self, process: trio.Process) -> bool:
        """Wait until a hypervisor that was started answers; False when it died instead, or all is to end."""
        answers = False

        async def ask() -> None:
            nonlocal answers
            async with open_client(self._socket):
                answers = self._has_answered = True

        async def until_it_answers() -> None:
            # Not there yet, or no longer: whatever it says, it is asked again.
            await retry(ask, Backoff(), lambda error: isinstance(error, XbdError))

        await _first_of(until_it_answers, process.wait, self._ending.wait)
        return answers

    async def _ready(self, process: trio.Process) -> bool:
        """Wait until the hypervisor answers; False when all is to end instead."""
        with trio.move_on_after(READY_WITHIN_S) as patience:
            while not (self._ending.is_set() or await self._answers(process)):
                # It died; its watcher may start another.
                await trio.sleep(LOOK_EVERY_S)
                process = self._hypervisor or process
            return not self._ending.is_set()
        assert patience.cancelled_caught
        self._say(f"the hypervisor does not answer at {self._socket} after {READY_WITHIN_S:g} s")
        self._exit_code = 1
        return False

    async def _keep_agents(self, nursery: trio.Nursery, check_in: CheckIn) -> None:
        """Keep the agents running until all is to end, or they keep dying."""
        self._say(f"hypervisor ready: xbd --socket {self._socket} list")
        nursery.start_soon(self._tell_when_running)
        deaths = 0
        while not self._ending.is_set():
            began = trio.current_time()
            self._agents = await _spawn("guests", "--socket", str(self._socket))
            with check_in.idle():
                await _first_of(self._agents.wait, self._ending.wait)
            code = self._agents.returncode
            if code is None or self._ending.is_set():
                return
            deaths = deaths + 1 if trio.current_time() - began < SOON_S else 1
            self._say(f"the agents died: {how_it_ended(code)}")
            if code == _EXIT_CONFIG:
                # They have said what is wrong, and would only say so again.
                self._say("giving up")
                self._exit_code = code
                return
            if deaths >= DEATHS_IN_A_ROW:
                self._say(f"that was {deaths} times in a row: giving up")
                self._exit_code = 1
                return
            with trio.move_on_after(RESTART_DELAY_S * 2 ** (deaths - 1)):
                await self._ending.wait()
            if not self._ending.is_set():
                self._say("starting the agents again; their guests boot anew")

    async def _tell_when_running(self) -> None:
        running = 0
        try:
            async with open_client(self._socket) as client:
                while running < self._guests:
                    await trio.sleep(LOOK_EVERY_S)
                    running = sum(domain.agent for domain in await client.list())
        except XbdError:
            return  # the hypervisor is gone, which others notice, too
        self._say(f"{running} guests are running; Ctrl-C ends them and the host")

    async def _end(self, who: str, process: trio.Process | None, grace_s: float) -> None:
        """End a child: ask, wait, insist."""
        if process is None:
            return
        if process.returncode is None:
            process.terminate()
            with trio.move_on_after(SILENCE_S):
                await _first_of(process.wait, self._impatient.wait)
            if process.returncode is None and not self._impatient.is_set():
                self._say(f"{who}: not done yet, waiting up to {grace_s:g} s; a second Ctrl-C ends everything at once")
                with trio.move_on_after(grace_s):
                    await _first_of(process.wait, self._impatient.wait)
            if process.returncode is None:
                self._say(f"{who} did not stop: killed")
                process.kill()
            code = await process.wait()
            # One that had not got round to handling the signal yet had nothing to clean up either.
            if code not in (0, -signal.SIGTERM):
                self._say(f"{who} ended badly: {how_it_ended(code)}")
                self._exit_code = self._exit_code or 1


def how_it_ended(code: int) -> str:
    """Put a process's exit code into words."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"


async def _spawn(*arguments: str) -> trio.Process:
    """Start `xbd ARGUMENTS` as a child that ends with this process."""
    command: Sequence[str] = (sys.executable, "-m", "xbd", *arguments, "--supervised")
    return await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, start_new_session=True)


async def _first_of(*waits: Callable[[], Awaitable[object]]) -> None:
    """Return when the first of *waits* does."""
    async with trio.open_nursery() as nursery:

        async def wait(one: Callable[[], Awaitable[object]]) -> None:
            await one()
            nursery.cancel_scope.cancel()

        for one in waits:
            nursery.start_soon(wait, one)
