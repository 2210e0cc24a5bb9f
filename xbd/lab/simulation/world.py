"""The world: one host, its guests, its toolstack, and the connections between them, on virtual time.

Everything that happens is an event of the schedule, and leaves a line in the trace. After each the
checks that it calls for are done. Whatever is raised in one is what was found.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final, cast

from xbd.abi import BootInfo, DomainType
from xbd.control.endpoint import DomainEndpoint, ToolstackEndpoint
from xbd.control.guest_settings import plan_guest
from xbd.guest import Guest
from xbd.lab.simulation import checks
from xbd.lab.simulation.connection import Client, Connection
from xbd.lab.simulation.daemon import Daemon
from xbd.lab.simulation.faults import Faults
from xbd.lab.simulation.follower import Follower
from xbd.lab.simulation.hostile import Board, HostileGuest
from xbd.lab.simulation.operating import Operator, Policy
from xbd.lab.simulation.options import Options, Plan, make_plan
from xbd.lab.simulation.oracle import Oracle
from xbd.lab.simulation.player import Player
from xbd.lab.simulation.rng import Action, Part, Schedule, streams
from xbd.lab.simulation.watched import WatchedGuest, WatchedHost
from xbd.storage.memory import Crash

# The agent host looks so often for domains that nobody plays.
_LOOK_S: Final = 1.0
# An agent that tries again finds another domain behind its number: so often the agent host has ended it before.
_IN_TIME_SHARE: Final = 0.5
Write = Callable[[str], None]


class World:
    """One run.

    Args:
        options: what was asked for.
        write: is given each line of the trace.

    Attributes: *daemon*: its process. *healing*: no fault happens any
    more, and nobody changes anything on purpose. *events*: how many there were. *tally*: what of.
    *excuses*: by domid, why a domain is not at its target when all has come to rest.
    """

    def __init__(self, options: Options, write: Write | None = None) -> None:
        self.options = options
        self.lots = streams(options.seed)
        self.plan: Plan = make_plan(options, self.lots[Part.PLAN])
        self.schedule = Schedule()
        self.healing = False
        self.events = 0
        self.tally: Counter[str] = Counter()
        self.excuses: dict[int, str] = {}
        self.board = Board()
        self._write = write
        self._digest = hashlib.sha256()
        self._more: list[str] = []
        self._sessions = 0
        self._players: dict[int, Player] = {}
        self._connections: list[tuple[Connection, int | None]] = []
        self.daemon = Daemon(self, self.lots[Part.FAULTS], lambda: checks.compare(self))
        self._operator = Operator(self, self.lots[Part.OPERATOR])
        if "follower" in self.plan.weathers:
            self.follower = Follower(self)
        if "policy" in self.plan.weathers:
            self.policy = Policy(self)
        self._faults = Faults(self, self.lots[Part.FAULTS], daemon=self.daemon, players=self.players)
        self.schedule.after(_LOOK_S, "look", self._look)

    # -- running

    @property
    def digest(self) -> str:
        """Sum up all lines so far."""
        return self._digest.hexdigest()

    def run(self) -> None:
        """Do all events that were asked for; then heal. Raises whatever was found, mostly a Violation."""
        while self.events < self.options.events:
            self.step()
        self.heal()

    def step(self) -> None:
        """Do the next event, and look whether all is well."""
        detail = None
        while detail is None:
            label, action = self.schedule.take()
            detail = self._do(action)
        self.events += 1
        if not self.healing:
            self._do(self._faults.strike)
            if self.lots[Part.OPERATOR].chance(self.plan.operations):
                self._operator.act()
        self._trace(label, detail)
        checks.after_event(self)
        if self.events % self.options.compare_every == 0:
            checks.compare(self)

    def _do(self, action: Action) -> str | None:
        """Do something; where it comes to the place at which the daemon is to be killed, it is."""
        try:
            return action()
        except Crash:
            self.daemon.kill()
            return "killed"

    def heal(self) -> None:
        """Let everything come to rest. Raises Violation if it does not, and has no reason."""
        self.healing = self.board.calm = True
        self.daemon.spare()
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

    def trace_more(self, text: str) -> None:
        """Add something to the line of the event that is under way."""
        self._more.append(text)

    # -- who is there

    @property
    def host(self) -> WatchedHost:
        """The daemon's core, as it is now."""
        return self.daemon.host

    @property
    def daemon_up(self) -> bool:
        """Whether the daemon runs."""
        return self.daemon.up

    def players(self) -> list[Player]:
        """List who plays a domain now, by domid."""
        return [player for _, player in sorted(self._players.items()) if not player.over]

    def player(self, domid: int) -> Player | None:
        """Find who plays a domain."""
        player = self._players.get(domid)
        return None if player is None or player.over else player

    def oracle(self, domid: int) -> Oracle:
        """Find a living domain's book."""
        return self.daemon.oracles.of(self.host.machine, domid)

    def connections(self) -> list[tuple[Connection, int | None]]:
        """List the connections that neither end has let go of, with the domains that they are for."""
        self._connections = [each for each in self._connections if each[0].open or each[0].at_daemon]
        return [each for each in self._connections if each[0].open and each[0].at_daemon]

    def _look(self) -> str:
        """Be the agent host, and the daemon's watch: let somebody play each domain that nobody plays."""
        self.schedule.after(_LOOK_S, "look", self._look)
        begun = []
        if not self.daemon.up:
            return "no daemon"
        self.host.tick(self.schedule.now)
        self.host.commit()
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
        """Name a session as no other."""
        self._sessions += 1
        return f"s{self._sessions}"

    def make_guest(self, boot: BootInfo, settings: Mapping[str, object], oracle: Oracle) -> Guest:
        """Build the guest of a domain, which keeps its book."""
        oracle.boot(boot)
        if boot.name.startswith("wild") and boot.domain_type is not DomainType.VIRTIO:
            return cast(Guest, WatchedGuest(HostileGuest(boot, oracle, self.board, self.lots[Part.WILD]), oracle))
        plan = plan_guest(settings)
        seed = self.options.seed * 65_537 + boot.domid + (self._sessions << 40)
        return cast(Guest, WatchedGuest(Guest(boot, plan.settings, seed, plan.workload), oracle))

    # -- connections

    def open_domain(self, domid: int, birth: int, client: Client) -> Connection | None:
        """Connect to a domain's socket; None: the domain is gone, and nobody has its number, or that is seen in time."""
        machine = self.host.machine
        if domid not in machine.living_domains():
            return None
        if machine.living(domid).birth != birth and self.lots[Part.FAULTS].chance(_IN_TIME_SHARE):
            return None
        return self.open_socket(f"d{domid}", client, domid)

    def open_socket(self, name: str, client: Client, domid: int) -> Connection:
        """Connect anybody to the socket of a domain that lives."""
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
            self.lots[Part.LINKS],
            name,
            client,
            latency_s=self.plan.latency_s,
            in_pieces="pieces" in self.plan.weathers,
        )
        self._connections.append((connection, domid))
        return connection

    # -- the daemon's doors

    def open(self, domid: int) -> None:
        """Make a domain reachable: whoever wants to connect asks the host."""

    def close(self, domid: int) -> None:
        """End a domain's socket and whoever is connected to it."""
        for connection, for_domid in self._connections:
            if for_domid == domid:
                connection.close_soon()

    def permit_group(self, group: str | None) -> None:
        """Do nothing: there is nobody else."""

    # -- the daemon's connections

    def end_connections(self, *, in_order: bool) -> None:
        """Lose every connection, with all that is on it; *in_order*: the daemon knows."""
        for connection, _ in self._connections:
            if connection.at_daemon:
                if in_order:
                    connection.endpoint.closed()
                connection.forget_at_daemon()
        self._connections.clear()
