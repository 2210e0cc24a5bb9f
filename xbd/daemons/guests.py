"""The agent processes: `xbd guests` plays every guest that wants an agent, `xbd guest NAME` one.

An agent host follows the hypervisor's events, but only as hints to look at the list of domains
again: what is to be done follows from how things are, not from what happened, so nothing that is
missed (a restart, a lost connection) can leave a domain without its agent.

A guest here is a task with one connection. When the connection is lost, it tries again with growing
pauses and resumes its session; agents of a killed process are gone with it, and the domains boot
again when another process takes them on.
"""

import errno
import math
import os
import socket
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

import structlog
import trio

from xbd.client.client import Client, open_client
from xbd.client.discovery import NoHypervisor, NoPermission, explain_connect
from xbd.client.runtime_dir import check_socket_path, domain_socket
from xbd.control.agent import Agent
from xbd.daemons.runtime import signals, sockets
from xbd.daemons.runtime.malloc_trim import trim_now_and_then
from xbd.daemons.runtime.nurseries import plain_errors
from xbd.daemons.runtime.peers import Alarm, SocketTransport
from xbd.daemons.runtime.sd_notify import ServiceManager
from xbd.errors import Busy, HypercallError, NoSuchDomain, PeerLost, ProtocolError, XbdError
from xbd.protocol.views import DomainView
from xbd.units import counted

_log = structlog.get_logger(__name__)

# Pauses between attempts to connect: short at first, for a connection that was cut; never so long that a daemon that has
# restarted waits a second for anybody. A thousand agents that try cost a few per cent of a core.
FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 0.5
# Looking at a thousand domains takes some 20 ms; a burst of events is answered by one look.
LOOK_PAUSE_S: Final = 0.05
# A domain's socket that may not be opened: who mends it is a person.
NO_PERMISSION_PAUSE_S: Final = 30.0
# Guests' deadlines are rounded up to this, so that many guests wake in one pass of the scheduler.
TIMER_GRAIN_S: Final = 0.01
# What an agent process has open beside its guests' connections.
DESCRIPTORS_APART: Final = 32
_HINTS: Final = frozenset({"created", "destroyed", "agent_lost", "shutdown"})
_LEVELS: Final = {
    "content_errors": "error",
    "io_mismatches": "error",
    "no_headroom": "warning",
    "shutdown": "info",
    "mode": "info",
}


class Pauses:
    """Pauses that double up to a longest one, and what is logged meanwhile: why, but not at each try."""

    def __init__(self) -> None:
        self._next_s = FIRST_PAUSE_S
        self._said = ""

    def reset(self) -> None:
        """Begin again with a short one: something worked."""
        self._next_s = FIRST_PAUSE_S
        self._said = ""

    def lost(self, error: BaseException) -> None:
        """Log that the hypervisor cannot be reached, unless that was said already, and for the same reason."""
        reason = str(error)
        if reason != self._said:
            _log.warning("hypervisor_lost", reason=reason)
        self._said = reason

    async def pause(self) -> None:
        """Wait for the next one."""
        pause_s, self._next_s = self._next_s, min(2 * self._next_s, LONGEST_PAUSE_S)
        await trio.sleep(pause_s)


def _new_session() -> str:
    return str(uuid.uuid4())


