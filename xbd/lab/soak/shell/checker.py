"""The checker: a guest of the soak's own that compares its memory with its oracle after every loss of a connection.

It speaks the domain protocol itself, in one session over any number of connections, with up to eight calls in flight.
When a connection is lost it resumes the session, sends again what was not answered, reads all its memory and compares
every word and the number of pages with the oracle.
"""

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import trio

from xbd.abi import MAX_IN_FLIGHT, Command, Load, Refused, Result
from xbd.client.client import open_client
from xbd.client.discovery import NoHypervisor
from xbd.errors import Busy, HypercallError, PeerLost, RemoteProtocolError
from xbd.lab.soak.commands import CheckerCommands, check_stop
from xbd.lab.soak.population import CHECKER, CHECKER_PAGES
from xbd.lab.soak.shell.processes import SoakProcesses
from xbd.protocol.client_session import Answered, Greeted, HelloAgain
from xbd.protocol.codec import RECEIVE_BYTES, Notification
from xbd.protocol.commands import boot_from_wire
from xbd.protocol.guest_session import GuestSession
from xbd.testing.oracle import Oracle, Violation

# Between two rounds of calls, to leave processor time to the guests.
_PAUSE_S: Final = 0.01
_RETRY_S: Final = 0.05

Answers = AsyncIterator[Greeted | HelloAgain | Answered[Sequence[Command], list[Result]]]


class Checker:
    """The checker guest of a host; *path*: its domain's socket.

    Attributes: *finishing*: set from outside to end it; *finished*: set when it has ended; *resumptions*: how often its
    session was resumed; *checks*: how often all its memory was compared.
    """

    def __init__(self, processes: SoakProcesses, path: Path, rng: np.random.Generator) -> None:
        self._processes = processes
        self._path = path
        self._rng = rng
        self._oracle = Oracle(int(path.stem), CHECKER_PAGES)
        self._commands = CheckerCommands(self._oracle, rng)
        self._session = GuestSession("witness")
        self._sent_at: deque[float] = deque()
        self._stream: trio.SocketStream | None = None
        self.finishing = trio.Event()
        self.finished = trio.Event()
        self.resumptions = 0
        self.checks = 0

    async def cut(self) -> None:
        """Cut its connection from outside."""
        if self._stream is not None:
            await trio.aclose_forcefully(self._stream)

    async def run(self) -> None:
        """Make random calls and check until `finishing` is set; then check all memory once more."""
        while True:
            try:
                async with (
                    await trio.open_unix_socket(str(self._path)) as self._stream,
                    aclosing(self._receive(self._stream)) as answers,
                ):
                    await self._converse(self._stream, answers)
                    self.finished.set()
                    return
            except (PeerLost, Busy, OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                await trio.sleep(_RETRY_S)
            except (HypercallError, RemoteProtocolError) as error:
                self._processes.found(f"the checker guest was refused: {error}")
                self.finished.set()
                return

    async def _converse(self, stream: trio.SocketStream, answers: Answers) -> None:
        """Continue the session on a new connection until it has finished."""
        await stream.send_all(self._session.connected())
        greeting = await anext(answers)
        assert isinstance(greeting, Greeted), "what comes first answers hello"
        if greeting.resumed:
            self.resumptions += 1
            await stream.send_all(self._session.resend())
        else:
            if self._oracle.booted:
                self._processes.found("the session of the checker guest was not resumed: the guest was rebooted")
            self._sent_at.clear()
            with self._reporting():
                self._oracle.boot(boot_from_wire(greeting.answer))
        while self._sent_at:
            await self._receive_answer(answers)
        await self._check(stream, answers)
        while not self.finishing.is_set():
            for _ in range(int(self._rng.integers(1, MAX_IN_FLIGHT + 1))):
                command = self._commands.draw()
                if command is not None:
                    await self._send(stream, command)
            while self._sent_at:
                await self._receive_answer(answers)
            await trio.sleep(_PAUSE_S)
        await self._check(stream, answers)

    async def _receive(
        self, stream: trio.SocketStream
    ) -> AsyncGenerator[Greeted | HelloAgain | Answered[Sequence[Command], list[Result]], None]:
        """Iterate over answers. Raises PeerLost, HypercallError, RemoteProtocolError."""
        while received := await stream.receive_some(RECEIVE_BYTES):
            for message in self._session.receive(received):
                if not isinstance(message, Notification):
                    yield message
        raise PeerLost("the connection ended")

    async def _send(self, stream: trio.SocketStream, command: Command) -> None:
        packed = self._session.call(command)
        self._oracle.issue([command])
        self._sent_at.append(trio.current_time())
        await stream.send_all(packed)

    async def _receive_answer(self, answers: Answers) -> Result:
        answer = await anext(answers)
        assert isinstance(answer, Answered), "hello is answered once on a connection"
        (command,), (result,) = answer
        self._processes.tally.took("witness", trio.current_time() - self._sent_at.popleft())
        self._processes.tally.operations["witness hypercalls"] += 1
        with self._reporting():
            self._oracle.answered(result)
            check_stop(command, result)
        return result

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except Violation as violation:
            self._processes.found(f"the checker guest: {violation}")

    async def _check(self, stream: trio.SocketStream, answers: Answers) -> None:
        """Compare all its memory and its number of pages with the oracle."""
        for load in list(self._commands.loads()):
            gfns = load.gfns
            while gfns.size:
                await self._send(stream, Load(gfns))
                result = await self._receive_answer(answers)
                if isinstance(result, Refused) or result.done == 0:
                    break  # which is a finding
                gfns = gfns[result.done :]
        await self._compare_pages()
        self.checks += 1

    async def _compare_pages(self) -> None:
        try:
            async with open_client(self._processes.socket) as client:
                tot_pages = (await client.info(CHECKER)).tot_pages
        except (PeerLost, NoHypervisor):
            return  # the daemon was killed again; the next check compares
        if tot_pages != self._oracle.tot_pages:
            self._processes.found(f"the checker guest holds {tot_pages} pages, expected {self._oracle.tot_pages}")
