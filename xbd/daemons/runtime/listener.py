"""A listening socket and who came in by it: how many at once, how often, and what is said of those who did not get in.

Every daemon's accept loop is this one. It outlives whatever it listens on: the socket may be closed at
any time, before the loop's first step, while it waits, or in the middle of one, and the loop just ends.
What goes wrong with accepting is logged and tried again.
"""

import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog
import trio

from xbd.control.rate_limit import Allowance, SourceLog
from xbd.daemons.runtime import sockets
from xbd.daemons.runtime.outside import calls
from xbd.daemons.runtime.peers import SocketTransport

_log = structlog.get_logger(__name__)

# Accepting that fails would fail again at once; it pauses until, say, some peer may have left its descriptor.
ACCEPT_PAUSE_S: Final = 0.5


@dataclass(slots=True, eq=False)
class Door:
    """A listening socket, who came in by it, and the scopes that end accepting, and all of it.

    Attributes:
        path, listener: the bound socket, owned from here on.
        max_peers: more at once are closed as they come.
        serve_peer: serves one who came in, until it leaves; it closes the transport in the end.
        patience_s: how long a peer may leave its answers unread.
        anybody: let in whoever could connect; else this user and root alone.
        passed: the socket's file is somebody else's, and stays.
        admission: how often one may come in by a guest's door; None at the toolstack's.
        names: what each log line about it says, beside the socket's path.
        log: where it is said who did not get in, and who was dropped: a few lines of each door.
    """

    path: Path
    listener: socket.socket
    max_peers: int
    serve_peer: Callable[[SocketTransport, SourceLog], Awaitable[None]]
    patience_s: float
    anybody: bool = False
    passed: bool = False
    admission: Allowance | None = None
    names: Mapping[str, object] = field(default_factory=dict)
    log: SourceLog = field(init=False)
    transports: set[SocketTransport] = field(default_factory=set)
    accepting: trio.CancelScope = field(default_factory=trio.CancelScope)
    everything: trio.CancelScope = field(default_factory=trio.CancelScope)

    def __post_init__(self) -> None:
        self.log = SourceLog(_log, socket=str(self.path), **self.names)

    async def serve(self) -> None:
        """Accept and serve peers until `accepting` is cancelled and all have left, or `everything` is."""
        with self.everything:
            async with trio.open_nursery() as peers:
                with self.accepting:
                    await self._accept(peers)
        for transport in tuple(self.transports):
            transport.close()

    async def _accept(self, peers: trio.Nursery) -> None:
        """Let peers in until the listening socket is closed, by whomever."""
        while True:
            try:
                await sockets.until_readable(self.listener)
                if self.admission is not None:
                    await trio.sleep(self.admission.wait_s(trio.current_time()))
                connection, _ = calls.accept(self.listener)
            except trio.ClosedResourceError:
                return
            except (BlockingIOError, ConnectionAbortedError):
                continue
            except OSError as error:
                if self.listener.fileno() < 0:
                    return
                event = "descriptors_exhausted" if sockets.is_out_of_descriptors(error) else "accept_failed"
                self.log.warning(trio.current_time(), event, error=error.strerror)
                await trio.sleep(ACCEPT_PAUSE_S)
                continue
            if self.admission is not None:
                self.admission.take(trio.current_time())
            self._admit(connection, peers)

    def _admit(self, connection: socket.socket, peers: trio.Nursery) -> None:
        connection.settimeout(0)
        if len(self.transports) >= self.max_peers or not (self.anybody or sockets.is_permitted(connection)):
            uid, peers_here = sockets.peer_uid(connection), len(self.transports)
            self.log.warning(trio.current_time(), "peer_refused", uid=uid, peers=peers_here)
            connection.close()
            return
        transport = SocketTransport(connection, patience_s=self.patience_s)
        self.transports.add(transport)
        peers.start_soon(self._serve_peer, transport)

    async def _serve_peer(self, transport: SocketTransport) -> None:
        try:
            # Its domain may have gone after it had come in, and before its first turn.
            if not self.everything.cancel_called:
                await self.serve_peer(transport, self.log)
        finally:
            transport.close()
            self.transports.discard(transport)

    def close(self) -> None:
        """End it at once: no new peers, no old ones, no file, unless it was passed by somebody who keeps it."""
        self.everything.cancel()
        sockets.close(self.listener)
        if not self.passed:
            try:
                calls.unlink(self.path)
            except FileNotFoundError:
                pass
            except OSError as error:
                # A file that stays is replaced by who listens there next.
                self.log.warning(trio.current_time(), "socket_not_removed", error=error.strerror)

    def finish(self) -> None:
        """Accept nobody any more; those who are here get the answers to what they have sent."""
        self.accepting.cancel()
        for transport in self.transports:
            transport.finish()
