"""The autoballoon daemon: a toolstack client that moves memory between domains by itself.

It looks at the host every so often, lets the policy decide (`balancer`), and tells the hypervisor. Its
own socket, `autoballoon.sock` beside the hypervisor's, is where `xbd reserve` asks for memory to be freed
and held; whoever may use the hypervisor's socket may use this one. It keeps nothing that matters: killed at any moment it leaves the host as it is, and the next
one begins from what the host says; reservations end with it, as they do with the clients that took them.
"""

from pathlib import Path

import structlog
import trio

from xbd.client.calls import KnownDomains
from xbd.client.client import Client
from xbd.client.runtime_dir import autoballoon_socket, check_socket_path
from xbd.config.autoballoon import AutoballoonConfig
from xbd.control.balancer import Balancer, BalancerEndpoint, managed_domains
from xbd.control.rate_limit import SourceLog
from xbd.daemons.config_files import load_autoballoon_config
from xbd.daemons.runtime import sockets
from xbd.daemons.runtime.listener import Listener
from xbd.daemons.runtime.lock import FileLock
from xbd.daemons.runtime.peers import converse
from xbd.daemons.runtime.reconnect import Follower
from xbd.daemons.runtime.service import Service, run_service
from xbd.daemons.runtime.transport import Transport
from xbd.errors import ConfigError, HypercallError
from xbd.limits import LIMITS, Limits
from xbd.policy.model import Action, SetMax, SetTarget

_log = structlog.get_logger(__name__)


class Autoballoon:
    """The daemon of one hypervisor.

    Args:
        hypervisor_path: the hypervisor's socket.
        config: what the policy may do.
        limits: of those who reserve memory.
    """

    def __init__(self, hypervisor_path: Path, config: AutoballoonConfig, limits: Limits = LIMITS) -> None:
        self._path = hypervisor_path
        self._listener: Listener | None = None
        self._unshared = ""
        self._config = config
        self._limits = limits
        self._balancer = Balancer(config.settings)
        self._known = KnownDomains()
        self._follower = Follower("hypervisor", socket=str(hypervisor_path))

    def reload(self, config: AutoballoonConfig) -> None:
        """Go on by another configuration; reservations stay."""
        self._config = config
        self._balancer.change(config.settings)

    def permit(self) -> None:
        """Let those reserve who may use the hypervisor's socket, as things are now; what hinders it is logged once."""
        listener = self._listener
        if listener is None:
            return
        try:
            # With a group the file's mode decides: SO_PEERCRED does not tell supplementary groups.
            listener.anybody, unshared = sockets.permit_like(listener.path, self._path), ""
        except ConfigError as error:
            listener.anybody, unshared = False, str(error)
        if unshared and unshared != self._unshared:
            _log.warning("socket_not_shared", reason=unshared)
        self._unshared = unshared

    async def balance(self) -> None:
        """Look and act for ever, through the hypervisor's restarts."""
        await self._follower.follow_hypervisor(self._path, self._session, client="autoballoon")

    async def _session(self, client: Client) -> None:
        while True:
            await self._look(client)
            # A long interval is the configuration's, and no sign of hanging.
            with self._follower.check_in.idle():
                await trio.sleep(self._config.interval_s)

    async def _look(self, client: Client) -> None:
        # Its group may be another since the last look: a hypervisor that was started again, or has reloaded its file.
        self.permit()
        self._known.take(await client.changes(self._known.since))
        domains = managed_domains(self._known.domains, self._config.domains)
        snapshot = self._balancer.snapshot(await client.host(), domains)
        for action in self._balancer.step(snapshot, trio.current_time()):
            self._follower.check_in.here()
            await _act(client, action)

    def open_listener(self, path: Path) -> Listener:
        """Listen for those who reserve memory: whoever may use the hypervisor's socket. Raises ConfigError: it cannot be bound."""
        limits = self._limits
        self._listener = Listener(
            path, sockets.bind_unix(path), limits.reservers, self._serve_peer, limits.toolstack_patience_s
        )
        self.permit()
        return self._listener

    async def _serve_peer(self, transport: Transport, log: SourceLog) -> None:
        await converse(transport, lambda wake: BalancerEndpoint(self._balancer, wake), log=log)


async def _act(client: Client, action: Action) -> None:
    """Tell the hypervisor one thing. What it refuses, the next look sees: the domain may be gone."""
    try:
        match action:
            case SetTarget(domid, pages):
                await client.set_target(domid, pages)
            case SetMax(domid, pages):
                await client.set_max(domid, pages)
    except HypercallError as error:
        _log.warning("refused", domid=action.domid, pages=action.pages, reason=str(error))


def lock(path: Path) -> FileLock:
    """Keep a second daemon off this hypervisor. Raises ConfigError: one runs, or there is no such directory."""
    lock_path = path.with_suffix(".lock")
    try:
        return FileLock(lock_path)
    except BlockingIOError as error:
        raise ConfigError(path.parent, "", "another `xbd autoballoon` minds this host; stop it first") from error
    except OSError as error:
        raise ConfigError(lock_path, "", f"cannot be locked: {error.strerror}; is a hypervisor there?") from error


async def run_autoballoon(
    hypervisor_path: Path, config: AutoballoonConfig, config_path: Path | None, limits: Limits = LIMITS
) -> int:
    """Be the daemon until SIGTERM or SIGINT; SIGHUP reads *config_path* again. Returns the exit code.

    Raises:
        ConfigError: another one runs, or the socket cannot be bound.
    """
    path = check_socket_path(autoballoon_socket(hypervisor_path.parent))
    daemon = Autoballoon(hypervisor_path, config, limits)

    async def start(service: Service) -> int:
        held = lock(path)
        listener: Listener | None = None
        try:
            listener = daemon.open_listener(path)
            _log.info("autoballoon_ready", socket=str(path), balance=config.settings.balance.value)
            async with service.ready(lambda: "balancing") as nursery:
                nursery.start_soon(listener.serve)
                await daemon.balance()
        finally:
            if listener is not None:
                listener.close()
            held.release()
        return 0

    async def reload() -> None:
        if config_path is None:
            _log.warning("nothing_to_reload", reason="started without --config")
            return
        daemon.reload(load_autoballoon_config(config_path))
        _log.info("reloaded", config=str(config_path))

    code = await run_service(start, reload=reload)
    _log.info("autoballoon_stopped")
    return code
