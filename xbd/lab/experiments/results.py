"""The outcomes of an experiment as tidy tables: a row for each cell, and a row for each sample of a cell.

Rows are in the order of the grid, whichever process ran them; numbers are rounded to a fixed number of digits.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

from xbd.lab.experiments.cell import Outcome
from xbd.lab.experiments.grid import Cell
from xbd.lab.experiments.meter import Number

_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Setting:
    """What the cells of one comparison have in common: all but strategy and seed."""

    workload: str
    overcommit: float
    slack: float
    budget: str

    def label(self) -> str:
        """Format it for people."""
        budget = "" if self.budget == "own" else f", budget {self.budget}"
        return f"{self.workload}, overcommit {self.overcommit:g}, slack {self.slack:.0%}{budget}"


def setting_of(cell: Cell) -> Setting:
    """Return the comparison that a cell belongs to."""
    return Setting(cell.workload.name, cell.overcommit, cell.slack, cell.budget.name)


class Results:
    """All outcomes of an experiment, indexed by setting, strategy and seed."""

    def __init__(self, outcomes: Iterable[Outcome]) -> None:
        self.outcomes = list(outcomes)
        self._by_place: dict[tuple[Setting, str], dict[int, Outcome]] = {}
        for outcome in self.outcomes:
            place = (setting_of(outcome.cell), outcome.cell.strategy)
            self._by_place.setdefault(place, {})[outcome.cell.seed] = outcome

    @property
    def settings(self) -> list[Setting]:
        """The comparisons, in order."""
        return list(dict.fromkeys(setting for setting, _ in self._by_place))

    @property
    def failed(self) -> list[Outcome]:
        """Cells in which something was lost, leaked or miscounted."""
        return [outcome for outcome in self.outcomes if outcome.failed]

    def strategies(self, setting: Setting) -> list[str]:
        """List the strategies that a comparison has, in order."""
        return [strategy for among, strategy in self._by_place if among == setting]

    def seeds(self, setting: Setting, strategies: Sequence[str]) -> list[int]:
        """List the seeds that all of these strategies were run with."""
        of_each = [self._by_place.get((setting, strategy), {}) for strategy in strategies]
        return [seed for seed in of_each[0] if all(seed in of_one for of_one in of_each)] if of_each else []

    def outcome(self, setting: Setting, strategy: str, seed: int) -> Outcome:
        """Find one outcome."""
        return self._by_place[setting, strategy][seed]

    def number(self, setting: Setting, strategy: str, seed: int, column: str) -> Number:
        """Return one number of a cell's summary."""
        return self.outcome(setting, strategy, seed).summary[column]

    def numbers(self, setting: Setting, strategy: str, column: str) -> list[Number]:
        """Return a number of the summary for all seeds."""
        return [outcome.summary[column] for outcome in self._by_place[setting, strategy].values()]

    def curve(self, setting: Setting, strategy: str) -> list[tuple[float, float]]:
        """Average coverage over the seeds: (seconds, coverage), at the times at which all seeds were sampled."""
        runs = [outcome.samples for outcome in self._by_place[setting, strategy].values()]
        return [
            (moment[0].t_s, fmean(sample.coverage for sample in moment))
            for moment in zip(*runs, strict=False)
            if len({sample.t_s for sample in moment}) == 1
        ]


def rounded(row: Mapping[str, str | Number]) -> dict[str, str | Number]:
    """Round the numbers of a row to as many digits as are written."""
    return {name: round(entry, _DIGITS) if isinstance(entry, float) else entry for name, entry in row.items()}


def summary_rows(results: Results) -> Iterator[dict[str, str | Number]]:
    """Make a row of each cell."""
    for outcome in results.outcomes:
        violations = {"violations": len(outcome.violations)}
        yield rounded({**outcome.cell.coordinates(), **outcome.summary, **violations})


def series_rows(results: Results) -> Iterator[dict[str, str | Number]]:
    """Make a row of each sample of each cell."""
    for outcome in results.outcomes:
        for sample in outcome.samples:
            yield rounded({**outcome.cell.coordinates(), **asdict(sample)})


def as_csv(rows: Iterable[Mapping[str, str | Number]]) -> str:
    """Format rows as CSV, with the columns of the first as the header; empty for no rows."""
    text = io.StringIO()
    writer: csv.DictWriter[str] | None = None
    for row in rows:
        if writer is None:
            writer = csv.DictWriter(text, list(row), lineterminator="\n")
            writer.writeheader()
        writer.writerow(row)
    return text.getvalue()
