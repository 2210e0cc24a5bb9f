"""`xbd xenstored`: the store's sockets, and between the store and the hypervisor a client that shows and asks.

It follows the hypervisor's events as hints to ask what has changed. What guests say of themselves is in no event: for
that it asks every so often. What is shown follows from how things are
(`xbd.xenstore.bridge`). Without a hypervisor the store is served all the same, as it was last.
"""

from contextlib import aclosing
from pathlib import Path
from typing import Final

import structlog
import trio

from xbd.client.calls import KnownDomains
from xbd.client.client import Client
from xbd.daemons.runtime.outside import calls
from xbd.daemons.runtime.peers import Alarm
from xbd.daemons.runtime.reconnect import Follower
from xbd.daemons.runtime.service import Service, run_service
from xbd.daemons.xenstore_file import StoreFile
from xbd.daemons.xenstore_sockets import XenstoreServer
from xbd.domain import ZOMBIE
from xbd.errors import HypercallError, NoSuchDomain
from xbd.xenstore.bridge import Bridge, Refusal, TargetRequest
from xbd.xenstore.store import Store

_log = structlog.get_logger(__name__)

# How old what a guest says of its memory may be; Qubes' guests say it about as often.
LOOK_EVERY_S: Final = 1.0
# A burst of events is answered by one look, and looking takes at most half of the daemon's time.
LOOK_PAUSE_S: Final = 0.01
_HINTS: Final = frozenset(
    {
        *("created", "destroyed", "vanished", "target", "max", "agent_lost", "agent_connected"),
        *("shutdown", "crashed", "started", "paused", "unpaused", "renamed"),
    }
)


class HostInStore:
    """The hypervisor at *path*, shown in a server's store, and asked for what is written there.

    What has changed is looked at every *look_every_s*, at least.
    """

    def __init__(self, path: Path, server: XenstoreServer, look_every_s: float = LOOK_EVERY_S) -> None:
        self._path = path
        self._look_every_s = look_every_s
        self._server = server
        self._news = Alarm()
        self._bridge = Bridge(server.store, self._news.ring)
        self._known = KnownDomains()
        # Domids for which something was asked since the last look: what the host has may be what it had before, and still
        # be another than what the store shows now.
        self._asked: set[int] = set()
        self._follower = Follower("hypervisor", socket=str(path))

    async def follow(self) -> None:
        """Show and ask for ever, through the hypervisor's restarts."""
        await self._follower.follow_hypervisor(self._path, self._session, resume=True, client="xenstored")

    async def _session(self, client: Client) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hear, client)
            while True:
                began = trio.current_time()
                await self._look(client)
                self._server.open_sockets()
                self._server.deliver()
                await self._ask(client)
                await self._stop_guests(client)
                await self._rename_guests(client)
                self._follower.check_in.here()
                await trio.sleep(max(LOOK_PAUSE_S, trio.current_time() - began))
                with trio.move_on_at(began + self._look_every_s):
                    await self._news.wait()

    async def _hear(self, client: Client) -> None:
        """Look again after each event by which a domain may look different."""
        async with aclosing(client.events()) as events:
            async for event in events:
                if event.get("event") in _HINTS:
                    self._news.ring()

    async def _look(self, client: Client) -> None:
        """Show what has changed since the last look."""
        changes = await client.changes(self._known.since)
        self._known.take(changes)
        now_s, known = calls.wall_clock(), self._known.by_domid
        if changes.is_whole:
            self._bridge.update([one for one in known.values() if one.state != ZOMBIE], now_s)
        for domid in sorted({*changes.gone, *self._asked, *(one.domid for one in changes.domains)}):
            if domid in known and known[domid].state != ZOMBIE:
                self._bridge.show(known[domid], now_s)
            else:
                self._bridge.remove(domid)
        self._asked.clear()

    async def _ask(self, client: Client) -> None:
        """Ask the hypervisor for what was written; what has no answer when the connection ends is asked again."""
        for domid in self._bridge.written():
            self._follower.check_in.here()
            try:
                decision = self._bridge.judge(await client.info(domid))
            except NoSuchDomain:
                # It goes from the store, with what was written, with the next look.
                continue
            match decision:
                case TargetRequest():
                    await self._set_target(client, decision)
                case Refusal(_, written, reason):
                    self._refused(domid, "target", written=repr(written[:40]), reason=reason)

    async def _stop_guests(self, client: Client) -> None:
        """Have the guests stop that were asked to, by what was written."""
        for asked in self._bridge.shutdowns():
            self._follower.check_in.here()
            domid = asked.domid
            if isinstance(asked, Refusal):
                self._refused(domid, "shutdown", written=repr(asked.written[:40]), reason=asked.reason)
                continue
            try:
                await client.shutdown(domid, asked.reason)
            except HypercallError as error:
                self._bridge.not_begun(asked)
                self._refused(domid, "shutdown", reason=str(error))
            else:
                self._bridge.begun(asked)
                self._server.deliver()

    async def _rename_guests(self, client: Client) -> None:
        """Have the guests called as was written; one that may not be called so keeps its name."""
        for domid, name in self._bridge.renames():
            self._follower.check_in.here()
            try:
                await client.rename(domid, name)
            except HypercallError as error:
                self._bridge.keeps_name(domid)
                self._server.deliver()
                self._refused(domid, "name", reason=str(error))

    async def _set_target(self, client: Client, request: TargetRequest) -> None:
        domid, pages = request.domid, request.pages
        self._asked.add(domid)
        try:
            await client.set_target(domid, pages)
        except HypercallError as error:
            # Its limit was lowered, or it has gone, since it was last looked at.
            self._bridge.refused(request)
            self._refused(domid, "target", pages=pages, reason=str(error))
        else:
            self._bridge.agreed(request)
            self._server.log_of(domid).info(trio.current_time(), "xenstore_target", domid=domid, pages=pages)

    def _refused(self, domid: int, what: str, **details: object) -> None:
        """Log that nothing comes of what was written: rarely, for who may write it may do so without end."""
        log = self._server.log_of(domid)
        log.warning(trio.current_time(), f"xenstore_{what}_refused", domid=domid, **details)


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
