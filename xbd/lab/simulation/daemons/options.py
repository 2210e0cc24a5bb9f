"""The options of a simulation of the daemons, and the plan that is drawn from them and the seed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from xbd.config.policies import BUILT_IN, refuse_unknown_policy
from xbd.errors import BadArgument
from xbd.lab.simulation.rng import Rng
from xbd.machine.nodes import Nodes

# By name: what happens, and at most how often in a short run: of a hundred calls that it can happen to, or, for what
# happens at times of its own, in a hundred seconds.
CALL_FAULTS: Final[Mapping[str, tuple[str, float]]] = {
    "accept": ("accepting fails, or the peer has left again", 10.0),
    "descriptors": ("no descriptor is left: accept, open, socket", 3.0),
    "disk": ("no place is left on the disk: open, fallocate, write, replace", 2.0),
    "memory": ("no address space is left: mmap", 3.0),
    "half-send": ("a send takes a part of the bytes, or none", 5.0),
    "reset": ("a send or a receive finds the connection gone", 0.3),
    "cut": ("a client's send or receive finds its connection gone, after a part of it", 0.3),
    "remove": ("a file cannot be removed", 3.0),
    "pieces": ("a receive gives a part of the bytes", 20.0),
    "log": ("the log cannot be written, in part or at all", 20.0),
}
TIMED_FAULTS: Final[Mapping[str, tuple[str, float]]] = {
    "full-disk": ("the file system is full for a while, maybe until all daemons have ended", 10.0),
    "drop": ("a daemon is dropped between two steps, as by SIGKILL, and started again", 25.0),
    "drop-midway": ("the hypervisor is dropped at one of its next calls or notes", 30.0),
    "outage": ("a daemon is dropped, and for up to half a minute nobody starts it again", 8.0),
    "stop": ("a daemon gets SIGTERM, and is started again", 20.0),
    "reload": ("a daemon gets SIGHUP", 10.0),
    "damage": ("a file of a state is missing, cut short or changed between two lives", 10.0),
    "exile": ("the agents reach nobody for a while, for up to an hour in a long run", 8.0),
    "crowd": ("more clients than there is place for hold memory reserved", 4.0),
    "second": ("a second daemon is started where one runs", 10.0),
    "clock": ("the wall clock jumps", 10.0),
    "deaf": ("a client asks and asks, and never reads", 8.0),
    "stranger": ("somebody sends garbage", 12.0),
}
FAULTS: Final[Mapping[str, tuple[str, float]]] = {**CALL_FAULTS, **TIMED_FAULTS}
# Swarm testing: a kind is absent from this share of the runs, so that the others are also seen without it.
_ABSENT_SHARE: Final = 0.5
_ANOTHER_HOST_SHARE: Final = 0.25
_ENDS_FULL_SHARE: Final = 0.3
# A run that is longer than this is a host's everyday life: people act, and faults happen, so much more seldom. At a short
# run's rates hardly a start on thirty guests' files would come to its end.
_SHORT_S: Final = 600.0
_CALM: Final = 10.0
_STOPPED_AGENTS_SHARE: Final = 0.25
_AGENT_PROCESSES_MOST: Final = 3
# It runs in a process of its own, which takes half a second to start.
_FAILING_POLICY_SHARE: Final = 0.3
_NAMES: Final = 3
_NODES_SHARE: Final = 0.4
_SUPERFRAMES_PER_GUEST: Final = 3
MOST_DAEMON_GUESTS: Final = 60
MOST_OPERATORS: Final = 8
MOST_SECONDS: Final = 24 * 3600.0
DEFAULT_SECONDS: Final = 8.0


@dataclass(frozen=True, slots=True)
class DaemonOptions:
    """The options of one run.

    *seconds*: of virtual time with faults, before they stop. *without*: names from `FAULTS`. *off*: names of switches.
    *guests* at a time, at most, and *operators*, who share them with the policy: None: drawn from the seed.
    *every_fault*: no kind is absent but *without*. *policy*: of autoballoon; None: drawn from the seed.

    Raises BadArgument: an unknown fault, or a length out of its range.
    """

    seed: int
    seconds: float = DEFAULT_SECONDS
    without: tuple[str, ...] = ()
    off: tuple[str, ...] = ()
    guests: int | None = None
    operators: int | None = None
    every_fault: bool = False
    policy: str | None = None

    def __post_init__(self) -> None:
        for name in self.without:
            if name not in FAULTS:
                raise BadArgument(f"no fault {name!r} of daemons", ", ".join(FAULTS))
        if not 0 < self.seconds <= MOST_SECONDS:
            raise BadArgument(f"{self.seconds:g} seconds", f"above 0, up to {MOST_SECONDS:g}")
        if self.policy is not None:
            refuse_unknown_policy(self.policy)

    def command_line(self) -> str:
        """Format the command that repeats this run."""
        words = [f"xbd simulate --daemons --seed {self.seed} --seconds {self.seconds:g}"]
        given = [(name, getattr(self, name)) for name in ("guests", "operators", "policy")]
        words += [f"--{name} {value}" for name, value in given if value is not None]
        words += ["--every-fault"] if self.every_fault else []
        words += [f"--without {name}" for name in self.without]
        words += [f"--switch-off {name}" for name in self.off]
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class DaemonPlan:
    """The parameters of a run, drawn from its seed once.

    *rates*: by fault: of a call, or of a second. *operators*, *store_clients*: how many there are, and *names*: how many
    domains each operator may have. *calm*: how many times as long as in a short run people pause. *superframes*: of the
    host. *has_another_host*: whether in the end another host is served for a while. *ends_full*: whether the disk is full
    when the daemons end. *stops_agents*: whether before that the agents stop for a while, as by SIGSTOP. *policy*: of
    autoballoon; *policy_fails*: now and then, as a stranger's may. *agent_processes*: how many share the guests.
    *nodes*: of the host, where there are several.
    """

    rates: Mapping[str, float]
    operators: int
    store_clients: int
    names: int
    calm: float
    superframes: int
    has_another_host: bool
    ends_full: bool
    stops_agents: bool
    policy: str
    policy_fails: bool
    agent_processes: int
    nodes: Nodes | None = None

    @property
    def agent_names(self) -> tuple[str, ...]:
        """Name the agent processes, by their share."""
        return ("guests", *(f"guests-{number}" for number in range(2, self.agent_processes + 1)))


def make_plan(options: DaemonOptions) -> DaemonPlan:
    """Draw a plan. What the options leave out is drawn too and ignored, so that leaving it out changes nothing else."""
    rng = rng_for(options.seed, "plan")
    calm = 1.0 if options.seconds <= _SHORT_S else _CALM
    rates = {}
    for name, (_, most) in FAULTS.items():
        absent, level = rng.bernoulli(_ABSENT_SHARE), rng.uniform(0.1, 1.0)
        rates[name] = (
            0.0 if (absent and not options.every_fault) or name in options.without else level * most / 100 / calm
        )
    of_policy = rng_for(options.seed, "policy")
    policy, policy_fails = of_policy.choice(tuple(BUILT_IN)), of_policy.bernoulli(_FAILING_POLICY_SHARE)
    operators, store_clients, superframes = 1 + rng.below(3), 1 + rng.below(2), rng.choice((24, 32, 48))
    operators = options.operators or operators
    names = _NAMES if options.guests is None else -(-options.guests // (operators + 1))
    # A host that is as short of memory whatever number of guests it has.
    if options.guests is not None:
        superframes = superframes // 24 + _SUPERFRAMES_PER_GUEST * options.guests
    return DaemonPlan(
        rates,
        operators,
        store_clients,
        names,
        calm,
        superframes,
        has_another_host=rng.bernoulli(_ANOTHER_HOST_SHARE),
        ends_full=rng.bernoulli(_ENDS_FULL_SHARE) and rates["full-disk"] > 0,
        stops_agents=rng.bernoulli(_STOPPED_AGENTS_SHARE),
        policy=options.policy or policy,
        policy_fails=policy_fails,
        agent_processes=1 + rng.below(_AGENT_PROCESSES_MOST),
        nodes=_draw_nodes(rng_for(options.seed, "nodes"), superframes),
    )


def _draw_nodes(rng: Rng, superframes: int) -> Nodes | None:
    """Divide a host among two nodes, in some runs."""
    first = 1 + rng.below(superframes - 1)
    return Nodes((first, superframes - first)) if rng.bernoulli(_NODES_SHARE) else None


def rng_for(seed: int, purpose: str) -> Rng:
    """Make the generator of one purpose: drawing more for one changes no other."""
    return Rng(np.random.default_rng([seed, *purpose.encode()]))
