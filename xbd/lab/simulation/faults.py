"""Injects faults at random, as often as the plan says."""

from collections.abc import Callable
from typing import Final

from xbd.lab.simulation.connection import Connection
from xbd.lab.simulation.context import Context
from xbd.lab.simulation.daemon import Daemon
from xbd.lab.simulation.player import Player
from xbd.lab.simulation.rng import Rng
from xbd.protocol.codec import VERSION, encode_request

_STALL_S: Final = 0.5


class Stranger:
    """A second client on a domain's socket: it says hello, and closes the connection when it receives an answer."""

    def received(self, connection: Connection, piece: bytes) -> None:
        """Close the connection, whatever was received."""
        del piece
        connection.close()

    def lost(self, connection: Connection) -> None:
        """Do nothing."""


def _ways_to_end(daemon: Daemon) -> list[tuple[str, Callable[[], None]]]:
    """List the ways to end a daemon; the most severe one is listed several times, to be drawn more often."""
    within = ("within a step", daemon.kill_at_later_step)
    return [("in order", daemon.stop), ("at once", daemon.kill), within, within, within]


class Faults:
    """Injects faults at the rates of the world's plan."""

    def __init__(self, world: Context, rng: Rng, *, daemon: Daemon, players: Callable[[], list[Player]]) -> None:
        self._world = world
        self._daemon = daemon
        self._players = players
        self._rng = rng
        self._rates = {name: rate for name, rate in world.plan.rates.items() if rate}
        self._total = sum(self._rates.values())
        self._kinds: dict[str, Callable[[], str | None]] = {
            "cut": lambda: self._on_one(lambda each: each.cut()),
            "prefix": lambda: self._on_one(lambda each: each.cut(keep_part=True)),
            "half-open": lambda: self._on_one(lambda each: each.lose_at_client()),
            "daemon-first": lambda: self._on_one(lambda each: each.lose_at_daemon()),
            "slow": lambda: self._on_one(
                lambda each: each.stall(self._rng.exponential(_STALL_S), upward=self._rng.bernoulli(0.5))
            ),
            "repeat-notice": lambda: self._on_one(lambda each: each.repeat_notice(self._rng), guests=True),
            "repeat-call": lambda: self._on_one(lambda each: each.repeat_call(), guests=True),
            "stranger": self._stranger,
            "agent-crash": self._agent_crash,
            "agent-leaves": self._agent_leaves,
            "daemon-crash": self._daemon_crash,
        }

    def maybe_inject(self) -> str | None:
        """Inject at most one fault; returns what it hit, None: no fault happened."""
        drawn = self._rng.uniform(0.0, 1.0)
        if drawn >= self._total:
            return None
        for name, rate in self._rates.items():
            if drawn < rate:
                detail = self._kinds[name]()
                if detail is not None:
                    self._world.tally[name] += 1
                    self._world.trace_detail(f"{name} {detail}")
                return detail
            drawn -= rate
        return None

    def _on_one(self, inject: Callable[[Connection], object], *, guests: bool = False) -> str | None:
        connections = [each for each, domid in self._world.connections() if domid is not None or not guests]
        if not connections:
            return None
        chosen = self._rng.choice(connections)
        inject(chosen)
        return chosen.name

    def _stranger(self) -> str | None:
        domids = self._world.host.machine.living_domains()
        if not domids or not self._world.daemon_up:
            return None
        domid = self._rng.choice(domids)
        if not self._world.host.record(domid).agent:
            return None
        connection = self._world.open_socket(f"stranger at d{domid}", Stranger(), domid)
        params: dict[str, object] = {"version": VERSION, "session": "stranger", "last_seen": None}
        connection.send(encode_request(0, "hello", params))
        return connection.name

    def _agent_crash(self) -> str | None:
        players = self._players()
        if not players:
            return None
        player = self._rng.choice(players)
        player.crash()
        return f"d{player.domid}"

    def _agent_leaves(self) -> str | None:
        players = self._players()
        if not players:
            return None
        player = self._rng.choice(players)
        player.leave()
        return f"d{player.domid}"

    def _daemon_crash(self) -> str | None:
        if not self._daemon.up:
            return None
        name, inject = self._rng.choice(_ways_to_end(self._daemon))
        inject()
        return name
