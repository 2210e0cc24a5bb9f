"""The plan of faults: each kind at its own random times, all from one seed."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from xbd.lab.soak.options import Options

# The mean time between two faults of a kind in a long soak, and how long one lasts (None: it has no length). A daemon that
# is restarted needs a second or two, and its guests need time to do something: it is killed a few times a minute. More
# than `_GUESTS_BACK_AT_ONCE` have so much more time at least to be back; a client gives its session up after 10 s.
# None of the lengths is beyond what peers wait: clients resume within 10 s, an agent is taken for dead after 5 s.
_EVERY_S: Final[dict[str, tuple[float, tuple[float, float] | None]]] = {
    "kill-daemon": (4.0, None),
    "kill-agents": (20.0, None),
    "stop-daemon": (20.0, (0.05, 2.0)),
    "stop-agents": (20.0, (0.1, 4.0)),
    "cut": (4.0, None),
    "full-disk": (40.0, (0.5, 4.0)),
    "slow-reader": (20.0, (2.0, 15.0)),
    "slow-agents": (30.0, (0.5, 4.0)),
    "flood": (40.0, (1.0, 4.0)),
    "kill-xenstored": (20.0, None),
    "storm": (10.0, (0.5, 4.0)),
}
_GUESTS_BACK_AT_ONCE: Final = 100
# In a short soak each kind happens about this many times.
_TIMES_AT_LEAST: Final = 2.0


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One fault: *at_s* from the start, *length_s* long, *draw* a random number in [0, 1) that decides what it hits."""

    at_s: float
    kind: str
    length_s: float
    draw: float


def plan_faults(options: Options) -> list[Fault]:
    """Plan a soak's faults, in the order of their times. Same options, same plan."""
    planned: list[Fault] = []
    for number, (kind, (every_s, length)) in enumerate(_EVERY_S.items()):
        if kind not in options.kinds:
            continue
        # A generator for each kind, so that leaving one out changes no other.
        rng = np.random.default_rng((options.seed, number))
        until_s, least_s = options.duration_s, 0.0
        if kind == "kill-daemon":
            until_s = options.calm_from_s
            least_s = every_s * max(0.0, options.guests / _GUESTS_BACK_AT_ONCE - 1.0)
        mean_s = min(every_s, until_s / _TIMES_AT_LEAST)
        at_s = float(rng.exponential(mean_s / 2))
        while at_s < until_s:
            length_s = 0.0 if length is None else float(rng.uniform(*length))
            planned.append(Fault(at_s, kind, min(length_s, options.duration_s / 4), float(rng.random())))
            at_s += least_s + float(rng.exponential(mean_s))
    return sorted(planned)
