"""Run one cell in this process, on virtual time; the same cell gives the same numbers in any process."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from xbd.config.strategies import find_strategy
from xbd.guest.workload import Trace
from xbd.lab.experiments.churn import ChurnRun
from xbd.lab.experiments.grid import Cell, Churn, Recorded
from xbd.lab.experiments.meter import Meter, Sample
from xbd.lab.experiments.outcome import OutcomeOf, Watch
from xbd.lab.replay.replay import Replay, ReplayOptions

# How often the host is observed while a guest has not reached its target.
_OBSERVE_EVERY_S: Final = 0.25

Outcome = OutcomeOf[Cell, Sample]


def _replay_of(cell: Cell, traces: Sequence[Trace]) -> Replay:
    """Make the replay of a cell whose workload is traces."""
    strategy = find_strategy(cell.strategy)
    strategy = replace(strategy, driver=cell.budget.apply(strategy.driver))
    return Replay(
        traces,
        ReplayOptions(
            strategy, cell.overcommit, seed=cell.seed, verify=cell.workload.verify, slack=cell.slack, counted=True
        ),
    )


def run_cell(cell: Cell, traces: Sequence[Trace] = (), watch: Watch | None = None) -> Outcome:
    """Run a cell to its end. Raises BadArgument: its guests cannot run on such a host."""
    match cell.workload:
        case Churn() as churn:
            scenario: ChurnRun | Replay = ChurnRun(cell, churn)
        case Recorded():
            scenario = _replay_of(cell, traces)

    def sample(now: float) -> None:
        meter.sample(now)
        if watch is not None:
            watch(now, scenario.host, scenario.demand_pages() if isinstance(scenario, Replay) else {})

    meter = Meter(scenario.host, scenario.domids)
    samples_due = _SamplePeriod(cell.workload.sample_s)
    now = 0.0
    for now in scenario.run() if isinstance(scenario, Replay) else _advance(scenario, meter, samples_due):
        meter.observe(now)
        if samples_due.reached(now):
            sample(now)
    if not meter.samples or meter.samples[-1].t_s != now:
        sample(now)
    return Outcome(cell, meter.summary(), tuple(meter.samples), tuple(scenario.host.check()))


@dataclass(slots=True)
class _SamplePeriod:
    """The times of samples: every *period_s* seconds."""

    period_s: float
    number: int = 0

    @property
    def at(self) -> float:
        """When the next sample is due."""
        return self.number * self.period_s

    def reached(self, now: float) -> bool:
        """Return whether a sample is due by *now*; if so, advance to the next one."""
        due = now >= self.at
        while now >= self.at:
            self.number += 1
        return due


def _advance(scenario: ChurnRun, meter: Meter, samples_due: _SamplePeriod) -> Iterator[float]:
    """Advance time through a churn scenario, stopping at every time to observe or sample."""
    for until in scenario.steps():
        # Targets were set just now.
        meter.observe(scenario.host.now)
        while scenario.host.now < until:
            observe_at = scenario.host.now + _OBSERVE_EVERY_S if meter.waiting else until
            scenario.host.advance(min(until, observe_at, samples_due.at))
            yield scenario.host.now
