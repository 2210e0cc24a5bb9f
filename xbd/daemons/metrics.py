"""The metrics daemon: a small HTTP server whose page is a host's figures, asked for anew at every scrape.

Each connection carries one request. h11 reads it, prometheus_client makes the page. Peers are kept apart and
bounded: so many connections at once, a request of so many bytes within so many seconds, an answer that is taken within
so many seconds. One that has not asked yet gives way when another comes and there is no place left, as at every listener.
"""

import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import h11
import trio
from prometheus_client import CollectorRegistry, make_wsgi_app

from xbd.client.client import open_client
from xbd.control.rate_limit import SourceLog
from xbd.daemons.metric_families import families
from xbd.daemons.runtime import sockets
from xbd.daemons.runtime.listener import Listener
from xbd.daemons.runtime.outside import calls
from xbd.daemons.runtime.service import Service, run_service
from xbd.daemons.runtime.transport import Transport
from xbd.domain import DomainInfo
from xbd.errors import PeerLost, XbdError

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
# A connection, and the one to the hypervisor that answers it; standard streams, signals, epoll and listeners.
_DESCRIPTORS_EACH: Final = 2
_DESCRIPTORS_APART: Final = 32

Headers = Sequence[tuple[str, str]]


class _Look:
    """What a registry is told at one scrape."""

    def __init__(self, host: Mapping[str, Any] | None, domains: Sequence[DomainInfo]) -> None:
        self._host = host
        self._domains = domains

    def collect(self) -> Iterable[Any]:
        """Describe the host."""
        return families(self._host, self._domains)

    def describe(self) -> Iterable[Any]:
        """Name nothing beforehand: the host need not be there."""
        return []


async def look(path: Path) -> tuple[Mapping[str, Any] | None, Sequence[DomainInfo]]:
    """Ask the hypervisor at *path* for everything; (None, ()) where it does not answer."""
    try:
        with trio.fail_after(ANSWER_WITHIN_S):
            async with open_client(path) as client:
                return await client.host(), await client.list()
    except (XbdError, trio.TooSlowError):
        return None, ()


def render(
    host: Mapping[str, Any] | None, domains: Sequence[DomainInfo], request: h11.Request
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


async def _read_request(transport: Transport) -> tuple[h11.Request, bool] | None:
    """Read a request up to its body; says, too, whether all that came was read; None: the peer left. Raises _Refused."""
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_REQUEST_BYTES)
    try:
        while True:
            match parser.next_event():
                case h11.Request() as request:
                    break
                case h11.ConnectionClosed():
                    return None
                case _:
                    parser.receive_data(await transport.receive())
        is_whole = isinstance(parser.next_event(), h11.EndOfMessage) and not parser.trailing_data[0]
    except h11.RemoteProtocolError as error:
        status = "431 Request Header Fields Too Large" if error.error_status_hint == 431 else "400 Bad Request"
        raise _Refused(status, f"{error}; expected GET or HEAD /metrics, in {MAX_REQUEST_BYTES} bytes") from error
    if request.method not in (b"GET", b"HEAD"):
        method = request.method.decode("latin-1")
        raise _Refused("405 Method Not Allowed", f"{method} is not served; use GET or HEAD", [("Allow", "GET, HEAD")])
    return request, is_whole


async def _answer(transport: Transport, status: str, headers: Headers, body: bytes) -> None:
    """Send an answer. Raises PeerLost: it is not taken."""
    # As of a server that takes one request for each connection.
    lines = [f"HTTP/1.0 {status}", *(f"{name}: {value}" for name, value in headers), "Connection: close", "", ""]
    await transport.send("\r\n".join(lines).encode("latin-1") + body)


async def _linger(transport: Transport) -> None:
    """Read what a peer still sends, for a while: a connection that is closed before that may lose the answer."""
    with trio.move_on_after(LINGER_S):
        while await transport.receive():
            pass


