"""The agent processes: `xbd guests` plays every guest that wants an agent, or a share of them, `xbd guest NAME` one.

An agent host follows the hypervisor's events, but only as hints to look at the list of domains
again: what is to be done follows from how things are, not from what happened, so nothing that is
missed (a restart, a lost connection) can leave a domain without its agent.

A guest here is a task with one connection. When the connection is lost, it tries again with growing
pauses and resumes its session; agents of a killed process are gone with it, and the domains boot
again when another process takes them on.
"""

import contextvars
import math
import os
import socket
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog
import trio

from xbd.client.calls import KnownDomains
from xbd.client.client import Client, open_client
from xbd.client.discovery import NoHypervisor, NoPermission, explain_connect
from xbd.client.runtime_dir import check_socket_path, domain_socket
from xbd.control.agent import Agent
from xbd.control.agent_share import EVERY_GUEST, AgentShare
from xbd.control.guest_settings import guest_from_map
from xbd.daemons.agent_processes import FAREWELL, NOTHING_TO_RELOAD, describe_agents
from xbd.daemons.runtime import sockets
from xbd.daemons.runtime.deadlines import Deadlines, Party
from xbd.daemons.runtime.outside import calls
from xbd.daemons.runtime.peers import Alarm
from xbd.daemons.runtime.reconnect import Follower
from xbd.daemons.runtime.service import Service, run_service
from xbd.daemons.runtime.transport import Transport
from xbd.daemons.trace_files import TraceFiles
from xbd.domain import DomainInfo, is_about
from xbd.errors import Busy, HypercallError, NoSuchDomain, PeerLost, TraceError, XbdError

_log = structlog.get_logger(__name__)

# A burst of events is answered by one look.
LOOK_PAUSE_S: Final = 0.05
# A domain's socket that may not be opened, a trace that cannot be played: who mends it is a person.
MENDED_BY_A_PERSON_PAUSE_S: Final = 30.0
# What an agent process has open beside its guests' connections.
DESCRIPTORS_APART: Final = 32
_HINTS: Final = frozenset({"created", "destroyed", "agent_lost", "shutdown", "started"})
# The levels of guests' notes, as of `logging`; the others are for who debugs.
_LEVELS: Final = {
    **dict.fromkeys(("content_errors", "io_mismatches"), 40),
    **dict.fromkeys(("no_headroom", "demand_unmet", "trace_gaps"), 30),
    **dict.fromkeys(("shutdown", "mode"), 20),
}
_DEBUG: Final = 10


def _new_session() -> str:
    return str(uuid.uuid4())


def _connect(path: Path) -> Transport:
    """Connect to a domain's socket. Raises NoHypervisor: nobody is there, or not yet, or no descriptor is left."""
    try:
        connection = calls.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    except OSError as error:
        raise explain_connect(path, error) from error
    outcome = calls.connect(connection, os.fspath(path))
    if outcome:
        connection.close()
        raise explain_connect(path, OSError(outcome, os.strerror(outcome)))
    return Transport(connection)


class _Carrier:
    """Carries bytes between an agent and one connection; its deadlines are kept with those of all agents of the process."""

    def __init__(self, agent: Agent, transport: Transport, deadlines: Deadlines) -> None:
        self._agent = agent
        self._transport = transport
        self._deadlines = deadlines
        self._party = Party(self._due)
        # What is logged when a deadline comes is logged as by the guest's own task.
        self._context = contextvars.copy_context()
        self._receiving = trio.CancelScope()

    async def carry(self, found: Callable[[], None]) -> None:
        """Carry until the guest has finished; *found* is called when it is let in.

        Raises:
            PeerLost: the connection ended.
            HypercallError: hello was refused.
            RemoteProtocolError: the hypervisor does not keep to the protocol.
        """
        try:
            outgoing = self._agent.connected()
            is_in = False
            while True:
                if outgoing or not self._transport.is_clear:
                    await self._transport.send(outgoing)
                if self._agent.finished:
                    return
                self._deadlines.set(self._party, self._agent.deadline)
                received = b""
                with trio.CancelScope() as self._receiving:
                    received = await self._transport.receive()
                if self._receiving.cancelled_caught:
                    outgoing = b""
                    continue
                if not received:
                    raise PeerLost("the hypervisor closed the connection")
                outgoing = self._step(partial(self._agent.receive, received))
                if not is_in:
                    is_in = True
                    found()
        finally:
            self._deadlines.set(self._party, None)

    def _due(self) -> None:
        """Do what the agent's deadline asks for; who waits to send something looks at it again later."""
        if not self._transport.is_clear:
            return
        outgoing = self._context.run(self._step, self._agent.tick)
        if outgoing:
            # A connection that is lost is noticed where it is read.
            with suppress(PeerLost):
                self._transport.post(outgoing)
        if self._agent.finished or not self._transport.is_clear:
            self._receiving.cancel()
        self._deadlines.set(self._party, self._agent.deadline)

    def _step(self, step: Callable[[float], bytes]) -> bytes:
        """Let the agent do something, note what processor time it took, and log its notes; returns what to send."""
        agent, start_s = self._agent, time.thread_time()
        outgoing = step(trio.current_time())
        agent.cpu_s = (agent.cpu_s or 0.0) + time.thread_time() - start_s
        for note in agent.take_notes():
            _log.log(_LEVELS.get(note.name, _DEBUG), f"guest_{note.name}", **note.fields)
        return outgoing