def _connect(path: Path) -> SocketTransport | None:
    """Connect to a domain's socket; None when nobody is there, or not yet."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    outcome = connection.connect_ex(os.fspath(path))
    if outcome == 0:
        return SocketTransport(connection)
    connection.close()
    if outcome in (errno.ENOENT, errno.ECONNREFUSED, errno.EAGAIN):
        return None
    raise explain_connect(path, OSError(outcome, os.strerror(outcome)))


async def carry(agent: Agent, transport: SocketTransport) -> None:
    """Carry bytes between an agent and its connection until the guest has finished.

    Raises:
        PeerLost: the connection ended.
        HypercallError: hello was refused.
        RemoteProtocolError: the hypervisor does not keep to the protocol.
    """
    outgoing = agent.connected()
    while True:
        if outgoing:
            await transport.send(outgoing)
        if agent.finished:
            return
        received: bytes | None = None
        with trio.move_on_at(_coarse(agent.deadline)):
            received = await transport.receive()
        if received is None:
            outgoing = agent.tick(trio.current_time())
        elif received:
            outgoing = agent.receive(received, trio.current_time())
        else:
            raise PeerLost("the hypervisor closed the connection")
        for note in agent.take_notes():
            _log.log(_level(note.name), f"guest_{note.name}", **note.fields)


def _level(note: str) -> int:
    levels = {"error": 40, "warning": 30, "info": 20}
    return levels.get(_LEVELS.get(note, ""), 10)


def _coarse(deadline: float | None) -> float:
    return math.inf if deadline is None else math.ceil(deadline / TIMER_GRAIN_S) * TIMER_GRAIN_S


async def live(path: Path, domid: int) -> None:
    """Play the guest of one domain until it shuts down; over any number of connections.

    Raises:
        Busy: another agent plays it.
        HypercallError: the hypervisor will not have it, whatever we do.
    """
    structlog.contextvars.bind_contextvars(domid=domid)
    agent = Agent(_new_session)
    pauses = Pauses()
    while not agent.finished:
        transport = _connect(path)
        if transport is None:
            await pauses.pause()
            continue
        try:
            await carry(agent, transport)
        except (PeerLost, ProtocolError) as error:
            _log.warning("connection_lost", reason=str(error))
            await pauses.pause()
        except Busy:
            if agent.guest is None:
                raise
            # The daemon may not have noticed yet that our own last connection is gone.
            await pauses.pause()
        except HypercallError as error:
            if agent.guest is None:
                raise
            _log.warning("session_refused", reason=str(error))
            agent.forget()
        except trio.Cancelled:
            # Ended in order: what becomes of a guest that crashes is not for this one.
            transport.send_last(agent.leaving())
            raise
        finally:
            transport.close()


class AgentHost:
    """Runs an agent for each domain that wants one and has none, if its name is like the pattern *only*."""

    def __init__(self, socket_path: Path, nursery: trio.Nursery, only: str = "*") -> None:
        self._socket = socket_path
        self._only = only
        self._nursery = nursery
        self._agents: dict[int, tuple[str, trio.CancelScope]] = {}
        self._news = Alarm()
        self._hypervisor = "looking for the hypervisor"
        # Rings when `describe` may have something else to say.
        self.changed = Alarm()

    def describe(self) -> str:
        """Say in a line how things are."""
        return f"{counted(len(self._agents), 'agent')}; {self._hypervisor}"

    def _is(self, hypervisor: str) -> None:
        self._hypervisor = hypervisor
        self.changed.ring()

    async def follow(self) -> None:
        """Follow the hypervisor for ever, through its restarts."""
        pauses = Pauses()
        while True:
            try:
                async with open_client(self._socket) as client, trio.open_nursery() as nursery:
                    nursery.start_soon(self._listen, client)
                    pauses.reset()
                    self._is("connected to the hypervisor")
                    self._news.ring()
                    while True:
                        await self._news.wait()
                        await self._look(client)
                        await trio.sleep(LOOK_PAUSE_S)
            except* (PeerLost, ProtocolError, NoHypervisor) as group:
                pauses.lost(group.exceptions[0])
                self._is("trying again to reach the hypervisor")
            await pauses.pause()

    async def _listen(self, client: Client) -> None:
        async with _events(client) as events:
            async for event in events:
                self._hinted(event)

    def _hinted(self, event: Mapping[str, object]) -> None:
        if event.get("event") in _HINTS:
            self._news.ring()

    async def _look(self, client: Client) -> None:
        """Start and end agents so that they fit the domains."""
        domains = {domain.domid: domain for domain in await client.list()}
        for domid, (name, scope) in tuple(self._agents.items()):
            if domid not in domains or domains[domid].name != name:
                scope.cancel()
                del self._agents[domid]
        for domid, domain in domains.items():
            wanted = domain.raw.get("autostart") is True and fnmatchcase(domain.name, self._only)
            if wanted and domain.state == "waiting" and domid not in self._agents:
                scope = trio.CancelScope()
                self._agents[domid] = (domain.name, scope)
                self._nursery.start_soon(self._play, domid, domain.name, scope)
        self.changed.ring()

    async def _play(self, domid: int, name: str, scope: trio.CancelScope) -> None:
        structlog.contextvars.bind_contextvars(guest=name)
        path = domain_socket(self._socket.parent, domid)
        with scope:
            try:
                await live(path, domid)
            except NoPermission as error:
                # Trying again at once would only say so again; somebody may mend it.
                _log.warning("agent_ended", reason=str(error), again_after_s=NO_PERMISSION_PAUSE_S)
                await trio.sleep(NO_PERMISSION_PAUSE_S)
            except XbdError as error:
                _log.warning("agent_ended", reason=str(error))
        if self._agents.get(domid) == (name, scope):
            del self._agents[domid]
            # It may have become somebody's to play in the meantime.
            self._news.ring()


def _events(client: Client) -> "aclosing[AsyncGenerator[dict[str, Any]]]":
    """Follow the hypervisor's events, in a `with` that ends it."""
    return aclosing(client.events())


