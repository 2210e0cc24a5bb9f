"""What the page asks for, and how it is answered: its files, the stream of what changes, and single looks.

All of it only reads. Whoever asks is checked first (`guard`); what costs the hypervisor a call is rationed for all pages
together, and answered from memory when it was asked for just before.
"""

import zlib
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs

import h11
import trio

from xbd.control.moments import Moment, found_at
from xbd.control.rate_limit import SourceLog, TokenBucket
from xbd.daemons.http_server import Answer, Bind, Refused, Site, run_http
from xbd.daemons.runtime.transport import Transport
from xbd.daemons.web.feed import Feed, as_json
from xbd.daemons.web.files import page_files
from xbd.daemons.web.guard import PAGE_HEADERS, Guard
from xbd.errors import HypercallError, XbdError

# Pages that are open at once: some places are left for what they ask for beside.
MAX_STREAMS: Final = 40
# What all pages together may make the hypervisor answer, beside the looks: so many at once, then so many a second.
ASKED_AT_ONCE: Final = 40
ASKED_PER_S: Final = 40.0
# A look at one domain or superframe that is as old is shown to others who ask for it, too.
_FRESH_S: Final = 0.9
_FRESH_MOST: Final = 256
_LIVE: Final = "live"
_JSON: Final = ("Content-Type", "application/json")
_PLAIN: Final = ("Content-Type", "text/csv; charset=utf-8")
_BINARY: Final = ("Content-Type", "application/octet-stream")
_NOT_KEPT: Final = ("Cache-Control", "no-store")
# A browser asks for it anew, and is told that it has it.
_ASKED_AGAIN: Final = ("Cache-Control", "no-cache")
_STREAM: Final = (("Content-Type", "text/event-stream"), _NOT_KEPT)
# How long a browser waits before it connects again.
_RETRY: Final = b"retry: 1000\n\n"


