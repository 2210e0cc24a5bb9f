"""The store's sockets: one for the tools, privileged, and one for each domain, with that domain's rights.

Whoever comes in on a domain's socket is that domain, whatever it says. A connection is served in turn with
the others, a few requests at a time; it is asked for no more while it does not read its answers, and closed
when it leaves more unread than the store lets it (`xbd.xenstore.connections`). Decisions are the store's;
this carries bytes, and has what changed written down before anybody is told.
"""

import socket
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog
import trio

from xbd.errors import ConfigError, RemoteProtocolError
from xbd.services import sockets
from xbd.services.peers import Alarm
from xbd.services.runtime_dir import check_socket_path
from xbd.services.xenstore_file import StoreFile
from xbd.units import counted
from xbd.wire.codec import RECEIVE_BYTES
from xbd.xenstore.codec import Decoder
from xbd.xenstore.connections import Connection
from xbd.xenstore.domains import DOM0
from xbd.xenstore.store import Store

_log = structlog.get_logger(__name__)

# Tools, a policy daemon, a few hundred scripts; each takes a descriptor and what it leaves unread.
MAX_CONNECTIONS: Final = 2000
# A guest has one ring in Xen; its socket may also be held by a tool or two that look on its behalf.
MAX_DOMAIN_CONNECTIONS: Final = 4
# Requests of one connection before others get their turn: half a millisecond.
TURN_REQUESTS: Final = 16
# Out of descriptors: accepting would spin.
ACCEPT_PAUSE_S: Final = 0.5
_DIRECTORY_MODE: Final = 0o700


class Peer:
    """One connected socket of a server's."""

    def __init__(self, server: "XenstoreServer", connected: socket.socket, connection: Connection) -> None:
        self._server = server
        self._socket = connected
        self.connection = connection
        self._decoder = Decoder()
        self._rest = b""
        self._blocked = Alarm()
        self._drained = Alarm()
        self._scope = trio.CancelScope()

    async def serve(self) -> None:
        """Serve it until it leaves, breaks the protocol, or has to be closed."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send_rest)
                try:
                    await self._receive()
                except RemoteProtocolError as error:
                    _log.warning("xenstore_peer_dropped", domid=self.connection.domain.domid, reason=str(error))
                nursery.cancel_scope.cancel()

    async def _receive(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            try:
                received = self._socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                continue
            except ConnectionError:
                return
            if not received:
                return
            self._decoder.feed(received)
            while await self._turn():
                pass

    async def _turn(self) -> bool:
        """Answer a few requests; says whether there may be more."""
        while self.connection.reason is None and (self._rest or not self.connection.may_ask):
            await self._drained.wait()
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
        while not self._rest and self.connection.has_output:
            self._rest = self.connection.take_output()
            self._send_some()
        if self._rest:
            self._blocked.ring()

    def _send_some(self) -> None:
        try:
            sent = self._socket.send(self._rest)
        except BlockingIOError:
            return
        except OSError:
            # It is gone; the receiving side hears of it, too.
            self._rest = b""
            self._scope.cancel()
            return
        self._rest = self._rest[sent:]

    async def _send_rest(self) -> None:
        while True:
            await self._blocked.wait()
            while self._rest:
                await trio.lowlevel.wait_writable(self._socket)
                self._send_some()
                self.flush()
            self._drained.ring()

    def drop(self) -> None:
        """Close it."""
        if self.connection.reason != "it was closed":
            domid, reason = self.connection.domain.domid, self.connection.reason
            _log.warning("xenstore_peer_dropped", domid=domid, reason=reason)
        self._scope.cancel()

    def close(self) -> None:
        """Close the socket."""
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()


@dataclass(frozen=True, slots=True, eq=False)
class _Door:
    """A domain's socket, while there is that domain."""

    listener: socket.socket
    path: Path
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    def close(self) -> None:
        """Take it away at once: the next domain of this number gets one of its own."""
        self.scope.cancel()
        trio.lowlevel.notify_closing(self.listener)
        self.listener.close()
        self.path.unlink(missing_ok=True)


