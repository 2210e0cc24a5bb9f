"""The metrics daemon: a page over HTTP with a host's figures, asked for anew at every scrape; prometheus_client makes it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import h11
import trio
from prometheus_client import CollectorRegistry, make_wsgi_app

from xbd.client.client import open_client
from xbd.control.rate_limit import SourceLog
from xbd.daemons.http_server import Answer, Bind, Headers, Refused, Site, run_http
from xbd.daemons.metric_families import families
from xbd.domain import DomainInfo
from xbd.errors import XbdError

# Prometheus gives up a scrape after 10 s; a hypervisor that hangs for longer is not up.
ANSWER_WITHIN_S: Final = 8.0


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


async def run_metrics(hypervisor_path: Path, bind: Bind, say: Callable[[str], None]) -> int:
    """Serve the figures of the hypervisor at *hypervisor_path*, which need not be there; see `run_http`."""

    async def respond(request: h11.Request, log: SourceLog) -> Answer:
        host, domains = await look(hypervisor_path)
        try:
            # In a thread: the page of thousands of domains takes a while, and a signal is not to wait for it.
            page = await trio.to_thread.run_sync(render, host, domains, request, abandon_on_cancel=True)
        except Exception as error:
            # The client library reads the headers of strangers, and promises nothing of what it raises then.
            log.warning(trio.current_time(), "page_failed", reason=repr(error))
            raise Refused("400 Bad Request", f"no page can be made of these headers: {error!r}") from error
        return Answer(*page)

    return await run_http(bind, say, lambda: Site(respond))
