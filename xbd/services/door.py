"""A listening socket and who came in by it: how many at once, how often, and what is said of those who did not get in."""

import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog
import trio

from xbd.services import sockets
from xbd.services.endpoint import Endpoint
from xbd.services.peers import Pace, SocketTransport, converse
from xbd.services.rates import Allowance, SourceLog
from xbd.services.room import Room

_log = structlog.get_logger(__name__)

# Out of descriptors: accepting would spin, so it pauses until some peer may have left.
ACCEPT_PAUSE_S: Final = 0.5


@dataclass(slots=True, eq=False)
class Door:
    """A listening socket, who came in by it, and the scopes that end accepting, and all of it.

    Attributes:
        admission, pace: how often one may come in by a guest's door, and what its turns are paced by; None at the toolstack's.
    """

    path: Path
    listener: socket.socket
    max_peers: int
    make_endpoint: Callable[[Callable[[], None]], Endpoint]
    patience_s: float
    anybody: bool = False
    passed: bool = False
    room: Room | None = None
    admission: Allowance | None = None
    pace: Pace | None = None
    transports: set[SocketTransport] = field(default_factory=set)
    accepting: trio.CancelScope = field(default_factory=trio.CancelScope)
    everything: trio.CancelScope = field(default_factory=trio.CancelScope)
    log: SourceLog = field(init=False)

    def __post_init__(self) -> None:
        self.log = SourceLog(_log, socket=str(self.path))

    async def serve(self) -> None:
        """Accept and serve peers until `accepting` is cancelled and all have left, or `everything` is."""
        with self.everything:
            async with trio.open_nursery() as peers:
                with self.accepting:
                    await self._accept(peers)
        for transport in tuple(self.transports):
            transport.close()

    async def _accept(self, peers: trio.Nursery) -> None:
        while True:
            await trio.lowlevel.wait_readable(self.listener)
            if self.admission is not None:
                await trio.sleep(self.admission.wait_s(trio.current_time()))
                self.admission.take(trio.current_time())
            try:
                connection, _ = self.listener.accept()
            except OSError as error:
                if sockets.is_out_of_descriptors(error):
                    self.log.warning(trio.current_time(), "descriptors_exhausted", error=error.strerror)
                    await trio.sleep(ACCEPT_PAUSE_S)
                continue
            connection.settimeout(0)
            if len(self.transports) >= self.max_peers or not (self.anybody or sockets.is_permitted(connection)):
                uid, peers_here = sockets.peer_uid(connection), len(self.transports)
                self.log.warning(trio.current_time(), "peer_refused", uid=uid, peers=peers_here)
                connection.close()
                continue
            transport = SocketTransport(connection, patience_s=self.patience_s)
            self.transports.add(transport)
            peers.start_soon(self._serve_peer, transport)

    async def _serve_peer(self, transport: SocketTransport) -> None:
        try:
            if self.everything.cancel_called:
                # Its domain was destroyed after it had come in, and before its first turn.
                transport.close()
                return
            await converse(transport, self.make_endpoint, self.room, pace=self.pace, log=self.log)
        finally:
            self.transports.discard(transport)

    def close(self) -> None:
        """End it at once: no new peers, no old ones, no file, unless it was passed by somebody who keeps it."""
        self.everything.cancel()
        trio.lowlevel.notify_closing(self.listener)
        self.listener.close()
        if not self.passed:
            self.path.unlink(missing_ok=True)

    def finish(self) -> None:
        """Accept nobody any more; those who are here get the answers to what they have sent."""
        self.accepting.cancel()
        for transport in self.transports:
            transport.finish()
