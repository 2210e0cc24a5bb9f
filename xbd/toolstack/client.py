"""The client library: one connection to a hypervisor's toolstack socket, any number of calls at once.

    async with open_client(path) as client:
        for domain in await client.list():
            await client.set_target(domain.domid, domain.static_max_pages // 2)

Calls may be made from any number of tasks; each waits for its own answer. What the daemon refuses
comes back as the `HypercallError` that it was, a connection that ends as `PeerLost`.

It does not connect again by itself: what became of the calls in flight is for the caller to find out.
"""

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import trio

from xbd.abi import DomainType
from xbd.errors import PeerLost, RemoteProtocolError, XbdError
from xbd.services.runtime_dir import check_socket_path
from xbd.toolstack.sockets import explain_connect
from xbd.toolstack.views import DomainView, domain_view
from xbd.wire.codec import ANSWER_LIMITS, RECEIVE_BYTES, Decoder, Notification, Response, encode_request
from xbd.wire.fields import error_from_map
from xbd.wire.protocol import VERSION

# No answer of the daemon's takes this long unless it hangs; `audit` recomputes everything and may.
ANSWER_TIMEOUT_S: Final = 60.0
AUDIT_TIMEOUT_S: Final = 3600.0
# Enough to keep the daemon busy; it reads one client's calls in order anyway.
CALLS_IN_FLIGHT: Final = 64
# A reader of events that is this far behind fetches what it missed instead (the daemon keeps the latest).
EVENTS_QUEUED: Final = 10_000

Params = Mapping[str, object]


class _Call:
    """A call in flight: its answer, or why there will be none."""

    __slots__ = ("answered", "error", "result")

    def __init__(self) -> None:
        self.answered = trio.Event()
        self.result: object = None
        self.error: XbdError | None = None

    def settle(self, result: object, error: XbdError | None) -> None:
        self.result, self.error = result, error
        self.answered.set()


