"""HTTP for daemons that are looked at: one request for each connection, read by h11, on the daemons' own listener.

Peers are kept apart and bounded: so many connections at once, a request of so many bytes within so many seconds, an
answer that is taken within so many seconds. One that has not asked yet gives way when another comes and there is no place
left, as at every listener. What is asked for and how it is answered is the caller's.
"""

import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import h11
import trio

from xbd.control.rate_limit import SourceLog
from xbd.daemons.runtime import sockets
from xbd.daemons.runtime.listener import Listener
from xbd.daemons.runtime.outside import calls
from xbd.daemons.runtime.service import Service, run_service
from xbd.daemons.runtime.transport import Transport
from xbd.errors import PeerLost

# Who asks sends the request as soon as it is connected, and reads as soon as it is answered.
REQUEST_WITHIN_S: Final = 5.0
TAKE_WITHIN_S: Final = 10.0
# How long what a peer still sends after its answer is read and thrown away: closed before that, the answer might be lost.
LINGER_S: Final = 1.0
# A daemon has descriptors for so many, and the hypervisor, whom some requests make it ask, has 256 places for all its clients.
MAX_CONNECTIONS: Final = 64
# Some scrapers, one after another, are a few hundred bytes of headers; browsers send two or three KiB.
MAX_REQUEST_BYTES: Final = 16 * 1024
# A connection, and one to the hypervisor that answers it; standard streams, signals, epoll and listeners.
_DESCRIPTORS_EACH: Final = 2
_DESCRIPTORS_APART: Final = 32

