"""The autoballoon daemon: a toolstack client that moves memory between domains by itself.

It looks at the host every so often, lets the policy decide (`balancer`; a stranger's in a process of its own), and tells
the hypervisor. Its
own socket, `autoballoon.sock` beside the hypervisor's, is where `xbd reserve` asks for memory to be freed
and held; whoever may use the hypervisor's socket may use this one. It keeps nothing that matters: killed at any moment it leaves the host as it is, and the next
one begins from what the host says; reservations end with it, as they do with the clients that took them.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import structlog
import trio

from xbd.client.calls import KnownDomains
from xbd.client.client import Client, open_client
from xbd.client.runtime_dir import autoballoon_socket, check_socket_path
from xbd.config.autoballoon import AutoballoonConfig
from xbd.control.balancer import MAX_EXCLUDED, Balancer, BalancerEndpoint
from xbd.control.rate_limit import SourceLog
from xbd.daemons.config_files import load_autoballoon_config
from xbd.daemons.policy_process import PolicyProcess, policy_of
from xbd.daemons.runtime import sockets
from xbd.daemons.runtime.listener import Listener
from xbd.daemons.runtime.lock import FileLock
from xbd.daemons.runtime.outside import open_to_read
from xbd.daemons.runtime.peers import converse
from xbd.daemons.runtime.reconnect import Follower
from xbd.daemons.runtime.service import Service, run_service
from xbd.daemons.runtime.state_files import write_json
from xbd.daemons.runtime.transport import Transport
from xbd.domain import DomainInfo
from xbd.errors import ConfigError, HypercallError
from xbd.limits import LIMITS, Limits
from xbd.policy.autoballoon import Look
from xbd.policy.model import Action, SetMax, SetTarget, State
from xbd.policy.plugin import Answer

_log = structlog.get_logger(__name__)

# Beside the hypervisor's socket: whom operators have excluded, as long as the run-time directory lives.
EXCLUDED_NAME: Final = "autoballoon.excluded"


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
        self._process: PolicyProcess | None = None
        self._trouble = ""
        self._choose_policy()
        self._known = KnownDomains()
        self._follower = Follower("hypervisor", socket=str(hypervisor_path))
        self._excluded_path = hypervisor_path.with_name(EXCLUDED_NAME)
        self._balancer.excluded = read_excluded(self._excluded_path)
        self._balancer.keep = self._keep_excluded

    def _keep_excluded(self) -> None:
        """Write down who is excluded, for the next daemon; what hinders that is logged."""
        try:
            write_json(self._excluded_path, {"excluded": sorted(self._balancer.excluded)})
        except OSError as error:
            _log.warning("excluded_not_kept", path=str(self._excluded_path), reason=error.strerror)

    def _choose_policy(self) -> None:
        """Take the policy that the configuration names: xbd's own, or a stranger's, of which a process is started when it is asked."""
        config = self._config
        policy = policy_of(config.policy, config.own)
        self._process = policy if isinstance(policy, PolicyProcess) else None
        self._balancer.change(config.settings, policy, config.policy)

    async def reload(self, config: AutoballoonConfig) -> None:
        """Go on by another configuration, with a policy that begins anew; reservations stay."""
        before, self._config = self._process, config
        self._choose_policy()
        if before is not None:
            before.end()

    def end(self) -> None:
        """End the policy's process, if there is one."""
        if self._process is not None:
            self._process.end()

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
        _, actions, _ = await self.decide(self._known.domains, await client.host())
        for action in actions:
            self._follower.check_in.here()
            await _act(client, action)

    async def decide(
        self, domains: Sequence[DomainInfo], host: Mapping[str, object]
    ) -> tuple[State, Sequence[Action], Sequence[DomainInfo]]:
        """Decide what to do about the domains that are governed; returns what is known of them then, what to send, and these domains."""
        governed = self._balancer.governed(domains, self._config.domains)
        looked = self._balancer.look(self._balancer.snapshot(host, governed), trio.current_time())
        actions = self._balancer.act(looked, await self._ask(looked))
        self._tell_trouble()
        return self._balancer.state, actions, governed

    async def _ask(self, looked: Look) -> Answer:
        """Ask the policy: a stranger's in a thread, in which it is waited for; what is in trouble is not asked."""
        if self._process is None:
            return self._balancer.ask(looked)
        with self._follower.check_in.idle():
            return await trio.to_thread.run_sync(self._balancer.ask, looked, abandon_on_cancel=True)

    def _tell_trouble(self) -> None:
        """Log what is wrong with the policy, once."""
        trouble = self._balancer.state.trouble
        if trouble and trouble != self._trouble:
            _log.error("policy_failed", policy=self._config.policy, reason=trouble, goes_on_with="static")
        self._trouble = trouble

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


def read_excluded(path: Path) -> frozenset[str]:
    """Read whom an earlier daemon was told to exclude; nobody if there is no such file, or it is damaged, which is logged."""
    try:
        with open_to_read(path) as file:
            found = json.load(file)["excluded"]
        return frozenset(str(life) for life in found[:MAX_EXCLUDED])
    except FileNotFoundError:
        return frozenset()
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("excluded_unreadable", path=str(path), reason=str(error))
        return frozenset()


async def dry_run(
    hypervisor_path: Path, config: AutoballoonConfig
) -> tuple[State, Sequence[Action], Sequence[DomainInfo]]:
    """Decide once, as a daemon that has just started, and tell nobody; returns as `Autoballoon.decide` does.

    Raises as `open_client` does.
    """
    daemon = Autoballoon(hypervisor_path, config)
    try:
        async with open_client(hypervisor_path) as client:
            return await daemon.decide(await client.list(), await client.host())
    finally:
        daemon.end()


async def _act(client: Client, action: Action) -> None:
    """Tell the hypervisor one thing. What it refuses, the next look sees: the domain may be gone."""
    try:
        match action:
            case SetTarget(domid, pages, reason):
                await client.set_target(domid, pages, reason)
                _log.info("target_set", domid=domid, pages=pages, reason=reason)
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
            _log.info("autoballoon_ready", socket=str(path), policy=config.policy)
            async with service.ready(lambda: "balancing") as nursery:
                nursery.start_soon(listener.serve)
                await daemon.balance()
        finally:
            if listener is not None:
                listener.close()
            daemon.end()
            held.release()
        return 0

    async def reload() -> None:
        if config_path is None:
            _log.warning("nothing_to_reload", reason="started without --config")
            return
        await daemon.reload(load_autoballoon_config(config_path))
        _log.info("reloaded", config=str(config_path))

    code = await run_service(start, reload=reload)
    _log.info("autoballoon_stopped")
    return code