class XenstoreServer:
    """A store on sockets.

    Args:
        path: of the tools' socket; the domains' are in `domains`, beside it.
        store: what is served.
        file: where it is kept; None: nowhere.

    Attributes: *bridge*: rung when the bridge's own connection has something to read.
    """

    def __init__(self, path: Path, store: Store, file: StoreFile | None = None) -> None:
        self.store = store
        self.bridge = Alarm()
        self.path = check_socket_path(path)
        self._file = file
        self._peers: dict[int, Peer] = {}
        self._by_domain: dict[int, int] = {}
        # None where there could be none: that was said, and is not tried again at each request.
        self._doors: dict[int, _Door | None] = {}
        self._nursery: trio.Nursery | None = None
        self._open = ExitStack()

    def deliver(self) -> None:
        """Write down what has changed, tell whom it concerns, and open and close what came and went with domains."""
        if self._file is not None:
            self._file.save()
        if len(self._doors) != len(self.store.domains) - 1:
            self.open_doors()
        for connection in self.store.take_woken():
            peer = self._peers.get(connection.number)
            if peer is not None:
                peer.flush()
            else:
                self.bridge.ring()
        while self.store.notes:
            event, keys = self.store.notes.popleft()
            _log.warning(event, **keys)

    def status(self) -> str:
        """Say how things stand, in a line for people."""
        nodes, watched = counted(len(self.store.tree), "node"), counted(len(self.store.watches), "path")
        return f"{nodes}, {counted(len(self._peers), 'connection')}, {watched} watched"

    # -- sockets

    def bind(self) -> socket.socket:
        """Listen on the tools' socket; the directories are made. Raises ConfigError."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=_DIRECTORY_MODE)
            self.domains_dir.mkdir(exist_ok=True, mode=_DIRECTORY_MODE)
        except OSError as error:
            raise ConfigError(self.domains_dir, "", f"cannot be made: {error.strerror}") from error
        listener = sockets.bind_unix(self.path)
        self._open.callback(self.path.unlink, missing_ok=True)
        self._open.enter_context(listener)
        return listener

    @property
    def domains_dir(self) -> Path:
        """Where the domains' sockets are."""
        return self.path.parent / "domains"

    async def serve(self, listener: socket.socket) -> None:
        """Serve the tools' socket, and the domains', until cancelled; all are closed then."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self.open_doors()
                await self._accept(listener, DOM0)
        finally:
            self._nursery = None
            for domid in list(self._doors):
                self._close_door(domid)
            self._open.close()

    def open_doors(self) -> None:
        """Have a socket for each domain that there is, and none for those that are gone."""
        if self._nursery is None:
            return
        for domid in self._doors.keys() - self.store.domains.keys():
            self._close_door(domid)
        for domid in self.store.domains.keys() - self._doors.keys() - {DOM0}:
            path = self.domains_dir / f"{domid}.sock"
            try:
                listener = sockets.bind_unix(path)
            except ConfigError as error:
                _log.error("xenstore_domain_unreachable", domid=domid, reason=str(error))
                self._doors[domid] = None
                continue
            door = self._doors[domid] = _Door(listener, path)
            self._nursery.start_soon(self._serve_domain, door, domid)

    def _close_door(self, domid: int) -> None:
        door = self._doors.pop(domid)
        if door is not None:
            door.close()

    async def _serve_domain(self, door: "_Door", domid: int) -> None:
        with door.scope:
            await self._accept(door.listener, domid)

    async def _accept(self, listener: socket.socket, domid: int) -> None:
        assert self._nursery is not None, "only `serve` accepts"
        while True:
            await trio.lowlevel.wait_readable(listener)
            try:
                connected, _ = listener.accept()
            except OSError as error:
                if sockets.is_out_of_descriptors(error):
                    _log.error("descriptors_exhausted", error=error.strerror)
                    await trio.sleep(ACCEPT_PAUSE_S)
                continue
            connected.settimeout(0)
            most = MAX_DOMAIN_CONNECTIONS if domid else MAX_CONNECTIONS
            here = self._by_domain.get(domid, 0)
            if here >= most or domid not in self.store.domains or not sockets.is_permitted(connected):
                _log.warning("xenstore_peer_refused", domid=domid, uid=sockets.peer_uid(connected), peers=here)
                connected.close()
                continue
            self._by_domain[domid] = here + 1
            self._nursery.start_soon(self._serve_peer, connected, self.store.connect(domid))

    async def _serve_peer(self, connected: socket.socket, connection: Connection) -> None:
        peer = self._peers[connection.number] = Peer(self, connected, connection)
        domid = connection.domain.domid
        try:
            await peer.serve()
        finally:
            del self._peers[connection.number]
            self._by_domain[domid] -= 1
            if not self._by_domain[domid]:
                del self._by_domain[domid]
            self.store.disconnect(connection)
            with suppress(OSError):
                peer.close()