async def live(directory: Path, domain: DomainInfo, deadlines: Deadlines, traces: TraceFiles) -> None:
    """Play the guest of one domain until it shuts down; over any number of connections. Somebody runs the *deadlines*.

    Raises:
        TraceError: the trace that it is to play cannot be played.
        Busy: another agent plays it.
        NoSuchDomain: it is gone, and its number is another domain's.
        HypercallError: the hypervisor will not have it, whatever we do.
    """
    structlog.contextvars.bind_contextvars(domid=domain.domid)
    path = domain_socket(directory, domain.domid)
    find_trace = await traces.load(domain.guest, domain.gfn_count)
    agent = Agent(_new_session, partial(guest_from_map, find_trace=find_trace), uuid=domain.uuid)

    def is_final(error: XbdError) -> bool:
        # Once it plays, it stays: the daemon may not have noticed yet that our own last connection is gone (Busy).
        is_refused = isinstance(error, HypercallError) and agent.guest is None
        return is_refused or isinstance(error, NoPermission | NoSuchDomain)

    follower = Follower("connection", every_s=math.inf, is_final=is_final, greets=False)

    async def attempt() -> None:
        if agent.finished:
            # Its last word was lost with the connection; the daemon sees that it has gone.
            return
        transport = _connect(path)
        try:
            await _Carrier(agent, transport, deadlines).carry(follower.found)
        except HypercallError as error:
            if is_final(error) or isinstance(error, Busy):
                raise
            _log.warning("session_refused", reason=str(error))
            agent.forget()
            raise PeerLost(f"the session was refused: {error}") from error
        except trio.Cancelled:
            # Ended in order: what becomes of a guest that crashes is not for this one.
            transport.send_last(agent.leaving())
            raise
        finally:
            transport.close()

    await follower.follow(attempt)


class AgentHost:
    """Runs an agent for each domain of a share that wants one and has none, if its name is like the pattern *only*."""

    def __init__(
        self, socket_path: Path, nursery: trio.Nursery, only: str = "*", share: AgentShare = EVERY_GUEST
    ) -> None:
        self._socket = socket_path
        self._only = only
        self._share = share
        self._nursery = nursery
        # By domid, of which domain each is.
        self._agents: dict[int, tuple[str, trio.CancelScope]] = {}
        self._traces = TraceFiles()
        self._known = KnownDomains()
        self._news = Alarm()
        self._deadlines = Deadlines()
        self._follower = Follower("hypervisor", changed=self._changed, socket=str(socket_path))
        self._hypervisor = "looking for the hypervisor"
        # Rings when `describe` may have something else to say.
        self.changed = Alarm()

    def describe(self) -> str:
        """Say in a line how things are."""
        return describe_agents(len(self._agents), self._hypervisor)

    def _changed(self) -> None:
        self._hypervisor = f"{'connected to' if self._follower.is_found else 'trying again to reach'} the hypervisor"
        self.changed.ring()

    async def follow(self) -> None:
        """Follow the hypervisor for ever, through its restarts."""
        self._nursery.start_soon(self._deadlines.run)
        await self._follower.follow_hypervisor(self._socket, self._session)

    async def _session(self, client: Client) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, client)
            self._news.ring()
            while True:
                with self._follower.check_in.idle():
                    await self._news.wait()
                await self._look(client)
                await trio.sleep(LOOK_PAUSE_S)

    async def _listen(self, client: Client) -> None:
        async with _events(client) as events:
            async for event in events:
                if event.get("event") in _HINTS:
                    self._news.ring()

    async def _look(self, client: Client) -> None:
        """Start and end agents so that they fit the domains."""
        self._known.take(await client.changes(self._known.since))
        domains = self._known.by_domid
        for domid, (life, scope) in tuple(self._agents.items()):
            if domid not in domains or domains[domid].life != life:
                scope.cancel()
                del self._agents[domid]
        for domid, domain in domains.items():
            wanted = domain.autostart and self._share.holds(domid) and fnmatchcase(domain.name, self._only)
            if wanted and domain.state == "waiting" and domid not in self._agents:
                scope = trio.CancelScope()
                self._agents[domid] = (domain.life, scope)
                self._nursery.start_soon(self._play, domain, scope)
        self.changed.ring()

    async def _play(self, domain: DomainInfo, scope: trio.CancelScope) -> None:
        structlog.contextvars.bind_contextvars(guest=domain.name)
        with scope:
            try:
                await live(self._socket.parent, domain, self._deadlines, self._traces)
            except (NoPermission, TraceError) as error:
                # Trying again at once would only say so again; somebody may mend it.
                _log.warning("agent_ended", reason=str(error), again_after_s=MENDED_BY_A_PERSON_PAUSE_S)
                await trio.sleep(MENDED_BY_A_PERSON_PAUSE_S)
            except XbdError as error:
                _log.warning("agent_ended", reason=str(error))
        if self._agents.get(domain.domid) == (domain.life, scope):
            del self._agents[domain.domid]
            # It may have become somebody's to play in the meantime.
            self._news.ring()


