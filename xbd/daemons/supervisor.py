"""`xbd up`: a whole host in the foreground, each service in processes of its own.

The children (`xbd.daemons.runtime.children`) are ended in order: guests first, then the hypervisor; when the supervisor
is killed, they stop themselves.

A hypervisor that dies takes all domains with it: then everything ends; unless it saves its state, then it
is started again, and the agents resume. An agent process that dies is started again, and its guests boot anew.
Who keeps dying is not started again.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import trio

from xbd.client.client import open_client
from xbd.client.discovery import NoHypervisor
from xbd.client.retry import retry
from xbd.client.runtime_dir import hypervisor_socket
from xbd.daemons.agent_processes import agent_processes, end_all, keep_all
from xbd.daemons.runtime.check_in import CheckIn
from xbd.daemons.runtime.children import (
    DEATHS_IN_A_ROW,
    EXIT_CONFIG,
    RESTART_DELAY_S,
    Child,
    Ending,
    Say,
    first_of,
    how_it_ended,
)
from xbd.daemons.runtime.nurseries import plain_errors
from xbd.daemons.runtime.service import Service, run_service
from xbd.errors import ConfigError, XbdError
from xbd.protocol.backoff import Backoff

# The hypervisor answers when all its domains are made; a thousand take a second or two.
READY_WITHIN_S: Final = 120.0
LOOK_EVERY_S: Final = 0.05
# It gives its peers 2 s and audits a host of terabytes.
HYPERVISOR_GRACE_S: Final = 60.0


class Supervisor:
    """The host of one file.

    Args:
        config_path: the host file; it was read without complaint.
        runtime_dir: where the sockets are to be.
        guests: how many of its guests want an agent.
        say: what a person is told, a line at a time.
        saved: whether the host outlives its hypervisor.
        processes: how many agent processes share its guests.
    """

    def __init__(
        self, config_path: Path, runtime_dir: Path, guests: int, say: Say, *, saved: bool, processes: int
    ) -> None:
        self._config_path = config_path
        self._socket = hypervisor_socket(runtime_dir)
        self._guests = guests
        self._say = say
        self._saved = saved
        self._processes = processes
        self._has_answered = False
        self._ending = Ending(say, lambda why: say(f"{why}: stopping agents, then the hypervisor"))
        self._hypervisor = Child(
            self._ending,
            "the hypervisor",
            "hypervisor",
            "--config",
            str(config_path),
            "--runtime-dir",
            str(runtime_dir),
        )

    async def run(self) -> int:
        """Start everything, and stay until a signal comes or the host is lost; returns the exit code.

        Raises:
            ConfigError: a hypervisor runs there already.
        """
        await self._refuse_second()
        # A SIGHUP ends it, too: by it, a terminal that is closed says so.
        return await run_service(self._start, reload=None, stop=self._ending.stop)

    async def _start(self, service: Service) -> int:
        agents = agent_processes(
            self._ending, self._processes, self._socket, log_level="info", watchdog_s=service.manager.watchdog_s
        )
        with plain_errors():
            async with trio.open_nursery() as nursery:
                try:
                    if await self._hypervisor.start() is not None:
                        nursery.start_soon(self._watch_hypervisor)
                        await self._serve(service, agents, nursery)
                finally:
                    self._ending.begun.set()
                    service.manager.stopping("agents end, then the hypervisor")
                    with trio.CancelScope(shield=True):
                        await end_all(agents)
                        await self._hypervisor.end(HYPERVISOR_GRACE_S)
                nursery.cancel_scope.cancel()
        return self._ending.exit_code

    async def _serve(self, service: Service, agents: Sequence[Child], nursery: trio.Nursery) -> None:
        """Keep the agents running from when the hypervisor answers until all is to end."""
        if await self._ready():
            self._say(f"hypervisor ready: xbd --socket {self._socket} list")
            nursery.start_soon(self._tell_when_running)
            async with service.ready(lambda: "the hypervisor and its agents run"):
                await keep_all(agents)

    async def _refuse_second(self) -> None:
        try:
            async with open_client(self._socket):
                pass
        except NoHypervisor:
            return
        raise ConfigError(
            self._config_path, "host.runtime_dir", f"a hypervisor runs at {self._socket} already; stop it first"
        )

    async def _watch_hypervisor(self) -> None:
        """End everything when the hypervisor dies, or start it again, if its state is saved and it comes back."""
        deaths = 0
        begun = self._ending.begun
        with CheckIn("keep the hypervisor", READY_WITHIN_S).watched() as check_in:
            while True:
                with check_in.idle():
                    code = await self._hypervisor.ended()
                if begun.is_set():
                    return
                how = how_it_ended(code)
                # One that ends by itself has said why; only one that was killed, or had a bug, may do better another time.
                if not self._saved or code in (0, EXIT_CONFIG) or deaths >= DEATHS_IN_A_ROW:
                    self._say(f"the hypervisor died: {how}; {self._what_is_lost()}")
                    self._ending.give_up(code if code > 0 else 1)
                    return
                self._say(f"the hypervisor died: {how}; starting it again from its state")
                with trio.move_on_after(RESTART_DELAY_S * deaths):
                    await begun.wait()
                try:
                    if await self._hypervisor.start() is None:
                        return
                    deaths = 0 if await self._answers() else deaths + 1
                except XbdError as error:
                    # The one before is still the last that died.
                    self._say(str(error))
                    deaths += 1

    def _what_is_lost(self) -> str:
        """Say what became of the domains of a hypervisor that is not started again."""
        if self._saved:
            return "giving up; what it saved is kept"
        return "its domains are gone with it" if self._has_answered else "it had made no domain that anybody could use"

    async def _answers(self) -> bool:
        """Wait until a hypervisor that was started answers; False when it died instead, or all is to end."""
        answers = False

        async def ask() -> None:
            nonlocal answers
            async with open_client(self._socket):
                answers = self._has_answered = True

        async def until_it_answers() -> None:
            # Not there yet, or no longer: whatever it says, it is asked again.
            await retry(ask, Backoff(), lambda error: isinstance(error, XbdError))

        process = self._hypervisor.process
        assert process is not None
        await first_of(until_it_answers, process.wait, self._ending.begun.wait)
        return answers

    async def _ready(self) -> bool:
        """Wait until the hypervisor answers; False when all is to end instead."""
        with trio.move_on_after(READY_WITHIN_S) as patience:
            while not (self._ending.begun.is_set() or await self._answers()):  # noqa: ASYNC110 - another process
                # It died; its watcher may start another.
                await trio.sleep(LOOK_EVERY_S)
            return not self._ending.begun.is_set()
        assert patience.cancelled_caught
        self._say(f"the hypervisor does not answer at {self._socket} after {READY_WITHIN_S:g} s")
        self._ending.give_up(1)
        return False

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
