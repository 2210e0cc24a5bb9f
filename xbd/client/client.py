"""The client library: one connection to a hypervisor's toolstack socket, any number of calls at once.

    async with open_client(path) as client:
        for domain in await client.list():
            await client.set_target(domain.domid, domain.static_max_pages // 2)

Calls may be made from any number of tasks; each waits for its own answer. A refusal is raised as the
`HypercallError` that the daemon raised, the final loss of the connection as `PeerLost`. With `resume=True`
a connection that was lost, or whose daemon restarts with its state, is resumed: see `xbd.client.connection`.
"""

import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import trio

from xbd.abi import DomainType
from xbd.client.connection import ANSWER_TIMEOUT_S, Connection, Params, Resumption
from xbd.client.discovery import explain_connect
from xbd.client.runtime_dir import check_socket_path
from xbd.errors import RemoteProtocolError
from xbd.protocol.views import DomainView, domain_view

__all__ = ["ANSWER_TIMEOUT_S", "AUDIT_TIMEOUT_S", "Client", "open_client", "serve_client"]

# `audit` recomputes everything.
AUDIT_TIMEOUT_S: Final = 3600.0


class Client(Connection):
    """A connection to a hypervisor; made by `open_client`."""

    # -- the methods of a hypervisor; each raises HypercallError, PeerLost and RemoteProtocolError as `call` does

    async def list(self) -> Sequence[DomainView]:
        """Describe all domains, in the order of their domids."""
        domains = (await self.call("list")).get("domains")
        if not isinstance(domains, list):
            raise RemoteProtocolError("a list answer without domains", "{domains: [...]}")
        return [domain_view(raw) for raw in domains]

    async def info(self, domain: str | int) -> DomainView:
        """Describe one domain."""
        return domain_view(await self.call("info", {"domain": domain}))

    async def host(self) -> dict[str, Any]:
        """Describe the host: its frames and settings, as the wire has them."""
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
        on_crash: str = "restart",
        guest: Params | None = None,
    ) -> int:
        """Create a domain, and return its domid.

        Args:
            name: unique, and not all digits.
            max_pages: its maximum, and its limit at first; in whole superpages, as all three sizes are.
            target_pages: its target, at most *max_pages*.
            min_pages: its minimum, at most *target_pages*; 0: none.
            domain_type: how its guest talks to the hypervisor.
            autostart: whether an agent is started for it.
            on_crash: what happens when its agent dies: "restart", "destroy" or "preserve".
            guest: the settings of its guest, as host files have them: strategy, workload, driver, seed, verify.
        """
        params = {
            "type": domain_type.value,
            "max_pages": max_pages,
            "target_pages": target_pages,
            "min_pages": min_pages,
            "autostart": autostart,
            "on_crash": on_crash,
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
        """Set a domain's target; its guest gets there at its own pace."""
        await self.call("set_target", {"domid": domain, "pages": pages})

    async def set_max(self, domain: str | int, pages: int) -> None:
        """Set a domain's limit; if that is below what it holds, it gets nothing more until it has given enough back."""
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
            self.events_missed = False
            self.events_waiting.clear()
            answer = await self.call("events", {"since": since})
            for event in _checked_events(answer.get("events")):
                since = int(event["number"]) + 1
                yield event
            while follow and not self.events_missed:
                if not self.events_waiting:
                    await self.wait_for_events()
                    continue
                event = self.events_waiting.popleft()
                if event["number"] >= since:
                    since = int(event["number"]) + 1
                    yield event
            if not follow:
                return


def _checked_events(untrusted: object) -> list[dict[str, Any]]:
    """Check that an answer's events are a list of numbered maps. Raises RemoteProtocolError."""
    if not isinstance(untrusted, list) or not all(
        isinstance(event, dict) and type(event.get("number")) is int for event in untrusted
    ):
        raise RemoteProtocolError(f"an answer with events {untrusted!r:.80}", "[{number, event, ...}]")
    return untrusted


@asynccontextmanager
async def open_client(path: Path | str, *, resume: bool = False) -> AsyncIterator[Client]:
    """Connect to the hypervisor at *path* and say hello.

    Args:
        path: its socket.
        resume: open a session, and resume it when the connection is lost; calls wait meanwhile.

    Raises:
        NoHypervisor: it cannot be connected to; the sentence says why, and what to do.
        HypercallError: the hypervisor speaks another version.
    """
    path = check_socket_path(Path(path))

    async def connect() -> trio.abc.Stream:
        try:
            return await trio.open_unix_socket(str(path))
        except OSError as error:
            raise explain_connect(path, error) from error

    stream = await connect()
    resumption = Resumption(connect, str(uuid.uuid4())) if resume else None
    try:
        async with serve_client(stream, f"the hypervisor at {path}", resumption) as client:
            try:
                yield client
            finally:
                stream = client.stream
    finally:
        await trio.aclose_forcefully(stream)


@asynccontextmanager
async def serve_client(
    stream: trio.abc.Stream, where: str, resumption: Resumption | None = None
) -> AsyncIterator[Client]:
    """Run a client on a connected *stream*; *where* is what errors call the other end."""
    client = Client(stream, where, resumption)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.receive_all)
            await client.hello()
            yield client
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # The receiving task reports its errors to the callers, so the only error in the group is the caller's own.
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from group.exceptions[0].__cause__
        raise