class MetricsServer:
    """Serves the figures of one hypervisor to whoever connects.

    Args:
        hypervisor_path: the hypervisor's socket; it need not be there.
        max_connections: how many are served at once at each listener.
    """

    def __init__(self, hypervisor_path: Path, max_connections: int = MAX_CONNECTIONS) -> None:
        self._hypervisor_path = hypervisor_path
        self._max_connections = max_connections

    def listener_of(self, path: Path, bound: socket.socket, *, is_unix: bool) -> Listener:
        """Serve at a bound socket; *path* is its file, or what a port is called in the log."""
        return Listener(path, bound, self._max_connections, self.serve, TAKE_WITHIN_S, anybody=True, passed=not is_unix)

    async def serve(self, transport: Transport, log: SourceLog) -> None:
        """Serve one connection to its end; nothing that its peer does is raised."""
        try:
            if not await self._serve(transport, log):
                await _linger(transport)
        except PeerLost:
            # It left, or does not read; nobody waits for an answer.
            pass

    async def _serve(self, transport: Transport, log: SourceLog) -> bool:
        """Answer a request, if one comes; tells whether all was read that the peer has sent. Raises PeerLost."""
        try:
            read = await self._request(transport)
            if read is None:
                return True
            request, is_whole = read
            status, headers, body = await self._page(request, log)
            length = ("Content-Length", str(len(body)))
            await _answer(transport, status, [*headers, length], b"" if request.method == b"HEAD" else body)
        except _Refused as refused:
            body = f"{refused}\n".encode()
            length = ("Content-Length", str(len(body)))
            kind = ("Content-Type", "text/plain; charset=utf-8")
            await _answer(transport, refused.status, [kind, *refused.headers, length], body)
            return False
        return is_whole

    async def _request(self, transport: Transport) -> tuple[h11.Request, bool] | None:
        """Read a request within the time for it; None: there is none. Raises _Refused."""
        with trio.move_on_after(REQUEST_WITHIN_S):
            read = await _read_request(transport)
            # Who has asked keeps its place until it is answered.
            transport.place.is_greeted = True
            transport.place.begin_call()
            return read
        return None

    async def _page(self, request: h11.Request, log: SourceLog) -> tuple[str, Headers, bytes]:
        """Look at the host and make the page of it. Raises _Refused."""
        host, domains = await look(self._hypervisor_path)
        try:
            # In a thread: the page of thousands of domains takes a while, and a signal is not to wait for it.
            return await trio.to_thread.run_sync(render, host, domains, request, abandon_on_cancel=True)
        except Exception as error:
            # The client library reads the headers of strangers, and promises nothing of what it raises then.
            log.warning(trio.current_time(), "page_failed", reason=repr(error))
            raise _Refused("400 Bad Request", f"no page can be made of these headers: {error!r}") from error


async def bind_tcp(host: str, port: int) -> list[socket.socket]:
    """Listen at a port of *host*'s addresses. Raises OSError, ValueError: it cannot be bound."""
    # These are trio's; a listener wants plain ones, which find out their family by themselves.
    listeners = await trio.open_tcp_listeners(port, host=host)
    bound = [calls.socket(fileno=listener.socket.detach()) for listener in listeners]
    for one in bound:
        one.settimeout(0)
    return bound


def address_of(bound: socket.socket) -> str:
    """Name where a port is reached, as a URL."""
    host, port, *_ = bound.getsockname()
    return f"http://[{host}]:{port}/metrics" if bound.family == socket.AF_INET6 else f"http://{host}:{port}/metrics"


async def run_metrics(
    hypervisor_path: Path, bound: Sequence[socket.socket], where: str, say: Callable[[str], None]
) -> int:
    """Serve until SIGTERM or SIGINT, which end it at once; returns the exit code.

    Args:
        hypervisor_path: the hypervisor's socket.
        bound: who connects to them is served; they are closed in the end, and their files removed.
        where: where it is reached, for people.
        say: what a person is told, a line at a time.
    """

    async def start(service: Service) -> int:
        places = (sockets.raise_descriptor_limit() - _DESCRIPTORS_APART) // _DESCRIPTORS_EACH
        server = MetricsServer(hypervisor_path, max(1, min(MAX_CONNECTIONS, places) // len(bound)))
        listeners = []
        try:
            for one in bound:
                is_unix = one.family == socket.AF_UNIX
                listeners.append(
                    server.listener_of(Path(one.getsockname() if is_unix else where), one, is_unix=is_unix)
                )
            say(f"serving {where}")
            async with service.ready(lambda: f"serving {where}") as nursery:
                for listener in listeners:
                    nursery.start_soon(listener.serve)
                await trio.sleep_forever()
        finally:
            for listener in listeners:
                listener.close()

    return await run_service(start, reload="everything is said on the command line")
