"""What the runs of an arena say, as tables: standings, and who falls for which known failure; pure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from xbd.lab.arena.cell import ArenaOutcome
from xbd.lab.arena.scenarios import SCENARIOS
from xbd.lab.experiments.tables import TextTable

_COLUMNS: Final = (
    ("held GiB h", "held_gib_h", "{:,.2f}"),
    ("denied", "denied_pages", "{:,.0f}"),
    ("p50 s", "wait_p50_s", "{:.2f}"),
    ("p99 s", "wait_p99_s", "{:.2f}"),
    ("worst s", "wait_worst_s", "{:.1f}"),
    ("need to having p99 s", "had_p99_s", "{:.1f}"),
    ("refaults", "refaults", "{:,.0f}"),
    ("targets", "targets", "{:,.0f}"),
    ("taken back", "reversals", "{:,.0f}"),
    ("superpages", "superpages", "{:.1%}"),
    ("hypercalls", "hypercalls", "{:,.0f}"),
    ("extents", "extents", "{:,.0f}"),
    ("moved", "pages_moved", "{:,.0f}"),
)
_ABOUT: Final = (
    "means over the seeds. held: all guests' memory over time; denied: pages that programs gave up; p50, p99, worst: of the"
    " seconds in which a guest's programs asked for something, how long they waited for memory and for files that had to be"
    " read again; need to having: of those that did not have it at once; taken back: targets that go the other way than the last one, within a minute;"
    " superpages: of what is held, mean over time; hypercalls, extents, moved: what moving memory costs"
)


@dataclass(frozen=True, slots=True)
class Standing:
    """A policy in one setting: its *outcomes*, one for each seed."""

    policy: str
    guests: str
    overcommit: float
    outcomes: tuple[ArenaOutcome, ...]

    @property
    def held(self) -> float:
        """The memory that its guests hold, in GiB hours."""
        return self.mean("held_gib_h")

    def mean(self, column: str) -> float:
        """Return the mean of a column over the seeds."""
        return fmean(outcome.summary[column] for outcome in self.outcomes)


def standings(outcomes: Iterable[ArenaOutcome]) -> list[Standing]:
    """Put the outcomes of all seeds together, but those of known failures."""
    grouped: dict[tuple[str, str, float], list[ArenaOutcome]] = {}
    for outcome in outcomes:
        cell = outcome.cell
        if cell.guests.name not in SCENARIOS:
            grouped.setdefault((cell.entry.name, cell.guests.name, cell.overcommit), []).append(outcome)
    return [Standing(*key, tuple(of)) for key, of in grouped.items()]


def tables(found: Sequence[Standing]) -> Iterator[TextTable]:
    """Compare the policies of each setting."""
    settings = dict.fromkeys((each.guests, each.overcommit) for each in found)
    for guests, overcommit in settings:
        rows = [
            (each.policy, *(written.format(each.mean(column)) for _, column, written in _COLUMNS))
            for each in found
            if (each.guests, each.overcommit) == (guests, overcommit)
        ]
        head = ("policy", *(name for name, _, _ in _COLUMNS))
        yield TextTable(f"{guests}, overcommit {overcommit:g}", _ABOUT, head, tuple(rows))


def failures(outcomes: Iterable[ArenaOutcome]) -> TextTable:
    """Say who falls for which known failure."""
    rows = []
    for outcome in outcomes:
        scenario = SCENARIOS.get(outcome.cell.guests.name)
        if scenario is not None:
            falls, measured = scenario.measure(outcome)
            rows.append((scenario.name, outcome.cell.entry.name, "falls for it" if falls else "does not", measured))
    about = "; ".join(f"{scenario.name}: {scenario.about}" for scenario in SCENARIOS.values())
    return TextTable("Known failures", about, ("failure", "policy", "verdict", "measured"), tuple(rows))