Headers = Sequence[tuple[str, str]]
# Binds; returns the sockets, and where that is, for people.
Bind = Callable[[], Awaitable[tuple[Sequence[socket.socket], str]]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request is answered with.

    Attributes:
        follow: sends what comes behind the body, for as long as the peer stays; raises PeerLost when it does not read.
    """

    status: str
    headers: Headers
    body: bytes = b""
    follow: Callable[[Transport], Awaitable[None]] | None = None


class Refused(Exception):
    """A request that is answered with an error: its status and what is wrong, in a sentence."""

    def __init__(self, status: str, reason: str, headers: Headers = ()) -> None:
        super().__init__(reason)
        self.status = status
        self.headers = headers


Respond = Callable[[h11.Request, SourceLog], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Site:
    """What is served: *respond* answers a request, *beside* are tasks that run meanwhile, *headers* what every answer has."""

    respond: Respond
    beside: Sequence[Callable[[], Awaitable[None]]] = ()
    headers: Headers = ()


async def _read_request(transport: Transport) -> tuple[h11.Request, bool] | None:
    """Read a request up to its body; says, too, whether all that came was read; None: the peer left. Raises Refused."""
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
        raise Refused(status, f"{error}; expected GET or HEAD, in {MAX_REQUEST_BYTES} bytes") from error
    if request.method not in (b"GET", b"HEAD"):
        method = request.method.decode("latin-1")
        raise Refused("405 Method Not Allowed", f"{method} is not served; use GET or HEAD", [("Allow", "GET, HEAD")])
    return request, is_whole


async def _send_answer(transport: Transport, status: str, headers: Headers, body: bytes) -> None:
    """Send an answer. Raises PeerLost: it is not taken."""
    # As of a server that takes one request for each connection.
    lines = [f"HTTP/1.0 {status}", *(f"{name}: {value}" for name, value in headers), "Connection: close", "", ""]
    await transport.send("\r\n".join(lines).encode("latin-1") + body)


async def _linger(transport: Transport) -> None:
    """Read what a peer still sends, for a while: a connection that is closed before that may lose the answer."""
    with trio.move_on_after(LINGER_S):
        while await transport.receive():
            pass


def _length(body: bytes) -> tuple[str, str]:
    return "Content-Length", str(len(body))


class HttpServer:
    """Answers whoever connects.

    Args:
        site: answers requests, or raises Refused; its headers are an error's, too.
        max_connections: how many are served at once at each listener.
    """

    def __init__(self, site: Site, max_connections: int = MAX_CONNECTIONS) -> None:
        self._respond = site.respond
        self._headers = site.headers
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
            answer = await self._respond(request, log)
        except Refused as refused:
            body = f"{refused}\n".encode()
            kind = ("Content-Type", "text/plain; charset=utf-8")
            await _send_answer(transport, refused.status, [*self._headers, kind, *refused.headers, _length(body)], body)
            return False
        headers = [*self._headers, *answer.headers]
        if answer.follow is None:
            headers.append(_length(answer.body))
        body, follow = (b"", None) if request.method == b"HEAD" else (answer.body, answer.follow)
        await _send_answer(transport, answer.status, headers, body)
        if follow is not None:
            await _while_it_stays(transport, follow)
        return is_whole

    async def _request(self, transport: Transport) -> tuple[h11.Request, bool] | None:
        """Read a request within the time for it; None: there is none. Raises Refused."""
        with trio.move_on_after(REQUEST_WITHIN_S):
            read = await _read_request(transport)
            # Who has asked keeps its place until it is answered.
            transport.place.is_greeted = True
            transport.place.begin_call()
            return read
        return None


async def _while_it_stays(transport: Transport, follow: Callable[[Transport], Awaitable[None]]) -> None:
    """Follow until the peer leaves; what it still sends is thrown away. Raises PeerLost."""
    lost: list[PeerLost] = []
    async with trio.open_nursery() as nursery:

        async def until_it_leaves() -> None:
            while await transport.receive():
                pass
            nursery.cancel_scope.cancel()

        nursery.start_soon(until_it_leaves)
        try:
            await follow(transport)
        except PeerLost as error:
            lost.append(error)
        nursery.cancel_scope.cancel()
    if lost:
        raise lost[0]


async def bind_tcp(host: str, port: int) -> list[socket.socket]:
    """Listen at a port of *host*'s addresses. Raises OSError, ValueError: it cannot be bound."""
    # These are trio's; a listener wants plain ones, which find out their family by themselves.
    listeners = await trio.open_tcp_listeners(port, host=host)
    bound = [calls.socket(fileno=listener.socket.detach()) for listener in listeners]
    for one in bound:
        one.settimeout(0)
    return bound


def address_of(bound: socket.socket, path: str) -> str:
    """Name where a page is reached at a port, as a URL."""
    host, port, *_ = bound.getsockname()
    return f"http://[{host}]:{port}{path}" if bound.family == socket.AF_INET6 else f"http://{host}:{port}{path}"


async def run_http(
    bind: Bind,
    say: Callable[[str], None],
    make: Callable[[], Site],
) -> int:
    """Be a daemon that serves HTTP until SIGTERM or SIGINT, which end it at once; returns the exit code.

    Args:
        bind: binds, when signals are heard: nobody finds a socket of a daemon that a signal would kill. Returns the sockets,
            who connects to them is served, they are closed in the end, and their files removed; and where that is, for people.
        say: what a person is told, a line at a time.
        make: makes what is served.
    """

    async def start(service: Service) -> int:
        site = make()
        bound, where = await bind()
        places = (sockets.raise_descriptor_limit() - _DESCRIPTORS_APART) // _DESCRIPTORS_EACH
        listeners: list[Listener] = []
        try:
            server = HttpServer(site, max(1, min(MAX_CONNECTIONS, places) // len(bound)))
            for one in bound:
                is_unix = one.family == socket.AF_UNIX
                path = Path(one.getsockname() if is_unix else where)
                listeners.append(server.listener_of(path, one, is_unix=is_unix))
            say(f"serving {where}")
            async with service.ready(lambda: f"serving {where}") as nursery:
                for task in (*site.beside, *(listener.serve for listener in listeners)):
                    nursery.start_soon(task)
                await trio.sleep_forever()
        finally:
            for listener in listeners:
                listener.close()

    return await run_service(start, reload="everything is said on the command line")
