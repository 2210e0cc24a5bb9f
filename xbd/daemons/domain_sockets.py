"""A hypervisor's sockets: the toolstack's, and each domain's, which come and go with their domains."""

import socket
from functools import partial
from pathlib import Path
from typing import Final

import trio

from xbd.client.runtime_dir import domain_socket, hypervisor_socket
from xbd.control.controller import Controller
from xbd.control.endpoint import DomainEndpoint, ToolstackEndpoint
from xbd.control.fair_turns import Share
from xbd.control.rate_limit import CONNECTS_AT_ONCE, CONNECTS_PER_S, SourceLog, TokenBucket, shared_lines
from xbd.daemons.runtime import sockets
from xbd.daemons.runtime.disk_gate import DiskGate
from xbd.daemons.runtime.listener import Listener
from xbd.daemons.runtime.peers import DOMAIN_PATIENCE_S, converse
from xbd.daemons.runtime.state_dir import StateDir
from xbd.daemons.runtime.transport import Transport
from xbd.daemons.runtime.turns import Turns
from xbd.errors import ConfigError, HypercallError, OutOfResources
from xbd.machine import Machine
from xbd.units import counted

# One agent, and a few more that are told EBUSY while they try.
MAX_DOMAIN_PEERS: Final = 4
# Commands of scripts that run at once, followers of events, agent hosts, a policy daemon.
MAX_TOOLSTACK_PEERS: Final = 256
PASSED_SOCKET_S_GROUP: Final = (
    "the socket was passed by the service manager, whose SocketGroup= says who may use it; leave `group` out"
)


class HostSockets:
    """The host's sockets: the toolstack's, and the domains' as `Controller` asks for them."""

    def __init__(self, runtime_dir: Path, state: StateDir | None) -> None:
        self._runtime_dir = runtime_dir
        self._is_saved = state is not None
        # Without a state directory no disk fills up.
        self.disk_gate = None if state is None else DiskGate(lambda: state.is_full)
        self._shared_lines = shared_lines()
        self.turns = Turns()
        self._domains: dict[int, Listener] = {}
        self._toolstack: Listener | None = None
        self.host: Controller | None = None
        self.nursery: trio.Nursery | None = None

    def why_guests_wait(self) -> str:
        """Say why no guest gets its turns; empty while they do."""
        return "" if self.disk_gate is None else self.disk_gate.why_closed

    def _serve(self, listener: Listener) -> Listener:
        assert self.nursery is not None, "a socket was opened before the daemon runs"
        self.nursery.start_soon(listener.serve)
        return listener

    def open_toolstack(self, group: str | None, passed: socket.socket | None) -> None:
        """Listen on the toolstack's socket, the one *passed* if any. Raises ConfigError: it cannot be bound."""
        host = self.host
        assert host is not None, "the toolstack was let in before the daemon was complete"
        path = hypervisor_socket(self._runtime_dir)
        listener = Listener(
            path,
            passed or sockets.bind_unix(path, group=group),
            MAX_TOOLSTACK_PEERS,
            lambda transport, log: converse(transport, lambda wake: ToolstackEndpoint(host, wake), log=log),
            host.machine.limits.toolstack_patience_s,
            # With a group the file's mode decides: SO_PEERCRED does not tell supplementary groups.
            anybody=group is not None or passed is not None,
            passed=passed is not None,
            yields=True,
        )
        self._toolstack = self._serve(listener)

    def permit_group(self, group: str | None) -> None:
        """Let *group*, beside this user and root, use the toolstack's socket. Raises ConfigError: nothing has changed."""
        listener = self._toolstack
        assert listener is not None, "settings were reloaded before the daemon was complete"
        if listener.passed:
            raise ConfigError(listener.path, "group", PASSED_SOCKET_S_GROUP)
        if group is not None:
            sockets.let_group_enter(self._runtime_dir, group)
        sockets.permit_group(listener.path, group)
        listener.anybody = group is not None

    def open(self, domid: int) -> None:
        """Listen on a domain's socket. Raises HypercallError: it cannot be bound, or would not be after a restart."""
        host = self.host
        assert host is not None, "a domain was created before the daemon was complete"
        domains = len(self._domains) + 1
        zombies = len(host.machine.domains()) - len(host.machine.living_domains())
        needed = sockets.descriptors_for(domains, zombies=zombies, saved=self._is_saved)
        sockets.refuse_beyond_descriptors(f"no socket for d{domid}, with {counted(domains, 'domain')}", needed)
        try:
            self._domains[domid] = self._serve(self._listen(host, domid))
        except ConfigError as error:
            if isinstance(error.__cause__, OSError):
                raise OutOfResources.because(f"no socket for d{domid}", error.__cause__) from error
            raise HypercallError(f"no socket for d{domid}: {error}", "a free path", errno="EEXIST") from error

    def _listen(self, host: Controller, domid: int) -> Listener:
        """Listen on a domain's socket. Raises ConfigError."""
        path = domain_socket(self._runtime_dir, domid)
        take_turn = partial(self.turns.take, Share())

        async def serve_peer(transport: Transport, log: SourceLog) -> None:
            await converse(
                transport, lambda wake: DomainEndpoint(host, domid, wake), self.disk_gate, take_turn=take_turn, log=log
            )

        return Listener(
            path,
            sockets.bind_unix(path),
            MAX_DOMAIN_PEERS,
            serve_peer,
            DOMAIN_PATIENCE_S,
            admission=TokenBucket(CONNECTS_AT_ONCE, CONNECTS_PER_S),
            shared_lines=self._shared_lines,
        )

    def close(self, domid: int) -> None:
        """End a domain's socket and its peers."""
        self._domains.pop(domid).close()

    def _all(self) -> list[Listener]:
        return [*([self._toolstack] if self._toolstack else []), *self._domains.values()]

    def finish(self) -> None:
        """Accept nobody any more; those who are here get the answers to what they have sent."""
        for listener in self._all():
            listener.finish()

    def close_all(self) -> None:
        """End all sockets."""
        for listener in self._all():
            listener.close()


def check_descriptors(machine: Machine, new_domains: int, *, saved: bool) -> None:
    """Refuse to begin with more domains, there already or to be made, than there are open files for. Raises ConfigError."""
    sockets.raise_descriptor_limit()
    domains = max(len(machine.living_domains()), new_domains)
    zombies = len(machine.domains()) - len(machine.living_domains())
    needed = sockets.descriptors_for(domains, zombies=zombies, saved=saved)
    try:
        sockets.refuse_beyond_descriptors(f"a host of {counted(domains, 'domain')} is not begun", needed)
    except OutOfResources as error:
        raise ConfigError("limit of open files", "", str(error)) from error