async def run_guests(socket_path: Path, only: str = "*") -> int:
    """Be the agent host of the hypervisor at *socket_path*, until SIGTERM or SIGINT; returns the exit code.

    Args:
        socket_path: the toolstack's socket.
        only: a shell pattern: whose agents it is for.

    Raises:
        ConfigError: the path is longer than a socket's can be.
    """
    check_socket_path(socket_path)
    limit = sockets.raise_descriptor_limit()
    manager = ServiceManager.from_environment(os.environ, os.getpid())
    _log.info("guests_ready", socket=str(socket_path), guests_at_most=limit - DESCRIPTORS_APART)
    with signals.received() as received:
        async with trio.open_nursery() as nursery:
            agents = AgentHost(socket_path, nursery, only)
            nursery.start_soon(agents.follow)
            await _stay(manager, received, nursery, agents.changed.wait, agents.describe)
    _log.info("guests_stopped")
    return 0


async def _stay(
    manager: ServiceManager,
    received: signals.Signals,
    nursery: trio.Nursery,
    changed: Callable[[], Awaitable[None]],
    describe: Callable[[], str],
) -> None:
    """Tell the service manager how things are until the nursery is cancelled, which a SIGTERM or SIGINT does."""

    def stop() -> None:
        manager.stopping("agents disconnect")
        nursery.cancel_scope.cancel()

    async def reload() -> None:
        manager.reloading()
        _log.warning("nothing_to_reload", reason="agents have no settings of their own; the hypervisor's host file has")
        manager.ready(describe())

    manager.ready(describe())
    nursery.start_soon(manager.feed)
    nursery.start_soon(manager.follow, changed, describe)
    nursery.start_soon(trim_now_and_then)
    await signals.heed(received, stop, reload)


async def run_guest(socket_path: Path, name: str, *, wait: bool = False) -> int:
    """Play the guest of the domain called *name* until it shuts down, is destroyed, or a signal comes.

    Args:
        socket_path: the toolstack's socket.
        name: the domain's name.
        wait: stay until the hypervisor can be reached, where it cannot be at first.

    Returns:
        0 when the guest was shut down or a signal ended it, 1 when its domain was destroyed.

    Raises:
        XbdError: there is no such domain, it has an agent, or the hypervisor cannot be reached.
    """
    found: DomainView | None = None
    try:
        found = await _ask(socket_path, name)
    except (NoHypervisor, PeerLost) as error:
        if not wait or isinstance(error, NoPermission):
            raise
        _log.warning("hypervisor_awaited", guest=name, reason=str(error))
    exit_code = 0
    changed = Alarm()
    manager = ServiceManager.from_environment(os.environ, os.getpid())
    with plain_errors(), signals.received() as received:
        async with trio.open_nursery() as nursery:

            async def play() -> None:
                nonlocal found
                found = found or await _wait_for(socket_path, name)
                changed.ring()
                nursery.start_soon(watch, found)
                await live(domain_socket(socket_path.parent, found.domid), found.domid)
                nursery.cancel_scope.cancel()

            async def watch(domain: DomainView) -> None:
                nonlocal exit_code
                await _until_destroyed(socket_path, domain.name, domain.domid)
                _log.warning("domain_destroyed", guest=name, domid=domain.domid)
                exit_code = 1
                nursery.cancel_scope.cancel()

            def describe() -> str:
                return "waits for the hypervisor" if found is None else f"plays {name} (d{found.domid})"

            nursery.start_soon(play)
            await _stay(manager, received, nursery, changed.wait, describe)
    return exit_code


async def _ask(socket_path: Path, name: str) -> DomainView:
    """Ask the hypervisor about a domain. Raises XbdError: it cannot be reached, or there is no such domain."""
    async with open_client(socket_path) as client:
        return await client.info(name)


async def _wait_for(socket_path: Path, name: str) -> DomainView:
    """Try until the hypervisor can be asked about a domain. Raises XbdError: there is no such domain, or no permission."""
    pauses = Pauses()
    while True:
        try:
            return await _ask(socket_path, name)
        except NoPermission:
            raise
        except (NoHypervisor, PeerLost):
            await pauses.pause()


async def _until_destroyed(socket_path: Path, name: str, domid: int) -> None:
    """Wait until the domain called *name* with number *domid* is no more, through restarts of the hypervisor."""
    pauses = Pauses()
    while True:
        try:
            async with open_client(socket_path) as client:
                pauses.reset()
                if (await client.info(domid)).name != name:
                    return
                gone = ("destroyed", domid, name)
                async with _events(client) as events:
                    async for event in events:
                        if (event.get("event"), event.get("domid"), event.get("name")) == gone:
                            return
        except NoSuchDomain:
            return
        except (PeerLost, ProtocolError, NoHypervisor) as error:
            pauses.lost(error)
        await pauses.pause()
