"""`xbd xenstored`: the store's sockets, and between the store and the hypervisor a client that shows and asks.

It follows the hypervisor's events as hints to look at its domains again, and looks every so often besides, for
what guests say of themselves; what is shown follows from how things are (`xbd.xenstore.bridge`). Without a
hypervisor the store is served all the same, as it was last.
"""

import uuid
from contextlib import aclosing
from pathlib import Path
from typing import Final

import structlog
import trio

from xbd.client.client import Client
from xbd.daemons.runtime.outside import calls
from xbd.daemons.runtime.peers import Alarm
from xbd.daemons.runtime.reconnect import Follower
from xbd.daemons.runtime.service import Service, run_service
from xbd.daemons.xenstore_file import StoreFile
from xbd.daemons.xenstore_sockets import XenstoreServer
from xbd.errors import HypercallError
from xbd.protocol.views import ZOMBIE, DomainView
from xbd.target_rules import used_pages
from xbd.xenstore.bridge import Bridge, DomainFacts, Refusal, TargetRequest
from xbd.xenstore.store import Store

_log = structlog.get_logger(__name__)

# How old what a guest says of its memory may be; Qubes' guests say it about as often.
LOOK_EVERY_S: Final = 1.0
# A burst of events is answered by one look, and looking takes at most half of the daemon's time.
LOOK_PAUSE_S: Final = 0.01
_HINTS: Final = frozenset(
    {"created", "destroyed", "vanished", "target", "max", "shutdown", "crashed", "agent_lost", "agent_connected"}
)
_STOPPED: Final = frozenset({"shutdown", "crashed"})


def facts_of(domain: DomainView) -> DomainFacts:
    """Say of a domain what the store shows."""
    return DomainFacts(
        domid=domain.domid,
        name=domain.name,
        target_pages=domain.target_pages,
        min_pages=domain.min_pages,
        max_pages=domain.max_pages,
        static_max_pages=domain.static_max_pages,
        stopped=domain.state in _STOPPED,
        used_pages=used_pages(domain.report),
    )


class HostInStore:
    """The hypervisor at *path*, shown in a server's store, and asked for the targets that are written there."""

    def __init__(self, path: Path, server: XenstoreServer) -> None:
        self._path = path
        self._server = server
        self._bridge = Bridge(server.store, lambda: str(uuid.uuid4()))
        self._news = server.bridge
        self._follower = Follower("hypervisor", socket=str(path))

    async def follow(self) -> None:
        """Show and ask for ever, through the hypervisor's restarts."""
        await self._follower.follow_hypervisor(self._path, self._session, resume=True)

    async def _session(self, client: Client) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_hear, client, self._news)
            while True:
                began = trio.current_time()
                domains = await client.list()
                self._bridge.update([facts_of(one) for one in domains if one.state != ZOMBIE], calls.wall_clock())
                self._server.open_sockets()
                self._server.deliver()
                await self._ask(client)
                self._follower.check_in.here()
                await trio.sleep(max(LOOK_PAUSE_S, trio.current_time() - began))
                with trio.move_on_after(LOOK_EVERY_S):
                    await self._news.wait()

    async def _ask(self, client: Client) -> None:
        """Ask the hypervisor for what was written; what has no answer when the connection ends is asked again."""
        for request in self._bridge.requests():
            self._follower.check_in.here()
            match request:
                case TargetRequest(domid, pages):
                    try:
                        await client.set_target(domid, pages)
                    except HypercallError as error:
                        # Its limit was lowered, or it has gone, since it was last looked at.
                        self._bridge.refused(request)
                        self._refused(domid, pages=pages, reason=str(error))
                    else:
                        self._bridge.agreed(request)
                        log = self._server.log_of(domid)
                        log.info(trio.current_time(), "xenstore_target", domid=domid, pages=pages)
                case Refusal(domid, written, reason):
                    self._refused(domid, written=repr(written[:40]), reason=reason)

    def _refused(self, domid: int, **details: object) -> None:
        """Log that a written target is none: rarely, for who may write it may do so without end."""
        log = self._server.log_of(domid)
        log.warning(trio.current_time(), "xenstore_target_refused", domid=domid, **details)


async def _hear(client: Client, news: Alarm) -> None:
    """Ring for each event after which the domains may look different."""
    async with aclosing(client.events()) as events:
        async for event in events:
            if event.get("event") in _HINTS:
                news.ring()


async def run_xenstored(hypervisor_path: Path, path: Path, state_dir: Path | None) -> int:
    """Be the daemon until SIGTERM or SIGINT. Returns the exit code.

    Args:
        hypervisor_path: the hypervisor's socket; it may come later.
        path: the store's own socket.
        state_dir: where the store is kept; None: it ends with the daemon.

    Raises:
        ConfigError: a socket cannot be bound, or the state cannot be used.
    """

    async def start(service: Service) -> int:
        file = None if state_dir is None else StoreFile(state_dir)
        try:
            server = XenstoreServer(path, Store() if file is None else file.store, file)
            host = HostInStore(hypervisor_path, server)
            tools = server.bind()
            _log.info("xenstored_ready", socket=str(path), nodes=len(server.store.tree))
            async with service.ready(server.status) as nursery:
                nursery.start_soon(server.serve, tools)
                await host.follow()
        finally:
            if file is not None:
                file.close()
        return 0

    code = await run_service(start, reload="everything is said on the command line")
    _log.info("xenstored_stopped")
    return code
