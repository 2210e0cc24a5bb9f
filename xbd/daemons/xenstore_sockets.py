"""The store's sockets: one for the tools, privileged, and one for each domain, with that domain's rights.

Whoever comes in on a domain's socket is that domain, whatever it says. A connection is served in turn with
the others, a few requests at a time; it is asked for no more while it does not read its answers, and closed
when it leaves more unread than the store lets it (`xbd.xenstore.connections`). Decisions are the store's;
this carries bytes, and has what changed written down before anybody is told.
"""

import errno
import math
import os
import stat
from pathlib import Path
from typing import Final

import structlog
import trio

from xbd.client.runtime_dir import check_socket_path
from xbd.control.rate_limit import CONNECTS_AT_ONCE, CONNECTS_PER_S, SourceLog, TokenBucket, shared_lines
from xbd.daemons.runtime import sockets
from xbd.daemons.runtime.listener import Listener
from xbd.daemons.runtime.outside import calls
from xbd.daemons.runtime.peers import Alarm
from xbd.daemons.runtime.transport import Transport
from xbd.daemons.xenstore_file import StoreFile
from xbd.errors import ConfigError, PeerLost, RemoteProtocolError
from xbd.units import counted
from xbd.xenstore.codec import Decoder
from xbd.xenstore.connections import Connection
from xbd.xenstore.domains import DOM0, Domain
from xbd.xenstore.store import Store

_log = structlog.get_logger(__name__)

# Tools, a policy daemon, a few hundred scripts; each takes a descriptor and what it leaves unread.
MAX_CONNECTIONS: Final = 2000
# A guest has one ring in Xen; its socket may also be held by a tool or two that look on its behalf.
MAX_DOMAIN_CONNECTIONS: Final = 4
# Requests of one connection before others get their turn: half a millisecond.
TURN_REQUESTS: Final = 16
# How long a connection may leave its answers unread; what it may leave is bounded, and its own (`xbd.xenstore.quota`).
_PATIENCE_S: Final = math.inf
_DIRECTORY_MODE: Final = 0o700


class Peer:
    """One connected socket of a server's; *log* is where it is said why it was dropped."""

    def __init__(self, server: "XenstoreServer", transport: Transport, connection: Connection, log: SourceLog) -> None:
        self._server = server
        self._transport = transport
        self.connection = connection
        self._log = log
        self._decoder = Decoder()
        self._blocked = Alarm()
        self._drained = Alarm()
        self._scope = trio.CancelScope()
        transport.place.is_greeted = True
        transport.place.last_word = self._last_word

    async def serve(self) -> None:
        """Serve it until it leaves, breaks the protocol, or has to be closed."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._drain)
                try:
                    await self._receive()
                except RemoteProtocolError as error:
                    self._log.warning(trio.current_time(), "xenstore_peer_dropped", reason=str(error))
                nursery.cancel_scope.cancel()

    async def _receive(self) -> None:
        place = self._transport.place
        while received := await self._transport.receive():
            place.begin_call()
            self._decoder.feed(received)
            while await self._turn():
                pass
            # What it watches for may come at any time, and a transaction of its own is something that it has begun.
            place.end_call(keeps=bool(self.connection.watches or self.connection.transactions))

    async def _turn(self) -> bool:
        """Answer a few requests; says whether there may be more."""
        while self.connection.reason is None and not (self._transport.is_clear and self.connection.may_ask):
            await self._drained.wait()
        if self.connection.reason is not None:
            # Its domain was released while it waited: what it still asks for is nobody's.
            self.drop()
            return False
        for _ in range(TURN_REQUESTS):
            message = self._decoder.next_message()
            if message is None:
                self.flush()
                return False
            self._server.store.handle(self.connection, message)
            self._server.deliver()
            if not self.connection.may_ask:
                break
        self.flush()
        await trio.lowlevel.checkpoint()
        return True

    def flush(self) -> None:
        """Send what waits, as far as that is possible at once; the rest follows when it is."""
        if self.connection.reason is not None:
            self.drop()
            return
        try:
            while self._transport.is_clear and self.connection.has_output:
                self._transport.post(self.connection.take_output())
        except PeerLost:
            # The receiving side hears of it, too.
            self._scope.cancel()
        if not self._transport.is_clear:
            self._blocked.ring()

    async def _drain(self) -> None:
        """Send what could not be sent at once, whenever there is something."""
        while True:
            await self._blocked.wait()
            try:
                while not self._transport.is_clear:
                    await self._transport.drain()
                    self.flush()
            except PeerLost:
                self._scope.cancel()
                return
            self._drained.ring()

    def drop(self) -> None:
        """Close it."""
        if self.connection.reason != "it was closed":
            self._log.warning(trio.current_time(), "xenstore_peer_dropped", reason=self.connection.reason)
        self._scope.cancel()

    def _last_word(self, reason: str) -> bytes:
        """Log that its place was given away: the store's protocol has no message for that."""
        self._log.warning(trio.current_time(), "xenstore_peer_dropped", reason=reason)
        return b""


