"""What can be asked of a simulation, and what its seed makes of that."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from xbd.errors import BadArgument
from xbd.lab.simulation.rng import Lots
from xbd.machine.settings import TODAYS_XEN, HostSettings

MOST_SUPERFRAMES: Final = 32
LEAST_SUPERFRAMES: Final = 6
MOST_GUESTS: Final = 12

# name: (what happens, how often of a million events at the most)
FAULTS: Final[Mapping[str, tuple[str, int]]] = {
    "cut": ("a connection ends with all that is on it", 8_000),
    "prefix": ("a connection ends after a part of a message", 5_000),
    "half-open": ("the client loses its connection, and what it sent still arrives", 6_000),
    "daemon-first": ("the daemon loses a connection, and what it sent still arrives", 5_000),
    "slow": ("somebody does not read for a while", 6_000),
    "repeat-notice": ("a notice comes a second time, later", 10_000),
    "repeat-call": ("a call comes a second time", 5_000),
    "stranger": ("somebody else says hello on a domain's socket", 1_500),
    "agent-crash": ("an agent is killed; another begins", 3_000),
    "agent-leaves": ("an agent goes and says so; another begins", 1_500),
    "daemon-crash": ("the daemon is killed, at any step, and started again", 6_000),
}
# What is drawn once for a whole run, and can be kept out like a fault. name: (what it is, in what share of the runs)
WEATHERS: Final[Mapping[str, tuple[str, float]]] = {
    "pieces": ("messages arrive in pieces", 0.7),
    "wild": ("guests that ask for anything at all", 0.6),
    "memory": ("the guests want more memory than there is", 0.7),
    "policy": ("the autoballoon policy moves targets too", 0.5),
    "follower": ("somebody follows the host's events", 0.3),
    "settings": ("the host is set otherwise than by default", 0.4),
}
KEPT_OUT: Final = (*FAULTS, *WEATHERS)
# A swarm: so often a fault is wholly absent from a run, so that what others do alone is seen too.
_ABSENT_SHARE: Final = 0.3
# Kept apart from the settings of TODAYS_XEN: each departure alone.
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
    """One run: *events* before it is healed, *without* what of `KEPT_OUT`, *off*: names of switches.

    *superframes*, *guests*: None: by lot. *compare_every*: so many events lie between two full comparisons.
    """

    seed: int
    events: int = 10_000
    superframes: int | None = None
    guests: int | None = None
    without: tuple[str, ...] = ()
    off: tuple[str, ...] = ()
    compare_every: int = 100

    def __post_init__(self) -> None:
        for name in self.without:
            if name not in KEPT_OUT:
                raise BadArgument(f"no fault {name!r}", ", ".join(KEPT_OUT))
        if self.superframes is not None and not LEAST_SUPERFRAMES <= self.superframes <= MOST_SUPERFRAMES:
            raise BadArgument(f"{self.superframes} superframes", f"{LEAST_SUPERFRAMES} to {MOST_SUPERFRAMES}")
        if self.guests is not None and not 1 <= self.guests <= MOST_GUESTS:
            raise BadArgument(f"{self.guests} guests", f"1 to {MOST_GUESTS}")

    def command_line(self) -> str:
        """Spell out the command that does this run."""
        words = [f"xbd simulate --seed {self.seed} --events {self.events}"]
        words += [f"--superframes {self.superframes}"] if self.superframes is not None else []
        words += [f"--guests {self.guests}"] if self.guests is not None else []
        words += [f"--compare-every {self.compare_every}"] if self.compare_every != 100 else []
        words += [f"--without {name}" for name in self.without]
        words += [f"--switch-off {name}" for name in self.off]
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is like: drawn from its seed once, before anything happens.

    *rates*: by fault, its chance at each event. *weathers*: those that there are. *latency_s*: of a link, on average.
    *operations*: the operator's chance to begin something, at each event.
    """

    superframes: int
    guests: int
    rates: Mapping[str, float]
    weathers: frozenset[str]
    latency_s: float
    operations: float
    settings: HostSettings = field(default_factory=HostSettings)


def make_plan(options: Options, lots: Lots) -> Plan:
    """Draw a plan. What the options fix is drawn all the same, so that fixing it changes nothing else."""
    superframes = LEAST_SUPERFRAMES + lots.below(MOST_SUPERFRAMES - LEAST_SUPERFRAMES + 1)
    superframes = options.superframes or superframes
    guests = min(3 + lots.below(6), superframes // 2)
    guests = options.guests or guests
    rates = {}
    for name, (_, most) in FAULTS.items():
        absent, level = lots.chance(_ABSENT_SHARE), lots.between(0.1, 1.0)
        rates[name] = 0.0 if absent or name in options.without else level * most / 1_000_000
    present = {name for name, (_, share) in WEATHERS.items() if lots.chance(share)}
    weathers = frozenset(present.difference(options.without))
    settings = lots.pick(_SETTINGS)
    return Plan(
        superframes=superframes,
        guests=guests,
        rates=rates,
        weathers=weathers,
        latency_s=lots.pick((0.0001, 0.001, 0.01)),
        operations=lots.pick((0.02, 0.05, 0.1)),
        settings=settings if "settings" in weathers else HostSettings(),
    )
