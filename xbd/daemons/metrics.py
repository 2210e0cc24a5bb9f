"""The metrics daemon: a small HTTP server whose page is a host's figures, asked for anew at every scrape.

Each connection carries one request. h11 reads it, prometheus_client makes the page. Peers are kept apart and
bounded: so many connections at once, a request of so many bytes within so many seconds, an answer that is taken within
so many seconds. One that has not asked yet gives way when somebody else comes and there is no place left.
"""

import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import h11
import structlog
import trio
from prometheus_client import CollectorRegistry, make_wsgi_app

from xbd.client.client import open_client
from xbd.control.rate_limit import SourceLog
from xbd.daemons.metric_families import families
from xbd.daemons.runtime import sockets
from xbd.daemons.runtime.outside import calls
from xbd.daemons.runtime.service import Service, run_service
from xbd.errors import XbdError
from xbd.protocol.views import DomainView

_log = structlog.get_logger(__name__)

# Prometheus gives up a scrape after 10 s; a hypervisor that hangs for longer is not up.
ANSWER_WITHIN_S: Final = 8.0
# A scraper sends its request as soon as it is connected, and reads as soon as it is answered.
REQUEST_WITHIN_S: Final = 5.0
TAKE_WITHIN_S: Final = 10.0
# How long what a peer still sends after its answer is read and thrown away: closed before that, the answer might be lost.
LINGER_S: Final = 1.0
# Each scrape is a client of the hypervisor, which has 256 places for all its clients.
MAX_CONNECTIONS: Final = 64
# Some scrapers, one after another, are a few hundred bytes of headers; browsers send two or three KiB.
MAX_REQUEST_BYTES: Final = 16 * 1024
_RECEIVE_BYTES: Final = 4096
# A connection, and the one to the hypervisor that answers it; standard streams, signals, epoll and listeners.
_DESCRIPTORS_EACH: Final = 2
_DESCRIPTORS_APART: Final = 32

Headers = Sequence[tuple[str, str]]


class _Look:
    """What a registry is told at one scrape."""

    def __init__(self, host: Mapping[str, Any] | None, domains: Sequence[DomainView]) -> None:
        self._host = host
        self._domains = domains

    def collect(self) -> Iterable[Any]:
        """Describe the host."""
        return families(self._host, self._domains)

    def describe(self) -> Iterable[Any]:
        """Name nothing beforehand: the host need not be there."""
        return []


async def look(path: Path) -> tuple[Mapping[str, Any] | None, Sequence[DomainView]]:
    """Ask the hypervisor at *path* for everything; (None, ()) where it does not answer."""
    try:
        with trio.fail_after(ANSWER_WITHIN_S):
            async with open_client(path) as client:
                return await client.host(), await client.list()
    except (XbdError, trio.TooSlowError):
        return None, ()


def render(
    host: Mapping[str, Any] | None, domains: Sequence[DomainView], request: h11.Request
) -> tuple[str, Headers, bytes]:
    """Make the page in the form that *request* asks for: status, headers, body.

    Raises:
        Exception: whatever the client library makes of headers that it does not understand.
    """
    registry = CollectorRegistry()
    registry.register(_Look(host, domains))
    path, _, query = request.target.decode("latin-1").partition("?")
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "QUERY_STRING": query}
    for name, header in request.headers:
        environ["HTTP_" + name.decode("latin-1").upper().replace("-", "_")] = header.decode("latin-1")
    told: list[tuple[str, Headers]] = []
    page = b"".join(make_wsgi_app(registry)(environ, lambda status, headers: told.append((status, headers))))
    ((status, headers),) = told
    # What the client library says of a page may repeat what the request said.
    if any(not (name + value).isprintable() for name, value in headers):
        raise ValueError("a header with control characters")
    return status, headers, page


class _Refused(Exception):
    """A request that is answered with an error: its status and what is wrong, in a sentence."""

    def __init__(self, status: str, reason: str, headers: Headers = ()) -> None:
        super().__init__(reason)
        self.status = status
        self.headers = headers


async def _read_request(stream: trio.SocketStream) -> h11.Request | None:
    """Read a request up to its body; None: the peer left without one. Raises _Refused."""
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_REQUEST_BYTES)
    try:
        while True:
            match parser.next_event():
                case h11.Request() as request:
                    break
                case h11.ConnectionClosed():
                    return None
                case _:
                    parser.receive_data(await stream.receive_some(_RECEIVE_BYTES))
    except h11.RemoteProtocolError as error:
        status = "431 Request Header Fields Too Large" if error.error_status_hint == 431 else "400 Bad Request"
        raise _Refused(status, f"{error}; expected GET or HEAD /metrics, in {MAX_REQUEST_BYTES} bytes") from error
    if request.method not in (b"GET", b"HEAD"):
        method = request.method.decode("latin-1")
        raise _Refused("405 Method Not Allowed", f"{method} is not served; use GET or HEAD", [("Allow", "GET, HEAD")])
    return request


