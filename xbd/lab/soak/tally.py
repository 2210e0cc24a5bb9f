"""What a soak counts: operations, faults, latencies, samples of the daemon, and findings."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Final

import numpy as np

# The first ones tell what is wrong; a broken host says the same many times over.
FINDINGS_KEPT: Final = 100
# Growth that is called flat. Over a short while neither the allocator nor guests that come and go stand still, and a
# new daemon's event log takes some 5 MiB until it is full: less than *noise* says nothing, and beyond it, less than
# *per_hour* is what a week does not notice. Of a daemon that has lived for a few seconds nothing can be said.
JUDGED_FROM_S: Final = 60.0
RSS_NOISE_MIB: Final = 8.0
RSS_PER_HOUR_MIB: Final = 8.0
DESCRIPTORS_NOISE: Final = 8.0
DESCRIPTORS_PER_HOUR: Final = 20.0
# This share of a daemon's life is left out: its tables of frames take memory when a frame is first touched, so it grows
# until guests have been everywhere once.
_WARM_UP_SHARE: Final = 0.5
_LEAST_SAMPLES: Final = 5


@dataclass(frozen=True, slots=True)
class Sample:
    """The daemon at one moment: all memory, memory of its own (not of mapped files), descriptors beyond those of domains."""

    at_s: float
    rss_mib: float
    own_mib: float
    descriptors: float


@dataclass(frozen=True, slots=True)
class Slope:
    """A straight line through samples of *seconds*: *per_hour* how steep, *growth* over the samples."""

    per_hour: float
    growth: float
    seconds: float
    samples: int

    def is_flat(self, noise: float, per_hour: float) -> bool:
        """Tell whether it does not rise: within *noise* over the samples, or by less than *per_hour*."""
        return self.seconds < JUDGED_FROM_S or self.growth <= noise or self.per_hour <= per_hour

    def as_map(self) -> dict[str, object]:
        """Spell it out for JSON."""
        return {name: round(number, 3) for name, number in asdict(self).items()}


def slope_of(points: Sequence[tuple[float, float]]) -> Slope | None:
    """Fit a line by least squares through (seconds, value), past the warm-up; None for too few points."""
    rest = list(points[int(len(points) * _WARM_UP_SHARE) :])
    if len(rest) < _LEAST_SAMPLES or rest[-1][0] <= rest[0][0]:
        return None
    times, measured = np.array(rest).T
    per_s = float(np.polyfit(times - times[0], measured, 1)[0])
    seconds = float(times[-1] - times[0])
    return Slope(per_s * 3600, per_s * seconds, seconds, len(rest))


@dataclass(frozen=True, slots=True)
class Times:
    """What a kind of call or event took, in seconds."""

    count: int
    median_s: float
    p99_s: float
    worst_s: float

    def as_map(self) -> dict[str, object]:
        """Spell it out for JSON."""
        return {name: round(number, 6) for name, number in asdict(self).items()}


def times_of(seconds: Sequence[float]) -> Times | None:
    """Summarize; None when there are none."""
    if not seconds:
        return None
    median, p99, worst = np.percentile(np.array(seconds), [50, 99, 100]).tolist()
    return Times(len(seconds), median, p99, worst)


@dataclass(slots=True)
class Tally:
    """All that is counted while a soak runs.

    Attributes:
        operations: by name: toolstack calls, `witness` and `guests` hypercalls, audits.
        faults: by kind.
        seconds: by name: how long things took.
        samples: of the daemon that lives; a new one begins anew.
        guests: how many there are now.
        guests_came, guests_went: by how.
        restarts: of the daemon, by SIGKILL.
        findings: what is wrong.
        remarks: what a reader should know and is not wrong.
    """

    operations: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    guests: int = 0
    guests_came: int = 0
    guests_went: Counter[str] = field(default_factory=Counter)
    restarts: int = 0
    findings: list[str] = field(default_factory=list)
    more_findings: int = 0
    remarks: Counter[str] = field(default_factory=Counter)
    _said: set[str] = field(default_factory=set)

    def took(self, name: str, seconds: float) -> None:
        """Note how long something took."""
        self.seconds.setdefault(name, []).append(seconds)

    def found(self, what: str, *, at_s: float) -> None:
        """Note what is wrong, each thing once."""
        if what in self._said:
            return
        self._said.add(what)
        if len(self.findings) < FINDINGS_KEPT:
            self.findings.append(f"{at_s:7.1f} s: {what}")
        else:
            self.more_findings += 1

    def slopes(self) -> dict[str, Slope | None]:
        """Fit lines through what the daemon that lived last held."""
        return {
            name: slope_of([(sample.at_s, getattr(sample, name)) for sample in self.samples])
            for name in ("rss_mib", "own_mib", "descriptors")
        }


def is_flat(name: str, slope: Slope) -> bool:
    """Tell whether one of `Tally.slopes` is flat. Memory of mapped files (`rss_mib`) follows the guests: it is only shown."""
    if name == "descriptors":
        return slope.is_flat(DESCRIPTORS_NOISE, DESCRIPTORS_PER_HOUR)
    return name == "rss_mib" or slope.is_flat(RSS_NOISE_MIB, RSS_PER_HOUR_MIB)
