"""Run one cell, in this process, on virtual time: the same cell gives the same numbers, wherever it runs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from xbd.config.strategies import STRATEGIES
from xbd.guest.workload import Trace
from xbd.lab.experiments.churn import ChurnPlay
from xbd.lab.experiments.grid import Cell, Churn, Recorded
from xbd.lab.experiments.meter import Meter, Number, Sample
from xbd.lab.replay.replay import Replay, ReplayOptions

# While a guest is on its way to a target somebody looks so often.
_LOOK_S: Final = 0.25


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a cell: *summary* by column, *samples* over time, what the audit found."""

    cell: Cell
    summary: dict[str, Number]
    samples: tuple[Sample, ...]
    violations: tuple[str, ...]

    @property
    def failed(self) -> bool:
        """Whether something was lost, leaked or miscounted."""
        return bool(self.violations) or self.summary["content_errors"] > 0


def _replay_of(cell: Cell, traces: Sequence[Trace]) -> Replay:
    """Make the replay of a cell whose workload is traces."""
    strategy = STRATEGIES[cell.strategy]
    strategy = replace(strategy, driver=cell.budget.apply(strategy.driver))
    return Replay(
        traces,
        ReplayOptions(strategy, cell.overcommit, seed=cell.seed, verify=cell.workload.verify, slack=cell.slack),
    )


def run_cell(cell: Cell, traces: Sequence[Trace] = ()) -> Outcome:
    """Run a cell to its end. Raises BadArgument: its guests cannot run on such a host."""
    match cell.workload:
        case Churn() as scenario:
            play: ChurnPlay | Replay = ChurnPlay(cell, scenario)
        case Recorded():
            play = _replay_of(cell, traces)
    meter = Meter(play.host, play.domids)
    samples_due = _Pace(cell.workload.sample_s)
    now = 0.0
    for now in play.run() if isinstance(play, Replay) else _advance(play, meter, samples_due):
        meter.observe(now)
        if samples_due.reached(now):
            meter.sample(now)
    if not meter.samples or meter.samples[-1].t_s != now:
        meter.sample(now)
    return Outcome(cell, meter.summary(), tuple(meter.samples), tuple(play.host.check()))


@dataclass(slots=True)
class _Pace:
    """When to sample: every *period_s*."""

    period_s: float
    number: int = 0

    @property
    def at(self) -> float:
        """When the next sample is due."""
        return self.number * self.period_s

    def reached(self, now: float) -> bool:
        """Tell whether a sample is due by *now*; the next one then is later."""
        due = now >= self.at
        while now >= self.at:
            self.number += 1
        return due


def _advance(play: ChurnPlay, meter: Meter, samples_due: _Pace) -> Iterator[float]:
    """Let time go on through a churn, stopping wherever there is something to look at."""
    for until in play.steps():
        # Targets were set just now.
        meter.observe(play.host.now)
        while play.host.now < until:
            look_at = play.host.now + _LOOK_S if meter.waiting else until
            play.host.advance(min(until, look_at, samples_due.at))
            yield play.host.now