def _events(client: Client) -> "aclosing[AsyncGenerator[dict[str, Any]]]":
    """Follow the hypervisor's events, in a `with` that ends it."""
    return aclosing(client.events())


async def run_guests(
    socket_path: Path, only: str = "*", share: AgentShare = EVERY_GUEST, *, supervised: bool = False
) -> int:
    """Be the agent host of the hypervisor at *socket_path*, until SIGTERM or SIGINT; returns the exit code.

    Args:
        socket_path: the toolstack's socket.
        only: a shell pattern: whose agents it is for.
        share: which of them, where several processes share them.
        supervised: end with whoever supervises it, too.

    Raises:
        ConfigError: the path is longer than a socket's can be.
    """
    check_socket_path(socket_path)

    async def start(service: Service) -> int:
        limit = sockets.raise_descriptor_limit()
        if share.count > 1:
            structlog.contextvars.bind_contextvars(process=str(share))
        _log.info("guests_ready", socket=str(socket_path), guests_at_most=limit - DESCRIPTORS_APART)
        async with trio.open_nursery() as nursery:
            agents = AgentHost(socket_path, nursery, only, share)
            async with service.ready(agents.describe, agents.changed.wait):
                await agents.follow()
        return 0

    code = await run_service(start, reload=NOTHING_TO_RELOAD, farewell=FAREWELL, supervised=supervised)
    _log.info("guests_stopped")
    return code


async def run_guest(socket_path: Path, name: str, *, wait: bool = False, supervised: bool = False) -> int:
    """Play the guest of the domain called *name* until it shuts down, is destroyed, or a signal comes.

    Args:
        socket_path: the toolstack's socket.
        name: the domain's name.
        wait: stay until the hypervisor can be reached, where it cannot be at first.
        supervised: end with whoever supervises it, too.

    Returns:
        0 when the guest was shut down or a signal ended it, 1 when its domain was destroyed.

    Raises:
        XbdError: there is no such domain, it has an agent, or the hypervisor cannot be reached.
    """
    found: DomainInfo | None = None
    try:
        async with open_client(socket_path) as client:
            found = await client.info(name)
    except (NoHypervisor, PeerLost) as error:
        if not wait or isinstance(error, NoPermission):
            raise
        _log.warning("hypervisor_awaited", guest=name, reason=str(error))

    async def start(service: Service) -> int:
        nonlocal found
        changed = Alarm()

        def describe() -> str:
            return "waits for the hypervisor" if found is None else f"plays {name} (d{found.domid})"

        async with service.ready(describe, changed.wait) as nursery:
            found = found or await _wait_for(socket_path, name)
            changed.ring()
            is_destroyed, deadlines = trio.Event(), Deadlines()
            nursery.start_soon(deadlines.run)
            playing = trio.CancelScope()
            nursery.start_soon(_watch, socket_path, found, is_destroyed, playing)
            with playing:
                try:
                    await live(socket_path.parent, found, deadlines, TraceFiles())
                except NoSuchDomain:
                    # Who watches the domain finds that, too, says so, and ends this.
                    await trio.sleep_forever()
        return 1 if is_destroyed.is_set() else 0

    return await run_service(start, reload=NOTHING_TO_RELOAD, farewell=FAREWELL, supervised=supervised)


def _needs_a_person(error: XbdError) -> bool:
    """Tell whether no attempt mends an error: there is no such domain, or no permission."""
    return isinstance(error, NoSuchDomain | NoPermission)


async def _wait_for(socket_path: Path, name: str) -> DomainInfo:
    """Try until the hypervisor can be asked about a domain. Raises XbdError: there is no such domain, or no permission."""
    follower = Follower("hypervisor", is_final=_needs_a_person, socket=str(socket_path))
    return await follower.follow_hypervisor(socket_path, lambda client: client.info(name))


async def _watch(socket_path: Path, domain: DomainInfo, is_destroyed: trio.Event, playing: trio.CancelScope) -> None:
    """End *playing* when a domain is no more."""
    await _until_destroyed(socket_path, domain)
    _log.warning("domain_destroyed", guest=domain.name, domid=domain.domid)
    is_destroyed.set()
    playing.cancel()


async def _until_destroyed(socket_path: Path, domain: DomainInfo) -> None:
    """Wait until a domain is no more, through restarts of the hypervisor."""

    async def session(client: Client) -> None:
        try:
            if (await client.info(domain.domid)).life != domain.life:
                return
        except NoSuchDomain:
            return
        with follower.check_in.idle():
            async with _events(client) as events:
                async for event in events:
                    if event.get("event") == "destroyed" and is_about(event, domain):
                        return

    follower = Follower("hypervisor", greets=False, socket=str(socket_path))
    await follower.follow_hypervisor(socket_path, session)
