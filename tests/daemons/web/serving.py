"""The page's server in a test's own process, on real sockets, and a client that asks it."""

import json
import re
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h11
import trio

from xbd.client.runtime_dir import hypervisor_socket
from xbd.control.moments import Moment
from xbd.daemons.http_server import HttpServer, Site
from xbd.daemons.runtime.sockets import bind_unix
from xbd.daemons.web.feed import Feed
from xbd.daemons.web.guard import PAGE_HEADERS, Guard
from xbd.daemons.web.server import PageServer


@dataclass
class Serving:
    """A server that runs: where, and what it follows."""

    path: Path
    feed: Feed
    http: HttpServer

    async def ask(self, target: str, *more: tuple[str, str], host: str = "localhost", method: str = "GET") -> "Asked":
        """Ask for something, as a browser would, with *more* headers."""
        parser = h11.Connection(h11.CLIENT)
        request = parser.send(h11.Request(method=method, target=target, headers=[("Host", host), *more]))
        assert request is not None
        answer = await self.send(request + (parser.send(h11.EndOfMessage()) or b""))
        parser.receive_data(answer)
        parser.receive_data(b"")
        head = parser.next_event()
        assert isinstance(head, h11.Response)
        body = b""
        while isinstance(event := parser.next_event(), h11.Data):
            body += event.data
        headers = {name.decode(): value.decode() for name, value in head.headers}
        return Asked(head.status_code, headers, body)

    async def send(self, request: bytes) -> bytes:
        """Send bytes, and return all that comes back until the server closes."""
        async with await trio.open_unix_socket(str(self.path)) as stream:
            answer = bytearray()
            try:
                await stream.send_all(request)
                await stream.send_eof()
                while received := await stream.receive_some(65536):
                    answer += received
            except trio.BrokenResourceError:
                pass
            return bytes(answer)

    @asynccontextmanager
    async def stream(self, *, frames: bool = False) -> AsyncIterator["Told"]:
        """Open the stream of changes for the length of a block."""
        async with await trio.open_unix_socket(str(self.path)) as connection:
            await connection.send_all(b"GET /stream?frames=%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % frames)
            yield Told(connection)


@dataclass
class Asked:
    """An answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:  # noqa: ANN401 - whatever was answered
        """Its body, as JSON."""
        return json.loads(self.body)


class Told:
    """A stream of changes that is read."""

    def __init__(self, connection: trio.SocketStream) -> None:
        self.connection = connection
        self._received = b""
        self._waiting: dict[str, deque[dict[str, Any]]] = defaultdict(deque)

    async def _more(self) -> bytes:
        received = await self.connection.receive_some(65536)
        assert received, "the stream has ended"
        return bytes(received)

    async def next(self, event: str) -> dict[str, Any]:
        """Wait for the next message of a kind; those of other kinds wait until they are asked for."""
        with trio.fail_after(60):
            while not self._waiting[event]:
                while b"\n\n" not in self._received:
                    self._received += await self._more()
                message, _, self._received = self._received.partition(b"\n\n")
                if told := re.search(rb"^event: (\w+)\ndata: (.*)$", message, re.MULTILINE):
                    self._waiting[told[1].decode()].append(json.loads(told[2]))
            return self._waiting[event].popleft()


@asynccontextmanager
async def serving(
    run: Path, *, runs: dict[str, list[Moment]] | None = None, guard: Guard | None = None
) -> AsyncIterator[Serving]:
    """Serve the page of the hypervisor in *run*, which need not be there, or of a file's *runs*, for the length of a block."""
    feed = Feed(hypervisor_socket(run))
    server = PageServer(guard or Guard(), feed if runs is None else None, runs, "a file")
    http = HttpServer(Site(server.respond, headers=PAGE_HEADERS))
    path = run / "web.sock"
    listener = http.listener_of(path, bind_unix(path), is_unix=True)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listener.serve)
            if runs is None:
                nursery.start_soon(feed.follow)
            yield Serving(path, feed, http)
            nursery.cancel_scope.cancel()
    finally:
        listener.close()
