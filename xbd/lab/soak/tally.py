"""What a soak counts: operations, faults, latencies, samples of the daemon, and findings."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Final

import numpy as np

# The first findings matter; a broken host causes very many.
FINDINGS_KEPT: Final = 100
# Growth that counts as flat. In a short time the allocator's and the guests' memory varies, and a new daemon's event log
# grows to some 5 MiB until it is full: growth below *noise* is not judged, and beyond it a rise below *per_hour* is
# harmless even over a week. A daemon that has run for a few seconds is not judged at all.
JUDGED_FROM_S: Final = 60.0
RSS_NOISE_MIB: Final = 8.0
RSS_PER_HOUR_MIB: Final = 8.0
DESCRIPTORS_NOISE: Final = 8.0
DESCRIPTORS_PER_HOUR: Final = 20.0
# This first share of a daemon's samples is left out: its sessions and its event log fill first.
_WARM_UP_SHARE: Final = 0.5
_LEAST_SAMPLES: Final = 5


@dataclass(frozen=True, slots=True)
class Sample:
    """The daemon at one time: resident memory, anonymous memory without frame tables, descriptors beyond domains' sockets."""

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
        """Whether it rises by at most *noise* over the samples, or by at most *per_hour*, or is too short to judge."""
        return self.seconds < JUDGED_FROM_S or self.growth <= noise or self.per_hour <= per_hour

    def as_map(self) -> dict[str, object]:
        """Return it as a map for JSON."""
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
    """Statistics of durations, in seconds."""

    count: int
    median_s: float
    p99_s: float
    worst_s: float

    def as_map(self) -> dict[str, object]:
        """Return it as a map for JSON."""
        return {name: round(number, 6) for name, number in asdict(self).items()}


def times_of(seconds: Sequence[float]) -> Times | None:
    """Summarize durations; None: there are none."""
    if not seconds:
        return None
    median, p99, worst = np.percentile(np.array(seconds), [50, 99, 100]).tolist()
    return Times(len(seconds), median, p99, worst)


def longest_s(spans: Sequence[tuple[float, float]], now_s: float, within_s: float) -> float:
    """Tell how long the longest of some spans of time is, as far as it lies in the last *within_s* seconds."""
    return max((min(until, now_s) - max(since, now_s - within_s) for since, until in spans), default=0.0)


@dataclass(slots=True)
class Tally:
    """The counters of a running soak.

    Attributes:
        operations: by name: toolstack calls, hypercalls of the checker (`witness`) and of the guests, audits.
        faults: by kind.
        seconds: by name: how long things took.
        samples: of the running daemon; cleared when it is restarted.
        guests: how many there are now.
        guests_came: how many were created.
        guests_went: by how they ended.
        restarts: of the daemon, by SIGKILL.
        findings: what was found to be wrong.
        ticks: of guests' workloads (`ticks`), and how many of them were late (`ticks_late`).
        tick_worst_ms: how late the worst of them was.
        remarks: what is worth knowing, but not wrong, with counts.
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
    ticks: Counter[str] = field(default_factory=Counter)
    tick_worst_ms: int = 0
    _recorded: set[str] = field(default_factory=set)

    def took(self, name: str, seconds: float) -> None:
        """Record a duration."""
        self.seconds.setdefault(name, []).append(seconds)

    def found(self, what: str, *, at_s: float) -> None:
        """Record a finding, each text once."""
        if what in self._recorded:
            return
        self._recorded.add(what)
        if len(self.findings) < FINDINGS_KEPT:
            self.findings.append(f"{at_s:7.1f} s: {what}")
        else:
            self.more_findings += 1

    def slopes(self) -> dict[str, Slope | None]:
        """Fit lines through the samples of the last daemon."""
        return {
            name: slope_of([(sample.at_s, getattr(sample, name)) for sample in self.samples])
            for name in ("rss_mib", "own_mib", "descriptors")
        }


def is_flat(name: str, slope: Slope) -> bool:
    """Whether one of `Tally.slopes` is flat. Memory of mapped files (`rss_mib`) follows the guests and is not judged."""
    if name == "descriptors":
        return slope.is_flat(DESCRIPTORS_NOISE, DESCRIPTORS_PER_HOUR)
    return name == "rss_mib" or slope.is_flat(RSS_NOISE_MIB, RSS_PER_HOUR_MIB)