class PageServer:
    """Answers the page's requests.

    Args:
        guard: whom it answers.
        feed: the host that it shows; None: it shows *runs*.
        runs: the moments of each run of a file, which is called *name*.
    """

    def __init__(
        self, guard: Guard, feed: Feed | None, runs: dict[str, list[Moment]] | None = None, name: str = ""
    ) -> None:
        self._guard = guard
        self._feed = feed
        self._runs = runs or {}
        self._name = name
        self._files = page_files()
        self._streams = 0
        self._asked = TokenBucket(ASKED_AT_ONCE, ASKED_PER_S)
        self._fresh: dict[tuple[str, int], tuple[float, bytes]] = {}
        self._looks: dict[str, Callable[[dict[str, str]], Awaitable[Answer]]] = {
            "/source": self._source,
            "/stream": self._stream,
            "/frames": self._frames,
            "/recent": self._recent,
            "/superframe": self._superframe,
            "/domain": self._domain,
            "/times": self._times,
            "/moment": self._moment,
            "/moment-frames": self._moment_frames,
        }

    async def respond(self, request: h11.Request, _log: SourceLog) -> Answer:
        """Answer a request. Raises Refused."""
        path, _, query = request.target.decode("latin-1").partition("?")
        self._guard.check(request, is_page=path == "/")
        if path in self._files:
            return self._file(path, request)
        if path not in self._looks:
            raise Refused("404 Not Found", "there is no such page; open /")
        try:
            return await self._looks[path]({name: values[-1] for name, values in parse_qs(query).items()})
        except HypercallError as error:
            raise Refused("404 Not Found", str(error)) from error
        except XbdError as error:
            raise Refused("503 Service Unavailable", str(error)) from error

    def _file(self, path: str, request: h11.Request) -> Answer:
        file = self._files[path]
        headers = [("Content-Type", file.content_type), ("ETag", file.etag), _ASKED_AGAIN]
        has = [tag.strip() for name, tags in request.headers if name == b"if-none-match" for tag in tags.split(b",")]
        if file.etag.encode() in has:
            return Answer("304 Not Modified", headers)
        return Answer("200 OK", headers, file.body)

    # -- the host as it is

    def _live(self) -> Feed:
        """Return what follows the host. Raises Refused: a file is shown."""
        if self._feed is None:
            raise Refused("404 Not Found", "a file is shown, which does not change; ask for /times and /moment")
        return self._feed

    async def _source(self, _query: dict[str, str]) -> Answer:
        kind = "file" if self._feed is None else _LIVE
        return _json({"kind": kind, "name": self._name, "runs": list(self._runs) or [_LIVE]})

    async def _stream(self, query: dict[str, str]) -> Answer:
        feed = self._live()
        if self._streams >= MAX_STREAMS:
            raise Refused(
                "503 Service Unavailable", f"{MAX_STREAMS} pages are open already; close one", [("Retry-After", "5")]
            )

        async def follow(transport: Transport) -> None:
            if self._streams >= MAX_STREAMS:
                # Others came between the answer and this; it is closed, asks again, and is told so.
                return
            self._streams += 1
            try:
                with feed.watching(frames=query.get("frames") == "1") as send_to:
                    await send_to(transport.send)
            finally:
                self._streams -= 1

        return Answer("200 OK", _STREAM, _RETRY, follow)

    async def _frames(self, _query: dict[str, str]) -> Answer:
        version, packed = await self._live().all_frames()
        return Answer("200 OK", [_BINARY, _NOT_KEPT, ("X-Frames-Version", str(version))], packed)

    async def _recent(self, _query: dict[str, str]) -> Answer:
        return Answer("200 OK", [_BINARY, _NOT_KEPT], self._live().recent())

    async def _superframe(self, query: dict[str, str]) -> Answer:
        return await self._fresh_look("superframe", _number(query, "index"), self._live().superframe)

    async def _domain(self, query: dict[str, str]) -> Answer:
        return await self._fresh_look("domain", _number(query, "domid"), self._live().domain)

    async def _fresh_look(self, kind: str, number: int, look: Callable[[int], Awaitable[bytes]]) -> Answer:
        """Ask the hypervisor, unless somebody did so just before. Raises Refused: too often; XbdError."""
        now_s = trio.current_time()
        until_s, body = self._fresh.get((kind, number), (0.0, b""))
        if now_s >= until_s:
            if not self._asked.take(now_s):
                raise Refused(
                    "429 Too Many Requests",
                    "pages ask for more than the hypervisor is to answer; ask again",
                    [("Retry-After", "1")],
                )
            body = await look(number)
            self._fresh.pop((kind, number), None)
            if len(self._fresh) >= _FRESH_MOST:
                del self._fresh[next(iter(self._fresh))]
            self._fresh[kind, number] = (trio.current_time() + _FRESH_S, body)
        return Answer("200 OK", [_JSON, _NOT_KEPT], body)

    # -- the host as it was

    def _kept(self, query: dict[str, str]) -> list[Moment]:
        """List the moments of a run. Raises Refused: there is no such run."""
        if self._feed is not None:
            return self._feed.moments.all()
        run = query.get("run", next(iter(self._runs)))
        if run not in self._runs:
            raise Refused("404 Not Found", "there is no such run; /source lists them")
        return self._runs[run]

    def _at(self, query: dict[str, str]) -> Moment:
        """Find the moment that is asked for: the last one that is not later. Raises Refused."""
        try:
            t_s = float(query.get("t", "nan"))
        except ValueError:
            t_s = float("nan")
        moments = self._kept(query)
        if t_s != t_s or not moments:  # noqa: PLR0124 - NaN is no time
            raise Refused("404 Not Found", "there is no such moment; ask with t=SECONDS, as /times lists them")
        return found_at(moments, t_s)

    async def _times(self, query: dict[str, str]) -> Answer:
        return _json([{**one.host, "t_s": one.t_s, "has_frames": one.frames is not None} for one in self._kept(query)])

    async def _moment(self, query: dict[str, str]) -> Answer:
        return Answer("200 OK", [_PLAIN, _NOT_KEPT], zlib.decompress(self._at(query).series))

    async def _moment_frames(self, query: dict[str, str]) -> Answer:
        frames = self._at(query).frames
        if frames is None:
            raise Refused("404 Not Found", "nobody looked at the superframes then")
        return Answer("200 OK", [_BINARY, _NOT_KEPT], zlib.decompress(frames))


def _json(found: object) -> Answer:
    return Answer("200 OK", [_JSON, _NOT_KEPT], as_json(found))


def _number(query: dict[str, str], name: str) -> int:
    """Read a number of a query. Raises Refused: it is none."""
    written = query.get(name, "")
    if not (written.isascii() and written.isdecimal() and len(written) <= 12):
        raise Refused("400 Bad Request", f"{name} is to be a number")
    return int(written)


async def run_web(
    source: Path | dict[str, list[Moment]],
    bind: Bind,
    say: Callable[[str], None],
    *,
    name: str = "",
    host_names: Collection[str] = (),
    from_other_machines: bool = False,
) -> int:
    """Serve the page of the host whose hypervisor's socket is *source*, which need not be there, or of the runs of a file.

    The file is called *name*; browsers may call the server by *host_names*, too, and, *from_other_machines*, by any
    address. The rest is as for `run_http`.
    """

    def make() -> Site:
        feed = Feed(source) if isinstance(source, Path) else None
        runs = None if isinstance(source, Path) else source
        server = PageServer(Guard(host_names, from_other_machines=from_other_machines), feed, runs, name)
        return Site(server.respond, [] if feed is None else [feed.follow], PAGE_HEADERS)

    return await run_http(bind, say, make)
