"""What goes wrong, and when."""

from collections.abc import Callable
from typing import Final

from xbd.lab.simulation.connection import Connection
from xbd.lab.simulation.context import Context
from xbd.lab.simulation.daemon import Daemon
from xbd.lab.simulation.player import Player
from xbd.lab.simulation.rng import Lots
from xbd.protocol.codec import encode_request
from xbd.protocol.methods import VERSION

_STALL_S: Final = 0.5


class Stranger:
    """Somebody who says hello on a domain's socket, and leaves when it is refused. If it is let in, it stays a while."""

    def received(self, connection: Connection, piece: bytes) -> None:
        """Have seen enough."""
        del piece
        connection.close()

    def lost(self, connection: Connection) -> None:
        """Do nothing."""


def _deaths(daemon: Daemon) -> list[tuple[str, Callable[[], None]]]:
    """List the ways in which a daemon ends, the worst one several times."""
    within = ("within a step", daemon.kill_within)
    return [("in order", daemon.stop), ("at once", daemon.kill), within, within, within]


class Faults:
    """Lets things go wrong, as often as the plan says."""

    def __init__(self, world: Context, lots: Lots, *, daemon: Daemon, players: Callable[[], list[Player]]) -> None:
        self._world = world
        self._daemon = daemon
        self._players = players
        self._lots = lots
        self._rates = {name: rate for name, rate in world.plan.rates.items() if rate}
        self._total = sum(self._rates.values())
        self._kinds: dict[str, Callable[[], str | None]] = {
            "cut": lambda: self._on_one(lambda each: each.cut()),
            "prefix": lambda: self._on_one(lambda each: each.cut(but_a_part=True)),
            "half-open": lambda: self._on_one(lambda each: each.lose_at_client()),
            "daemon-first": lambda: self._on_one(lambda each: each.lose_at_daemon()),
            "slow": lambda: self._on_one(
                lambda each: each.stall(self._lots.spread(_STALL_S), upward=self._lots.chance(0.5))
            ),
            "repeat-notice": lambda: self._on_one(lambda each: each.repeat_notice(self._lots), guests=True),
            "repeat-call": lambda: self._on_one(lambda each: each.repeat_call(), guests=True),
            "stranger": self._stranger,
            "agent-crash": self._agent_crash,
            "agent-leaves": self._agent_leaves,
            "daemon-crash": self._daemon_crash,
        }

    def strike(self) -> str | None:
        """Let something go wrong, perhaps; says what."""
        drawn = self._lots.between(0.0, 1.0)
        if drawn >= self._total:
            return None
        for name, rate in self._rates.items():
            if drawn < rate:
                told = self._kinds[name]()
                if told is not None:
                    self._world.tally[name] += 1
                    self._world.trace_more(f"{name} {told}")
                return told
            drawn -= rate
        return None

    def _on_one(self, happen: Callable[[Connection], object], *, guests: bool = False) -> str | None:
        connections = [each for each, domid in self._world.connections() if domid is not None or not guests]
        if not connections:
            return None
        chosen = self._lots.pick(connections)
        happen(chosen)
        return chosen.name

    def _stranger(self) -> str | None:
        domids = self._world.host.machine.living_domains()
        if not domids or not self._world.daemon_up:
            return None
        domid = self._lots.pick(domids)
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
        player = self._lots.pick(players)
        player.crash()
        return f"d{player.domid}"

    def _agent_leaves(self) -> str | None:
        players = self._players()
        if not players:
            return None
        player = self._lots.pick(players)
        player.leave()
        return f"d{player.domid}"

    def _daemon_crash(self) -> str | None:
        if not self._daemon.up:
            return None
        name, happen = self._lots.pick(_deaths(self._daemon))
        happen()
        return name
