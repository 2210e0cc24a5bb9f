"""The autoballoon daemon: a toolstack client that moves memory between domains by itself.

It looks at the host every so often, lets the policy decide (`balancer`), and tells the hypervisor. Its
own socket, `autoballoon.sock` beside the hypervisor's, is where `xbd reserve` asks for memory to be freed
and held; whoever may use the hypervisor's socket may use this one. It keeps nothing that matters: killed at any moment it leaves the host as it is, and the next
one begins from what the host says; reservations end with it, as they do with the clients that took them.
"""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import structlog
import trio

from xbd.client.client import Client, open_client
from xbd.client.discovery import NoHypervisor
from xbd.client.runtime_dir import autoballoon_socket, check_socket_path
from xbd.config.autoballoon import AutoballoonConfig
from xbd.control.balancer import Balancer, BalancerEndpoint, managed_domains, snapshot_of
from xbd.control.rate_limit import SourceLog
from xbd.daemons.config_files import load_autoballoon_config
from xbd.daemons.guests import Pauses
from xbd.daemons.runtime import signals, sockets
from xbd.daemons.runtime.listener import Door
from xbd.daemons.runtime.lock import FileLock
from xbd.daemons.runtime.nurseries import plain_errors
from xbd.daemons.runtime.peers import TOOLSTACK_PATIENCE_S, SocketTransport, converse
from xbd.daemons.runtime.sd_notify import ServiceManager
from xbd.errors import ConfigError, HypercallError, PeerLost, ProtocolError
from xbd.policy.model import Action, SetMax, SetTarget

_log = structlog.get_logger(__name__)

# Each may hold a reservation; more are told to come again.
MAX_PEERS: Final = 64


class Autoballoon:
    """The daemon of one hypervisor.

    Args:
        hypervisor_path: the hypervisor's socket.
        config: what the policy may do.
    """

    def __init__(self, hypervisor_path: Path, config: AutoballoonConfig) -> None:
        self._path = hypervisor_path
        self._door: Door | None = None
        self._unshared = ""
        self._config = config
        self._balancer = Balancer(config.settings)

    def reload(self, config: AutoballoonConfig) -> None:
        """Go on by another configuration; reservations stay."""
        self._config = config
        self._balancer.change(config.settings)

    def permit(self) -> None:
        """Let those reserve who may use the hypervisor's socket, as things are now; what hinders it is logged once."""
        door = self._door
        if door is None:
            return
        try:
            # With a group the file's mode decides: SO_PEERCRED does not tell supplementary groups.
            door.anybody, unshared = sockets.permit_like(door.path, self._path), ""
        except ConfigError as error:
            door.anybody, unshared = False, str(error)
        if unshared and unshared != self._unshared:
            _log.warning("socket_not_shared", reason=unshared)
        self._unshared = unshared

    async def balance(self) -> None:
        """Look and act for ever, through the hypervisor's restarts."""
        pauses = Pauses()
        while True:
            try:
                async with open_client(self._path) as client:
                    _log.info("hypervisor_found", socket=str(self._path))
                    pauses.reset()
                    while True:
                        await self._look(client)
                        await trio.sleep(self._config.interval_s)
            except* (PeerLost, ProtocolError, NoHypervisor) as group:
                pauses.lost(group.exceptions[0])
            await pauses.pause()

    async def _look(self, client: Client) -> None:
        # Its group may be another since the last look: a hypervisor that was started again, or has reloaded its file.
        self.permit()
        domains = managed_domains(await client.list(), self._config.domains)
        snapshot = snapshot_of(await client.host(), domains)
        for action in self._balancer.step(snapshot, trio.current_time()):
            await _act(client, action)

    def open_door(self, path: Path) -> Door:
        """Listen for those who reserve memory: whoever may use the hypervisor's socket. Raises ConfigError: it cannot be bound."""
        self._door = Door(path, sockets.bind_unix(path), MAX_PEERS, self._serve_peer, TOOLSTACK_PATIENCE_S)
        self.permit()
        return self._door

    async def _serve_peer(self, transport: SocketTransport, log: SourceLog) -> None:
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


def _reloader(daemon: Autoballoon, manager: ServiceManager, path: Path | None) -> Callable[[], Awaitable[None]]:
    """Make what a SIGHUP does: read the file again; one that is broken changes nothing."""

    async def reload() -> None:
        manager.reloading()
        if path is None:
            _log.warning("nothing_to_reload", reason="started without --config")
        else:
            try:
                daemon.reload(load_autoballoon_config(path))
                _log.info("reloaded", config=str(path))
            except ConfigError as error:
                _log.error("reload_refused", reason=str(error))
        await trio.lowlevel.checkpoint()
        manager.ready("balancing")

    return reload


async def run_autoballoon(hypervisor_path: Path, config: AutoballoonConfig, config_path: Path | None) -> int:
    """Be the daemon until SIGTERM or SIGINT; SIGHUP reads *config_path* again. Returns the exit code.

    Raises:
        ConfigError: another one runs, or the socket cannot be bound.
    """
    path = check_socket_path(autoballoon_socket(hypervisor_path.parent))
    held = lock(path)
    manager = ServiceManager.from_environment(os.environ, os.getpid())
    daemon = Autoballoon(hypervisor_path, config)
    stop = trio.Event()
    door = daemon.open_door(path)
    try:
        with plain_errors(), signals.received() as received:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(door.serve)
                nursery.start_soon(daemon.balance)
                nursery.start_soon(manager.feed)
                nursery.start_soon(signals.heed, received, stop.set, _reloader(daemon, manager, config_path))
                _log.info("autoballoon_ready", socket=str(path), balance=config.settings.balance.value)
                manager.ready("balancing")
                await stop.wait()
                manager.stopping("stopping")
                nursery.cancel_scope.cancel()
    finally:
        door.close()
        held.release()
    _log.info("autoballoon_stopped")
    return 0
