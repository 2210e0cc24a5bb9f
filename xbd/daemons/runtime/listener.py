"""A listening socket and its peers: how many at once, how often, and what is said of those who did not get in.

Every daemon's accept loop is this one. It outlives whatever it listens on: the socket may be closed at
any time, before the loop's first step, while it waits, or in the middle of one, and the loop just ends.
What goes wrong with accepting is logged and tried again.

Nobody holds a place by silence. Where all are taken, whoever comes waits in the socket's queue until some idle peer's time
is up (`Transport.place`), and gets the place of the one that has been idle for longest. Where none is idle it is refused.
At a listener where even those *yield* who have something kept here (a session, a subscription, answers that they do not
read), that is one of the user's who has most places, so that whoever takes more and more of them takes his own.
"""

import os
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog
import trio

from xbd.control.rate_limit import DEAD_AT_ONCE, DEAD_PER_S, SourceLog, TokenBucket
from xbd.daemons.runtime import sockets
from xbd.daemons.runtime.check_in import CheckIn
from xbd.daemons.runtime.outside import calls
from xbd.daemons.runtime.transport import Transport
from xbd.errors import ConfigError
from xbd.replaceable import replaceable

_log = structlog.get_logger(__name__)

# Accepting that fails would fail again at once; it pauses until, say, some peer may have left its descriptor.
ACCEPT_PAUSE_S: Final = 0.5
# For how long a peer may be idle while others wait for its place. A peer that has just come says hello within it, and one
# that makes a call every now and then loses its place only where others hold theirs by doing the same.
IDLE_S: Final = 1.0

ServePeer = Callable[[Transport, SourceLog], Awaitable[None]]


