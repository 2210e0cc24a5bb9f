"""What the runs of an arena say, as tables: standings, equal memory held, and who falls for which known failure; pure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from xbd.config.policies import DEFAULT_POLICY
from xbd.lab.arena.cell import ArenaOutcome
from xbd.lab.arena.scenarios import SCENARIOS
from xbd.lab.experiments.tables import TextTable

# As much memory: no further apart than this part of it.
EQUAL: Final = 0.02
# The default earns its place where it waits at most so many times as long as the best other. Less than a tenth of a second
# is no wait that anybody notices, and no ratio is made of it.
_MOST_TIMES: Final = 1.1
_NOTICED_S: Final = 0.1
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


def equal_memory(found: Sequence[Standing]) -> TextTable:
    """Compare the default with the best other that holds as much memory, at whatever overcommit that is."""
    rows = []
    for own in (each for each in found if each.policy == DEFAULT_POLICY):
        held, wait = own.mean("held_gib_h"), own.mean("wait_p99_s")
        others = [
            each
            for each in found
            if each.policy != DEFAULT_POLICY
            and each.guests == own.guests
            and abs(each.mean("held_gib_h") - held) <= EQUAL * held
        ]
        best = min(others, key=lambda each: each.mean("wait_p99_s"), default=None)
        setting = (own.guests, f"{own.overcommit:g}", f"{held:,.2f}", f"{wait:.2f}")
        if best is None:
            rows.append((*setting, "none holds as much", "", "not compared"))
            continue
        other = best.mean("wait_p99_s")
        kinder = min(others, key=lambda each: each.mean("denied_pages"))
        if wait > max(_MOST_TIMES * other, _NOTICED_S):
            verdict = f"falls short: {_why(own, best)}"
        elif own.mean("denied_pages") > _MOST_TIMES * kinder.mean("denied_pages"):
            # Who denies little often waits little, too: the rare ones that wait in vain do not show in p99.
            verdict = f"falls short: {_why(own, kinder)} ({kinder.policy} at {kinder.overcommit:g})"
        else:
            verdict = "holds"
        rows.append((*setting, f"{best.policy} at {best.overcommit:g}", f"{other:.2f}", verdict))
    about = (
        f"p99 wait of the default, {DEFAULT_POLICY}, against that of the best other that holds as much memory within {EQUAL:.0%}; it holds where"
        f" its wait is at most {_MOST_TIMES:g} times as long, or under {_NOTICED_S:g} s, and it denies no more pages than that times the least of them"
    )
    head = ("guests", "overcommit", "held GiB h", "p99 s", "best other", "its p99 s", "the default")
    return TextTable("The default at equal memory held", about, head, tuple(rows))


def _why(own: Standing, best: Standing) -> str:
    """Say by what the other is better, as far as the figures tell."""
    parts = []
    for column, words in (
        ("denied_pages", "pages denied"),
        ("refaults", "pages read again"),
        ("short_guest_s", "guest seconds without memory"),
    ):
        mine, other = own.mean(column), best.mean(column)
        if mine > _MOST_TIMES * other:
            parts.append(f"{mine:,.0f} {words} against {other:,.0f}")
    return "; ".join(parts) or "its waits are longer with no more pages denied or read again"


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
