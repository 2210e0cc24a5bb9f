"""One simulated host with its guests, its toolstack and the connections between them, on virtual time.

Everything that happens is an event of the schedule, and writes a line into the trace. After each event the checks of
`checks` run. Any exception that an event or a check raises is a failure that the simulation has found.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final, cast

from xbd.abi import BootInfo, DomainType
from xbd.control.endpoint import DomainEndpoint, ToolstackEndpoint
from xbd.control.guest_settings import build_guest, plan_guest
from xbd.guest import Guest
from xbd.lab.simulation import checks
from xbd.lab.simulation.connection import Client, Connection
from xbd.lab.simulation.daemon import Daemon
from xbd.lab.simulation.faults import Faults
from xbd.lab.simulation.follower import Follower
from xbd.lab.simulation.hostile import HostileGuest, SharedGrants
from xbd.lab.simulation.options import Options, Plan, make_plan
from xbd.lab.simulation.player import Player
from xbd.lab.simulation.rng import Action, Purpose, Schedule, make_rngs
from xbd.lab.simulation.toolstack import HOSTILE_PREFIX, Operator, Policy
from xbd.lab.simulation.watched import WatchedController, WatchedGuest, WatchedOracle
from xbd.policy import Policy as AnyPolicy
from xbd.storage.memory import Crash

# How often the agent host looks for domains without an agent.
_AGENT_HOST_POLL_S: Final = 1.0
# When an agent reconnects and its domid belongs to a new domain: the share in which the agent host has ended it before.
_IN_TIME_SHARE: Final = 0.5
Write = Callable[[str], None]


class World:
    """One run.

    Args:
        options: of the run.
        write: called with each line of the trace.
        watch: called after each event, to look and change nothing.
        policy: what moves targets, if the options name it; None: one of xbd's own, drawn from the seed.

    Attributes: *daemon*: the simulated daemon process. *healing*: the faults have stopped, and operator and policy do
    nothing more. *events*: how many events were done. *tally*: counts of faults and other happenings, by name.
    *excuses*: by domid, the known reason why a domain is not at its target after the healing.
    """

    def __init__(
        self,
        options: Options,
        write: Write | None = None,
        watch: "Callable[[World], None] | None" = None,
        policy: AnyPolicy | None = None,
    ) -> None:
        self.options = options
        self._watch = watch
        self.rngs = make_rngs(options.seed)
        self.plan: Plan = make_plan(options, self.rngs[Purpose.PLAN])
        self.schedule = Schedule()
        self.healing = False
        self.events = 0
        self.tally: Counter[str] = Counter()
        self.excuses: dict[int, str] = {}
        self.shared_grants = SharedGrants()
        self._write = write
        self._digest = hashlib.sha256()
        self._more: list[str] = []
        self._sessions = 0
        self._players: dict[int, Player] = {}
        self._connections: list[tuple[Connection, int | None]] = []
        self.daemon = Daemon(self, self.rngs[Purpose.FAULTS], lambda: checks.compare(self))
        self._operator = Operator(self, self.rngs[Purpose.OPERATOR])
        if "follower" in self.plan.conditions:
            self.follower = Follower(self)
        if "policy" in self.plan.conditions:
            self.policy = Policy(self, self.rngs[Purpose.POLICY], policy)
        self._faults = Faults(self, self.rngs[Purpose.FAULTS], daemon=self.daemon, players=self.players)
        self.schedule.after(_AGENT_HOST_POLL_S, "look", self._start_players)

    # -- running

    @property
    def digest(self) -> str:
        """The SHA-256 of all trace lines so far, in hexadecimal."""
        return self._digest.hexdigest()

    def run(self) -> None:
        """Do the events of the options, then heal. Raises what was found, mostly a Violation."""
        while self.events < self.options.events:
            self.step()
        self.heal()

    def step(self) -> None:
        """Do the next event, perhaps inject a fault, and run the checks."""
        detail = None
        while detail is None:
            label, action = self.schedule.take()
            detail = self._do(action)
        self.events += 1
        if not self.healing:
            self._do(self._faults.maybe_inject)
            if self.rngs[Purpose.OPERATOR].bernoulli(self.plan.operations):
                self._operator.act()
        self._trace(label, detail)
        checks.after_event(self)
        if self.events % self.options.compare_every == 0:
            checks.compare(self)
        if self._watch is not None:
            self._watch(self)

    def _do(self, action: Action) -> str | None:
        """Do an action; kill the daemon if the action reaches the write at which it is to be killed."""
        try:
            return action()
        except Crash:
            self.daemon.kill()
            return "killed"

    def heal(self) -> None:
        """Stop the faults and wait until every domain is at its target. Raises Violation: one is not, for no known reason."""
        self.healing = self.shared_grants.release_all = True
        self.daemon.cancel_kill()
        checks.heal(self)
        self.tally.update(f"not at its target: {reason}" for reason in self.excuses.values())

    def _trace(self, label: str, detail: str) -> None:
        line = f"{self.events} {self.schedule.now:.6f} {label} {detail}"
        if self._more:
            line += " | " + " | ".join(self._more)
            self._more.clear()
        self._digest.update(line.encode())
        if self._write is not None:
            self._write(line)

    def trace_detail(self, text: str) -> None:
        """Append text to the trace line of the current event."""
        self._more.append(text)

    # -- daemon, players and connections

    @property
    def now(self) -> float:
        """The time, in seconds since the epoch of virtual time."""
        return self.schedule.now

    @property
    def host(self) -> WatchedController:
        """The daemon's core, as it is now."""
        return self.daemon.host

    @property
    def daemon_up(self) -> bool:
        """Whether the daemon runs."""
        return self.daemon.up

    def players(self) -> list[Player]:
        """List the players that have not ended, by domid."""
        return [player for _, player in sorted(self._players.items()) if not player.ended]

    def player(self, domid: int) -> Player | None:
        """Find a domain's player; None: it has none that has not ended."""
        player = self._players.get(domid)
        return None if player is None or player.ended else player

    def oracle(self, domid: int) -> WatchedOracle:
        """Find a living domain's oracle."""
        return self.daemon.oracles.of(self.host.machine, domid)

    def connections(self) -> list[tuple[Connection, int | None]]:
        """List the connections that are open at both ends, each with its domid; None: a toolstack connection."""
        self._connections = [each for each in self._connections if each[0].open or each[0].at_daemon]
        return [each for each in self._connections if each[0].open and each[0].at_daemon]

    def _start_players(self) -> str:
        """Act as the agent host: start a player for each domain without one. Also runs the controller's tick."""
        self.schedule.after(_AGENT_HOST_POLL_S, "look", self._start_players)
        begun = []
        if not self.daemon.up:
            return "no daemon"
        with self.host.step():
            self.host.tick(self.schedule.now)
        for domid in self.host.machine.living_domains():
            record, birth = self.host.record(domid), self.host.machine.living(domid).birth
            player = self.player(domid)
            if player is not None and player.birth != birth:
                player.leave()
                player = None
            if player is None and record.state == "waiting":
                self._players[domid] = Player(self, domid, birth)
                begun.append(domid)
        return f"{begun}"

    def new_session(self) -> str:
        """Return a session name that was not used before."""
        self._sessions += 1
        return f"s{self._sessions}"

    def make_guest(self, boot: BootInfo, settings: Mapping[str, object], oracle: WatchedOracle) -> Guest:
        """Build the guest of a domain; its commands and answers go through *oracle*."""
        oracle.boot(boot)
        if boot.name.startswith(HOSTILE_PREFIX) and boot.domain_type is not DomainType.VIRTIO:
            nodes = 1 if self.plan.nodes is None else self.plan.nodes.count
            hostile = HostileGuest(boot, oracle, self.shared_grants, self.rngs[Purpose.HOSTILE], nodes=nodes)
            return cast(Guest, WatchedGuest(hostile, oracle))
        seed = self.options.seed * 65_537 + boot.domid + (self._sessions << 40)
        return cast(Guest, WatchedGuest(build_guest(boot, plan_guest(settings), seed), oracle))

    # -- connections

    def open_domain(self, domid: int, birth: int, client: Client) -> Connection | None:
        """Connect to a domain's socket; None: the domain is gone, and no new one has its domid, or the agent host noticed."""
        machine = self.host.machine
        if domid not in machine.living_domains():
            return None
        if machine.living(domid).birth != birth and self.rngs[Purpose.FAULTS].bernoulli(_IN_TIME_SHARE):
            return None
        return self.open_socket(f"d{domid}", client, domid)

    def open_socket(self, name: str, client: Client, domid: int) -> Connection:
        """Connect a client named *name* to the socket of a living domain."""
        connection = self._new_connection(name, client, domid)
        connection.endpoint = DomainEndpoint(self.host, domid, connection.wake)
        return connection

    def open_toolstack(self, name: str, client: Client) -> Connection:
        """Connect to the toolstack's socket."""
        connection = self._new_connection(name, client, None)
        connection.endpoint = ToolstackEndpoint(self.host, connection.wake)
        return connection

    def _new_connection(self, name: str, client: Client, domid: int | None) -> Connection:
        connection = Connection(
            self.schedule,
            self.rngs[Purpose.LINKS],
            name,
            client,
            latency_s=self.plan.latency_s,
            in_pieces="pieces" in self.plan.conditions,
        )
        self._connections.append((connection, domid))
        return connection

    # -- the domain sockets that the daemon opens and closes

    def open(self, domid: int) -> None:
        """Do nothing: `open_domain` asks the host whether a domain can be reached."""

    def close(self, domid: int) -> None:
        """Close a domain's socket and the connections to it."""
        for connection, for_domid in self._connections:
            if for_domid == domid:
                connection.close_soon()

    def permit_group(self, group: str | None) -> None:
        """Do nothing: a simulation has no users and groups."""

    # -- the daemon's connections

    def end_connections(self, *, in_order: bool) -> None:
        """Break every connection and lose what is in transit; *in_order*: the daemon closes its ends first."""
        for connection, _ in self._connections:
            if connection.at_daemon:
                if in_order:
                    connection.endpoint.closed()
                connection.forget_at_daemon()
        self._connections.clear()