async def _answer(stream: trio.SocketStream, status: str, headers: Headers, body: bytes, *, with_body: bool) -> None:
    """Send an answer, and end the connection such that it arrives."""
    # As of a server that takes one request for each connection.
    lines = [f"HTTP/1.0 {status}", *(f"{name}: {value}" for name, value in headers), f"Content-Length: {len(body)}"]
    head = "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1")
    with trio.move_on_after(TAKE_WITHIN_S) as scope:
        await stream.send_all(head + body if with_body else head)
        await stream.send_eof()
    if scope.cancelled_caught:
        return
    with trio.move_on_after(LINGER_S):
        while await stream.receive_some(_RECEIVE_BYTES):
            pass


class MetricsServer:
    """Serves the figures of one hypervisor to whoever connects.

    Args:
        hypervisor_path: the hypervisor's socket; it need not be there.
        max_connections: how many are served at once.
    """

    def __init__(self, hypervisor_path: Path, max_connections: int = MAX_CONNECTIONS) -> None:
        self._hypervisor_path = hypervisor_path
        self._max_connections = max_connections
        self._connections = 0
        # Those that have not asked yet, the oldest first: they give way.
        self._silent: dict[trio.SocketStream, trio.CancelScope] = {}
        self._log = SourceLog(_log, server="metrics")

    async def serve(self, stream: trio.SocketStream) -> None:
        """Serve one connection to its end; nothing that its peer does is raised."""
        async with stream:
            if self._connections >= self._max_connections and not self._make_place():
                self._log.warning(trio.current_time(), "peer_refused", peers=self._connections)
                return
            self._connections += 1
            try:
                await self._serve(stream)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                # The peer left; nobody waits for an answer.
                pass
            finally:
                self._connections -= 1

    def _make_place(self) -> bool:
        """End the connection that has been silent for longest; False: all have asked for something."""
        if not self._silent:
            return False
        self._silent.pop(next(iter(self._silent))).cancel()
        return True

    async def _serve(self, stream: trio.SocketStream) -> None:
        with_body = True
        try:
            request = await self._request(stream)
            if request is None:
                return
            with_body = request.method != b"HEAD"
            status, headers, body = await self._page(request)
        except _Refused as refused:
            status, body = refused.status, f"{refused}\n".encode()
            headers = [("Content-Type", "text/plain; charset=utf-8"), *refused.headers]
        await _answer(stream, status, headers, body, with_body=with_body)

    async def _request(self, stream: trio.SocketStream) -> h11.Request | None:
        """Read a request within the time for it; None: there is none. Raises _Refused."""
        with trio.move_on_after(REQUEST_WITHIN_S) as scope:
            self._silent[stream] = scope
            try:
                return await _read_request(stream)
            finally:
                self._silent.pop(stream, None)
        return None

    async def _page(self, request: h11.Request) -> tuple[str, Headers, bytes]:
        """Look at the host and make the page of it. Raises _Refused."""
        host, domains = await look(self._hypervisor_path)
        try:
            # In a thread: the page of thousands of domains takes a while, and a signal is not to wait for it.
            return await trio.to_thread.run_sync(render, host, domains, request, abandon_on_cancel=True)
        except Exception as error:
            # The client library reads the headers of strangers, and promises nothing of what it raises then.
            self._log.warning(trio.current_time(), "page_failed", reason=repr(error))
            raise _Refused("400 Bad Request", f"no page can be made of these headers: {error!r}") from error


class UnixListener:
    """A listening Unix socket whose file is removed in the end, if it is still this one.

    Args:
        path: where.
        group: whose members may connect, beside this user and root.

    Raises:
        ConfigError: somebody listens there, or it cannot be bound; whatever is there stays.
    """

    def __init__(self, path: Path, group: str | None) -> None:
        self._path = path
        self.listener = trio.SocketListener(trio.socket.from_stdlib_socket(sockets.bind_unix(path, group=group)))
        self._told = path.lstat()

    def remove(self) -> None:
        """Remove the file, unless it was replaced by another meanwhile."""
        with suppress(FileNotFoundError):
            if os.path.samestat(self._path.lstat(), self._told):
                calls.unlink(self._path)


def address_of(listener: trio.SocketListener) -> str:
    """Name where a TCP listener is reached, as a URL."""
    host, port, *_ = listener.socket.getsockname()
    return (
        f"http://[{host}]:{port}/metrics"
        if listener.socket.family == socket.AF_INET6
        else f"http://{host}:{port}/metrics"
    )


async def run_metrics(
    hypervisor_path: Path, listeners: list[trio.SocketListener], say: Callable[[str], None], where: str
) -> int:
    """Serve until SIGTERM or SIGINT, which end it at once; returns the exit code.

    Args:
        hypervisor_path: the hypervisor's socket.
        listeners: who connects to them is served; they are closed in the end.
        say: what a person is told, a line at a time.
        where: where it is reached, for people.
    """

    async def start(service: Service) -> int:
        places = (sockets.raise_descriptor_limit() - _DESCRIPTORS_APART) // _DESCRIPTORS_EACH
        server = MetricsServer(hypervisor_path, max(1, min(MAX_CONNECTIONS, places)))
        say(f"serving {where}")
        async with service.ready(lambda: f"serving {where}"):
            await trio.serve_listeners(server.serve, listeners)

    code = await run_service(start, reload="everything is said on the command line")
    for listener in listeners:
        listener.socket.close()
    return code
