"""The options of a simulation, and the plan that is drawn from them and the seed."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from xbd.config.policies import refuse_unknown_policy
from xbd.errors import BadArgument
from xbd.lab.simulation.rng import Rng
from xbd.machine.nodes import LOCAL, Nodes
from xbd.machine.settings import TODAYS_XEN, HostSettings

MOST_SUPERFRAMES: Final = 32
LEAST_SUPERFRAMES: Final = 6
MOST_GUESTS: Final = 12

# By name: what happens, and at most how often in a million events.
FAULTS: Final[Mapping[str, tuple[str, int]]] = {
    "cut": ("a connection ends with all that is on it", 8_000),
    "prefix": ("a connection ends after a part of a message", 5_000),
    "half-open": ("the client loses its connection, and what it sent still arrives", 6_000),
    "daemon-first": ("the daemon loses a connection, and what it sent still arrives", 5_000),
    "slow": ("one end does not read for a while", 6_000),
    "repeat-notice": ("a notice comes a second time, later", 10_000),
    "repeat-call": ("a call comes a second time", 5_000),
    "stranger": ("another client says hello on a domain's socket", 1_500),
    "agent-crash": ("an agent is killed; another begins", 3_000),
    "agent-leaves": ("an agent goes and says so; another begins", 1_500),
    "daemon-crash": ("the daemon is killed, at any step, and started again", 6_000),
}
# Conditions are drawn once for a whole run, and can be excluded like a fault. By name: what it is, and in what share
# of the runs it holds.
CONDITIONS: Final[Mapping[str, tuple[str, float]]] = {
    "pieces": ("messages arrive in pieces", 0.7),
    "wild": ("hostile guests, which send arbitrary commands", 0.6),
    "memory": ("the guests want more memory than the host has", 0.7),
    "policy": ("one of the policies moves targets too, and fails now and then", 0.5),
    "follower": ("a client follows the host's events", 0.3),
    "settings": ("the host has other settings than the default", 0.4),
    "nodes": ("the host has several nodes", 0.4),
}
# Drawn after all else, so that what the seeds of before draw stays as it is.
_NODES: Final = "nodes"
_MOST_NODES: Final = 3
EXCLUDABLE: Final = (*FAULTS, *CONDITIONS)
# Swarm testing: a fault is absent from this share of the runs, so that other faults are also seen without it.
_ABSENT_SHARE: Final = 0.3
# The settings of TODAYS_XEN, and settings that depart from the default in one way each.
_SETTINGS: Final = (
    TODAYS_XEN,
    HostSettings(populate_depopulate=False),
    HostSettings(populate_depopulate=False, exchange_translated=False),
    HostSettings(home_fill="populate_depopulate"),
    HostSettings(keep_holes=False),
    HostSettings(coalesce=False),
)


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one run.

    *events*: how many happen before the faults stop. *superframes*, *guests*: None: drawn from the seed. *without*:
    names from `EXCLUDABLE`. *off*: names from `switches.SWITCHES`. *compare_every*: events between two full comparisons.
    *policy*: which one moves targets; None: drawn from the seed, as is whether any does.

    Raises BadArgument: an unknown fault, or a size out of its range.
    """

    seed: int
    events: int = 10_000
    superframes: int | None = None
    guests: int | None = None
    without: tuple[str, ...] = ()
    off: tuple[str, ...] = ()
    compare_every: int = 100
    policy: str | None = None

    def __post_init__(self) -> None:
        for name in self.without:
            if name not in EXCLUDABLE:
                raise BadArgument(f"no fault {name!r}", ", ".join(EXCLUDABLE))
        if self.superframes is not None and not LEAST_SUPERFRAMES <= self.superframes <= MOST_SUPERFRAMES:
            raise BadArgument(f"{self.superframes} superframes", f"{LEAST_SUPERFRAMES} to {MOST_SUPERFRAMES}")
        if self.guests is not None and not 1 <= self.guests <= MOST_GUESTS:
            raise BadArgument(f"{self.guests} guests", f"1 to {MOST_GUESTS}")
        if self.policy is not None:
            refuse_unknown_policy(self.policy)

    def command_line(self) -> str:
        """Format the command that repeats this run."""
        words = [f"xbd simulate --seed {self.seed} --events {self.events}"]
        words += [f"--superframes {self.superframes}"] if self.superframes is not None else []
        words += [f"--guests {self.guests}"] if self.guests is not None else []
        words += [f"--compare-every {self.compare_every}"] if self.compare_every != 100 else []
        words += [f"--policy {self.policy}"] if self.policy is not None else []
        words += [f"--without {name}" for name in self.without]
        words += [f"--switch-off {name}" for name in self.off]
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class Plan:
    """The parameters of a run, drawn from its seed once, before the first event.

    *rates*: by fault, its probability at each event. *conditions*: names from `CONDITIONS` that hold. *latency_s*: of a
    connection, on average. *operations*: the probability at each event that the operator begins something. *nodes*: of the host, where there are several.
    """

    superframes: int
    guests: int
    rates: Mapping[str, float]
    conditions: frozenset[str]
    latency_s: float
    operations: float
    settings: HostSettings = field(default_factory=HostSettings)
    nodes: Nodes | None = None


def _draw_nodes(rng: Rng, superframes: int) -> Nodes:
    """Divide a host among two or three nodes, of any sizes and distances."""
    ends = sorted({1 + rng.below(superframes - 1) for _ in range(1 + rng.below(_MOST_NODES - 1))})
    sizes = tuple(end - first for first, end in zip([0, *ends], [*ends, superframes], strict=True))
    rows = [[LOCAL] * len(sizes) for _ in sizes]
    for one in range(len(sizes)):
        for other in range(one):
            rows[one][other] = rows[other][one] = LOCAL + 1 + rng.below(20)
    return Nodes(sizes, tuple(map(tuple, rows)))


def make_plan(options: Options, rng: Rng) -> Plan:
    """Draw a plan. What the options fix is drawn too and ignored, so that fixing it changes nothing else."""
    superframes = LEAST_SUPERFRAMES + rng.below(MOST_SUPERFRAMES - LEAST_SUPERFRAMES + 1)
    superframes = options.superframes or superframes
    guests = min(3 + rng.below(6), superframes // 2)
    guests = options.guests or guests
    rates = {}
    for name, (_, most) in FAULTS.items():
        absent, level = rng.bernoulli(_ABSENT_SHARE), rng.uniform(0.1, 1.0)
        rates[name] = 0.0 if absent or name in options.without else level * most / 1_000_000
    present = {name for name, (_, share) in CONDITIONS.items() if name != _NODES and rng.bernoulli(share)}
    present |= {"policy"} if options.policy is not None else set()
    conditions = frozenset(present.difference(options.without))
    settings = rng.choice(_SETTINGS)
    plan = Plan(
        superframes=superframes,
        guests=guests,
        rates=rates,
        conditions=conditions,
        latency_s=rng.choice((0.0001, 0.001, 0.01)),
        operations=rng.choice((0.02, 0.05, 0.1)),
        settings=settings if "settings" in conditions else HostSettings(),
    )
    if not rng.bernoulli(CONDITIONS[_NODES][1]) or _NODES in options.without:
        return plan
    return replace(plan, conditions=conditions | {_NODES}, nodes=_draw_nodes(rng, superframes))