class XenstoreServer:
    """A store on sockets.

    Args:
        path: of the tools' socket; the domains' are in `domains`, beside it.
        store: what is served.
        file: where it is kept; None: nowhere.
    """

    def __init__(self, path: Path, store: Store, file: StoreFile | None = None) -> None:
        self.store = store
        self.path = check_socket_path(path)
        self._file = file
        self._log = SourceLog(_log, socket=str(path))
        self._shared_lines = shared_lines()
        self._peers: dict[int, Peer] = {}
        self._tools: Listener | None = None
        # Whose each is: a number may go and come again between two looks, and the next domain gets a socket of its own.
        # None where there could be none: that was said, and is not tried again at each request.
        self._domains: dict[int, tuple[Domain, Listener | None]] = {}
        self._nursery: trio.Nursery | None = None

    def deliver(self) -> None:
        """Write down what has changed, tell whom it concerns, and open and close what came and went with domains."""
        if self._file is not None:
            self._file.save()
        if len(self._domains) != len(self.store.domains) - 1:
            self.open_sockets()
        for connection in self.store.take_woken():
            peer = self._peers.get(connection.number)
            if peer is not None:
                peer.flush()
        if self.store.trace.lines:
            self._write_trace()
        while self.store.notes:
            event, keys = self.store.notes.popleft()
            self.log_of(keys.get("domid")).warning(trio.current_time(), event, **keys)

    def _write_trace(self) -> None:
        """Append the traced requests to the file that CONTROL names; where that fails, say so and trace no more."""
        trace = self.store.trace
        now = f"{calls.wall_clock():.3f}"
        text = "".join(f"{now} {line}\n" for line in trace.lines)
        trace.lines.clear()
        try:
            # Not a pipe that nobody reads, nor a device: those would stop the daemon.
            descriptor = calls.open(
                trace.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o600
            )
            try:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise OSError(errno.EINVAL, "it is no file")
                calls.write(descriptor, text.encode(errors="surrogateescape"))
            finally:
                os.close(descriptor)
        except (OSError, ValueError) as error:
            trace.turn(on=False)
            reason = f"the trace of requests ends: {trace.path!r} cannot be written: {error}"
            self._log.warning(trio.current_time(), "xenstore_trace_ended", reason=reason)

    def log_of(self, domid: object) -> SourceLog:
        """Say where it is logged what a domain causes: a few lines of each; what has no socket shares the tools'."""
        listener = self._domains[domid][1] if isinstance(domid, int) and domid in self._domains else None
        if listener is not None:
            return listener.log
        return self._log if self._tools is None else self._tools.log

    def status(self) -> str:
        """Say how things stand, in a line for people."""
        nodes, watched = counted(len(self.store.tree), "node"), counted(len(self.store.watches), "path")
        return f"{nodes}, {counted(len(self._peers), 'connection')}, {watched} watched"

    # -- sockets

    def bind(self) -> Listener:
        """Listen on the tools' socket; the directories are made. Raises ConfigError."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=_DIRECTORY_MODE)
            self.domains_dir.mkdir(exist_ok=True, mode=_DIRECTORY_MODE)
        except OSError as error:
            raise ConfigError(self.domains_dir, "", f"cannot be made: {error.strerror}") from error
        tools = self._listener(self.path, self.store.domains[DOM0])
        try:
            # Who has the tools' socket is alone here. A domain that was never saved may have gone with a daemon's life.
            sockets.remove_leftovers(self.domains_dir)
        except BaseException:
            tools.close()
            raise
        return tools

    def _listener(self, path: Path, domain: Domain) -> Listener:
        """Listen for a domain. Raises ConfigError."""
        domid = domain.domid

        async def serve_peer(transport: Transport, log: SourceLog) -> None:
            await self._serve_peer(domain, transport, log)

        return Listener(
            path,
            sockets.bind_unix(path),
            MAX_DOMAIN_CONNECTIONS if domid else MAX_CONNECTIONS,
            serve_peer,
            _PATIENCE_S,
            admission=TokenBucket(CONNECTS_AT_ONCE, CONNECTS_PER_S) if domid else None,
            # A guest's own connections are all its own, and its kernel's is the one that says least.
            yields=not domid,
            names={"domid": domid},
            shared_lines=self._shared_lines if domid else None,
        )

    @property
    def domains_dir(self) -> Path:
        """Where the domains' sockets are."""
        return self.path.parent / "domains"

    async def serve(self, tools: Listener) -> None:
        """Serve the tools' socket, and the domains', until cancelled; all are closed then."""
        self._tools = tools
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self.open_sockets()
                await tools.serve()
        finally:
            self._nursery = None
            for domid in list(self._domains):
                self._close_socket(domid)
            tools.close()

    def open_sockets(self) -> None:
        """Have a socket for each domain that there is, and none for those that are gone."""
        if self._nursery is None:
            return
        domains = self.store.domains
        for domid in [domid for domid, (domain, _) in self._domains.items() if domains.get(domid) is not domain]:
            self._close_socket(domid)
        for domid in domains.keys() - self._domains.keys() - {DOM0}:
            try:
                listener = self._listener(self.domains_dir / f"{domid}.sock", domains[domid])
            except ConfigError as error:
                _log.error("xenstore_domain_unreachable", domid=domid, reason=str(error))
                self._domains[domid] = (domains[domid], None)
                continue
            self._domains[domid] = (domains[domid], listener)
            self._nursery.start_soon(listener.serve)

    def _close_socket(self, domid: int) -> None:
        _, listener = self._domains.pop(domid)
        if listener is not None:
            listener.close()

    async def _serve_peer(self, domain: Domain, transport: Transport, log: SourceLog) -> None:
        if self.store.domains.get(domain.domid) is not domain:
            # It came in while its domain went: the next one of that number is not its own.
            log.info(trio.current_time(), "xenstore_peer_dropped", reason=f"d{domain.domid} is gone")
            return
        connection = self.store.connect(domain.domid)
        peer = self._peers[connection.number] = Peer(self, transport, connection, log)
        try:
            await peer.serve()
        finally:
            del self._peers[connection.number]
            self.store.disconnect(connection)