class Client:
    """A connection to a hypervisor; made by `open_client`."""

    def __init__(self, stream: trio.abc.Stream, where: str) -> None:
        self._stream = stream
        self._where = where
        self._decoder = Decoder(ANSWER_LIMITS)
        self._calls: dict[int, _Call] = {}
        self._next_msgid = 0
        self._in_flight = trio.CapacityLimiter(CALLS_IN_FLIGHT)
        self._sending = trio.Lock()
        self._lost: XbdError | None = None
        self._events: deque[dict[str, Any]] = deque()
        self._events_missed = False
        self._news = trio.Event()

    # -- what can be asked of a hypervisor

    async def hello(self) -> dict[str, Any]:
        """Agree on the protocol's version; says {version, host}."""
        return await self.call("hello", {"version": VERSION})

    async def list(self) -> Sequence[DomainView]:
        """List the domains, by domid."""
        domains = (await self.call("list")).get("domains")
        if not isinstance(domains, list):
            raise RemoteProtocolError("a list answer without domains", "{domains: [...]}")
        return [domain_view(told) for told in domains]

    async def info(self, domain: str | int) -> DomainView:
        """Tell all of one domain."""
        return domain_view(await self.call("info", {"domain": domain}))

    async def host(self) -> dict[str, Any]:
        """Tell of the host: its frames and settings."""
        return await self.call("host")

    async def create(
        self,
        name: str,
        *,
        max_pages: int,
        target_pages: int,
        min_pages: int = 0,
        domain_type: DomainType = DomainType.PVH,
        autostart: bool = True,
        guest: Params | None = None,
    ) -> int:
        """Make a domain; *guest* are the settings that its agent is started with. Returns its domid."""
        params = {
            "type": domain_type.value,
            "max_pages": max_pages,
            "target_pages": target_pages,
            "min_pages": min_pages,
            "autostart": autostart,
        }
        answer = await self.call("create", {"name": name, **params, "guest": dict(guest or {})})
        domid = answer.get("domid")
        if not isinstance(domid, int):
            raise RemoteProtocolError(f"a create answer with domid {domid!r:.80}", "a number")
        return domid

    async def destroy(self, domain: str | int) -> int:
        """End a domain at once; its memory goes back to the host.

        Returns how many of its pages others still map; while there are any it stays, as a zombie.
        """
        zombie_pages = (await self.call("destroy", {"domid": domain})).get("zombie_pages")
        if not isinstance(zombie_pages, int):
            raise RemoteProtocolError(f"a destroy answer with zombie_pages {zombie_pages!r:.80}", "a number")
        return zombie_pages

    async def shutdown(self, domain: str | int) -> None:
        """Ask a domain's guest to stop."""
        await self.call("shutdown", {"domid": domain})

    async def set_target(self, domain: str | int, pages: int) -> None:
        """Say how much a domain should hold; its guest moves there at its own pace."""
        await self.call("set_target", {"domid": domain, "pages": pages})

    async def set_max(self, domain: str | int, pages: int) -> None:
        """Set a domain's hard cap; below what it holds, it can only give back."""
        await self.call("set_max", {"domid": domain, "pages": pages})

    async def claim(self, domain: str | int, pages: int) -> int:
        """Promise a domain that it can come to hold *pages*, or nothing (0); returns what of it is outstanding."""
        outstanding = (await self.call("claim", {"domid": domain, "pages": pages})).get("claimed_pages")
        if not isinstance(outstanding, int):
            raise RemoteProtocolError(f"a claim answer with claimed_pages {outstanding!r:.80}", "a number")
        return outstanding

    async def guest_mode(self, domain: str | int, mode: str) -> None:
        """Change how a guest behaves: `normal`, `stuck`, `slow 10MiB/s`, `floor 1G`, `ceiling 4G`, `lies`."""
        await self.call("guest_mode", {"domid": domain, "mode": mode})

    async def audit(self) -> Sequence[str]:
        """Recompute everything; returns what does not hold, nothing when all does."""
        violations = (await self.call("audit", timeout_s=AUDIT_TIMEOUT_S)).get("violations")
        if not isinstance(violations, list):
            raise RemoteProtocolError("an audit answer without violations", "{violations: [...]}")
        return [str(violation) for violation in violations]

    async def events(self, since: int = 0, *, follow: bool = True) -> AsyncGenerator[dict[str, Any], None]:
        """Iterate over events from number *since*: those that the daemon still keeps, then, if *follow*, new ones.

        No event comes twice; a reader that falls too far behind gets those that the daemon still has.
        One iteration at a time per client.
        """
        while True:
            self._events_missed = False
            self._events.clear()
            answer = await self.call("events", {"since": since})
            for event in answer.get("events", ()):
                since = int(event["number"]) + 1
                yield event
            while follow and not self._events_missed:
                if not self._events:
                    await self._wait_for_news()
                    continue
                event = self._events.popleft()
                if event["number"] >= since:
                    since = int(event["number"]) + 1
                    yield event
            if not follow:
                return

    async def _wait_for_news(self) -> None:
        if self._lost is not None:
            raise self._lost
        self._news = trio.Event()
        await self._news.wait()

    # -- how it is asked

    async def call(
        self, method: str, params: Params | None = None, *, timeout_s: float = ANSWER_TIMEOUT_S
    ) -> dict[str, Any]:
        """Call any method and wait for its answer, a map.

        Raises:
            HypercallError: the daemon refused; nothing was changed.
            PeerLost: the connection ended, or no answer came in *timeout_s*.
            RemoteProtocolError: the answer makes no sense.
        """
        async with self._in_flight:
            if self._lost is not None:
                raise self._lost
            msgid, self._next_msgid = self._next_msgid, (self._next_msgid + 1) % (1 << 32)
            call = self._calls[msgid] = _Call()
            try:
                with trio.move_on_after(timeout_s) as patience:
                    await self._send(encode_request(msgid, method, dict(params or {})))
                    await call.answered.wait()
            finally:
                self._calls.pop(msgid, None)
            if patience.cancelled_caught:
                raise PeerLost(f"{self._where} has not answered `{method}` for {timeout_s:g} s; is it hanging?")
        if call.error is not None:
            raise call.error
        if not isinstance(call.result, dict):
            raise RemoteProtocolError(f"{method} was answered with a {type(call.result).__name__}", "a map")
        return call.result

    async def _send(self, message: bytes) -> None:
        try:
            async with self._sending:
                # A message cut short would garble all later ones, so a call that is given up is still sent whole.
                with trio.CancelScope(shield=True), trio.fail_after(ANSWER_TIMEOUT_S):
                    await self._stream.send_all(message)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
            self._lose(PeerLost(f"the connection to {self._where} ended while a call was sent"))
            raise self._lost or PeerLost(self._where) from error

    async def receive_all(self) -> None:
        """Take in what the daemon sends until the connection ends; a task of `open_client`'s."""
        try:
            while received := await self._stream.receive_some(RECEIVE_BYTES):
                self._decoder.feed(received)
                while (message := self._decoder.next_message()) is not None:
                    self._take(message)
        except RemoteProtocolError as error:
            self._lose(RemoteProtocolError(f"{self._where} sent {error}", error.hint))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self._lose(PeerLost(f"the connection to {self._where} broke ({str(error) or type(error).__name__})"))
        self._lose(PeerLost(f"{self._where} closed the connection; it may have been stopped (see its log)"))

    def _take(self, message: object) -> None:
        match message:
            case Response(msgid, error, result):
                call = self._calls.get(msgid)
                if call is not None:
                    call.settle(result, None if error is None else error_from_map(error))
            case Notification("event", untrusted_params):
                self._take_event(untrusted_params)
            case Notification("dropped", [{"reason": str(reason), "expected": str(expected)}]):
                self._lose(RemoteProtocolError(f"{self._where} ended the connection: {reason}", expected))
            case Notification():
                pass  # a newer daemon may tell of things that this client does not know
            case _:
                raise RemoteProtocolError(f"an unexpected {type(message).__name__}", "an answer or an event")

    def _take_event(self, untrusted_params: object) -> None:
        match untrusted_params:
            case [dict() as event] if isinstance(event.get("number"), int):
                if len(self._events) >= EVENTS_QUEUED:
                    self._events_missed = True
                else:
                    self._events.append(event)
                self._news.set()
            case _:
                raise RemoteProtocolError(f"an event {untrusted_params!r:.80}", "[{number, event, ...}]")

    def _lose(self, error: XbdError) -> None:
        """Note that the connection is over; every caller hears of it, the first reason stands."""
        self._lost = self._lost or error
        for call in self._calls.values():
            if not call.answered.is_set():
                call.settle(None, self._lost)
        self._news.set()


@asynccontextmanager
async def open_client(path: Path | str) -> AsyncIterator[Client]:
    """Connect to the hypervisor at *path* and greet it.

    Raises:
        NoHypervisor: no connection came about; says why, and the next step.
        HypercallError: the hypervisor speaks another version.
    """
    path = check_socket_path(Path(path))
    try:
        stream = await trio.open_unix_socket(str(path))
    except OSError as error:
        raise explain_connect(path, error) from error
    async with stream, serve_client(stream, f"the hypervisor at {path}") as client:
        yield client


@asynccontextmanager
async def serve_client(stream: trio.abc.Stream, where: str) -> AsyncIterator[Client]:
    """Run a client on a connected *stream*; *where* is what errors call the other end."""
    client = Client(stream, where)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.receive_all)
            await client.hello()
            yield client
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # The receiver keeps its errors to itself, so what is in here is the caller's own.
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from group.exceptions[0].__cause__
        raise
