"""The comparisons of strategies as tables of text, used by the report and the page."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import Final

from xbd.lab.experiments.meter import Number
from xbd.lab.experiments.results import Results, Setting

# The number of times at which coverage over time is shown.
_MOMENTS: Final = 9


@dataclass(frozen=True, slots=True)
class TextTable:
    """A table: *rows* as long as *head*, the first column names the row. *about* explains it."""

    title: str
    about: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def share(number: Number) -> str:
    """Format a share as a percentage."""
    return f"{number:.1%}"


def count(number: Number) -> str:
    """Format a count, or a mean of counts."""
    return f"{number:,.0f}"


def seconds(number: Number) -> str:
    """Format seconds."""
    return f"{number:.1f}"


@dataclass(frozen=True, slots=True)
class Measure:
    """A column of a comparison: the *column* of the results, how it is formatted, and how seeds are combined."""

    head: str
    column: str
    written: Callable[[Number], str]
    meaning: str
    over_seeds: Callable[[list[Number]], Number] = fmean


_COVERAGE: Final = (
    Measure("superpages", "coverage_mean", share, "of the guests' memory, the share in superpages, mean over time"),
    Measure("at the end", "coverage_end", share, "the same at the end"),
    Measure("worst seed", "coverage_end", share, "the same at the end, of the worst seed", min),
    Measure("free whole", "free_whole_mean", share, "of the host's free memory, the share in whole superframes, mean over time"),
    Measure("its end", "free_whole_end", share, "the same at the end (100 % where nothing is free)"),
    Measure("free pages", "free_pages_end", count, "free on the host at the end"),
    Measure("leaves", "leaves_end", count, "superpages in the p2m at the end"),
    Measure("4K entries", "entries_4k_end", count, "other translation entries of the p2m at the end"),
    Measure("per GiB", "entries_per_gib_end", count, "translation entries of both kinds for a GiB of memory (512 at best)"),
    Measure("balloon whole", "balloon_whole_end", share, "of what the balloons withhold, the share in 2 MiB pages at the end"),
)  # fmt: skip
_WORK: Final = (
    Measure("hypercalls", "hypercalls", count, "of all guests"),
    Measure("cut short", "hypercalls_refused", count, "hypercalls that did not do all that they were asked"),
    Measure("extents", "extents", count, "done by hypercalls"),
    Measure("moved", "pages_moved", count, "in-use pages that compaction moved"),
    Measure("migrated", "pages_migrated", count, "ballooned pages that migrated"),
    Measure("exchanged", "blocks_exchanged", count, "2 MiB pages that the periodic worker exchanged 512 small ones for"),
    Measure("half done", "pages_half_done", count, "migrations of which only the first of two calls worked"),
    Measure("not migrated", "pages_not_migrated", count, "migrations of which nothing was done"),
    Measure("no headroom", "migrations_without_headroom", count, "batches of two calls that found no page to begin with"),
    Measure("exch. failed", "exchanges_failed", count, "exchanges of the periodic worker that the host refused"),
    Measure("passes failed", "compaction_failures", count, "compaction passes that achieved nothing"),
    Measure("denied", "pages_denied", count, "pages that programs wanted and did not get"),
    Measure("targets", "targets_set", count, "set"),
    Measure("missed", "targets_missed", count, "targets not reached before the next one, or the end"),
    Measure("wait s", "target_wait_median_s", seconds, "until a target was reached, median: only what drivers wait for, not what copying takes"),
    Measure("longest", "target_wait_worst_s", seconds, "the longest such wait of any seed", max),
)  # fmt: skip


def comparisons(results: Results, setting: Setting) -> Iterator[TextTable]:
    """Compare the strategies of one setting."""
    for title, measures in (("superpages and free memory", _COVERAGE), ("work and trouble", _WORK)):
        rows = [
            (strategy, *(_cell(results, setting, strategy, measure) for measure in measures))
            for strategy in results.strategies(setting)
        ]
        about = "; ".join(f"{measure.head}: {measure.meaning}" for measure in measures)
        yield TextTable(title, about, ("strategy", *(measure.head for measure in measures)), tuple(rows))
    yield _over_time(results, setting)


def _cell(results: Results, setting: Setting, strategy: str, measure: Measure) -> str:
    return measure.written(measure.over_seeds(results.numbers(setting, strategy, measure.column)))


def _over_time(results: Results, setting: Setting) -> TextTable:
    """Show coverage at a few times."""
    curves = {strategy: results.curve(setting, strategy) for strategy in results.strategies(setting)}
    longest = max(curves.values(), key=len)
    picked = sorted({round(step * (len(longest) - 1) / (_MOMENTS - 1)) for step in range(_MOMENTS)})
    moments = [longest[at][0] for at in picked]
    rows = []
    for strategy, curve in curves.items():
        coverage_at = dict(curve)
        rows.append((strategy, *(share(coverage_at[moment]) if moment in coverage_at else "" for moment in moments)))
    head = ("strategy", *(f"{moment:,.0f} s" for moment in moments))
    return TextTable(
        "superpages over time", "of the guests' memory, the share in superpages, mean of the seeds", head, tuple(rows)
    )