@dataclass(slots=True, eq=False)
class Listener:
    """A listening socket, its peers, and the scopes that end accepting, and all of it.

    Attributes:
        path, bound: the listening socket, owned from here on.
        max_peers: how many at once.
        serve_peer: serves one who came in, until it leaves; it closes the transport in the end.
        patience_s: how long a peer may leave its answers unread.
        anybody: let in whoever could connect; else this user and root alone.
        passed: the socket's file is somebody else's, and stays; else it must be there.
        yields: whether nobody keeps a place for ever, whatever is kept for him here.
        admission: how often one may come in at a guest's socket; None at the toolstack's. Who is gone again takes nothing of it.
        names: what each log line about it says, beside the socket's path.
        shared_lines: what this listener and others of its kind may have logged together.
        log: where it is said who did not get in, and who was dropped: a few lines of each listener.
    """

    path: Path
    bound: socket.socket
    max_peers: int
    serve_peer: ServePeer
    patience_s: float
    anybody: bool = False
    passed: bool = False
    yields: bool = False
    admission: TokenBucket | None = None
    names: Mapping[str, object] = field(default_factory=dict)
    shared_lines: TokenBucket | None = None
    log: SourceLog = field(init=False)
    transports: set[Transport] = field(default_factory=set)
    accepting: trio.CancelScope = field(default_factory=trio.CancelScope)
    everything: trio.CancelScope = field(default_factory=trio.CancelScope)
    _dead: TokenBucket = field(default_factory=lambda: TokenBucket(DEAD_AT_ONCE, DEAD_PER_S))
    _peer_left: trio.Event = field(default_factory=trio.Event)
    _file: os.stat_result | None = field(init=False)

    def __post_init__(self) -> None:
        self.log = SourceLog(_log, self.shared_lines, socket=str(self.path), **self.names)
        try:
            self._file = None if self.passed else self.path.lstat()
        except OSError as error:
            sockets.close(self.bound)
            raise ConfigError(
                self.path, "", f"the socket was removed as soon as it was bound: {error.strerror}"
            ) from error

    async def serve(self) -> None:
        """Accept and serve peers until `accepting` is cancelled and all have left, or `everything` is."""
        with self.everything:
            async with trio.open_nursery() as peers:
                with self.accepting, CheckIn(f"accept at {self.path}").watched() as check_in:
                    await self._accept_for_ever(peers, check_in)
        for transport in tuple(self.transports):
            transport.close()

    async def _accept_for_ever(self, peers: trio.Nursery, check_in: CheckIn) -> None:
        """Let peers in until the listening socket is closed, by whomever."""
        while True:
            try:
                with check_in.idle():
                    await sockets.until_readable(self.bound)
                await self._until_admitted()
                await self._until_there_is_a_place()
                connection, _ = calls.accept(self.bound)
            except trio.ClosedResourceError:
                return
            except (BlockingIOError, ConnectionAbortedError):
                continue
            except (OSError, MemoryError) as error:
                if self.bound.fileno() < 0:
                    return
                event = "descriptors_exhausted" if sockets.is_out_of_descriptors(error) else "accept_failed"
                self.log.warning(trio.current_time(), event, error=getattr(error, "strerror", "no memory left"))
                await trio.sleep(ACCEPT_PAUSE_S)
                continue
            try:
                connection.settimeout(0)
                if not self._is_dead(connection):
                    self._admit(connection, peers)
            except BaseException:
                # Nobody else knows of it yet.
                connection.close()
                raise

    # -- admission

    async def _until_admitted(self) -> None:
        """Wait until one more may come in, and one more that is dead may be looked at."""
        if self.admission is not None:
            now = trio.current_time()
            await trio.sleep(max(self.admission.wait_s(now), self._dead.wait_s(now)))

    def _is_dead(self, connection: socket.socket) -> bool:
        """Close a connection whose peer has left already; it takes no permit. Another one takes its permit here."""
        if self.admission is None:
            return False
        now = trio.current_time()
        if sockets.has_left(connection):
            connection.close()
            self._dead.take(now)
            return True
        self.admission.take(now)
        return False

    async def _until_there_is_a_place(self) -> None:
        """Wait for a peer to leave or to have been idle for long enough, if there is one that may."""
        waited_until = trio.current_time() + IDLE_S
        while len(self.transports) >= self.max_peers:
            places = Counter(transport.place.uid for transport in self.transports)
            quiet = [(one, since_s) for one in self.transports if (since_s := self._quiet_since_s(one)) is not None]
            if not quiet:
                return
            # Of the user who has most places, and of his one that keeps nothing here; of several the one idle for longest.
            first, since_s = max(quiet, key=lambda one: (places[one[0].place.uid], not one[0].place.is_held, -one[1]))
            ripe_at = min(since_s + IDLE_S, waited_until)
            if trio.current_time() >= ripe_at:
                self._give_place_away(first, places[first.place.uid])
                return
            self._peer_left = trio.Event()
            with trio.move_on_at(ripe_at):
                await self._peer_left.wait()
        # The socket may have been closed meanwhile; accepting from it says so.

    def _quiet_since_s(self, transport: Transport) -> float | None:
        return transport.place.quiet_since_s(may_be_held=self.yields)

    def _give_place_away(self, transport: Transport, of_its_user: int) -> None:
        whose = f", {of_its_user} of them by user {transport.place.uid}, whose it is" if self.yields else ""
        transport.give_place_away(
            f"it was idle, and another one came when all {self.max_peers} places were taken{whose}"
        )
        self.transports.discard(transport)

    def _admit(self, connection: socket.socket, peers: trio.Nursery) -> None:
        if len(self.transports) >= self.max_peers or not (self.anybody or sockets.is_permitted(connection)):
            uid, peers_here = sockets.peer_of(connection)[1], len(self.transports)
            self.log.warning(trio.current_time(), "peer_refused", uid=uid, peers=peers_here)
            connection.close()
            return
        transport = Transport(connection, patience_s=self.patience_s)
        transport.place.idle_since_s = trio.current_time()
        if self.yields:
            transport.place.uid = sockets.peer_of(connection)[1]
        self.transports.add(transport)
        peers.start_soon(self._serve_peer, transport)

    async def _serve_peer(self, transport: Transport) -> None:
        try:
            # Its domain may have gone after it had come in, and before its first turn.
            if not self.everything.cancel_called:
                await self.serve_peer(transport, self.log)
        finally:
            transport.close()
            self.transports.discard(transport)
            self._peer_left.set()

    # -- the end

    @replaceable
    def close(self) -> None:
        """End it at once: no new peers, no old ones, no file, unless that is somebody else's by now."""
        self.everything.cancel()
        sockets.close(self.bound)
        if self._file is None:
            return
        try:
            if os.path.samestat(self.path.lstat(), self._file):
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
