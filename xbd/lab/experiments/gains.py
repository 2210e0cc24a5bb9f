"""The gain of each part of the design: how many superpages are missing without it; pure."""

from statistics import fmean
from typing import Final

from xbd.lab.experiments.results import Results, Setting
from xbd.lab.experiments.tables import TextTable

# A part, a strategy that has it, and one that differs in lacking it.
_PARTS: Final = (
    ("all of it", "full", "stock"),
    ("migration", "full", "home"),
    ("2 MiB targets", "full", "full-4k-targets"),
    ("home_fill always", "full", "relocate-only"),
    ("keep_holes", "full", "full-no-keep"),
    ("2 MiB queue, over stock", "huge-queue", "stock"),
    ("exchange, over huge-queue", "exchange", "huge-queue"),
    ("worker, over huge-queue", "worker-only", "huge-queue"),
    ("home_fill in migration", "relocate", "exchange"),
    ("home_fill always and keep_holes, targets in 4 KiB", "full-4k-targets", "relocate"),
)


def gains_of(results: Results) -> TextTable:
    """Tabulate the share of superpages at the end that each part gains."""
    settings = [setting for setting in results.settings if results.seeds(setting, ["full", "stock"])]
    rows = tuple(
        (part, f"{more} - {less}", *(_gain(results, setting, more, less) for setting in settings))
        for part, more, less in _PARTS
    )
    about = (
        "Points of all memory in superpages at the end, mean of the seeds, lowest and highest in brackets. Parts need"
        " each other, so they do not add up to the whole."
    )
    return TextTable(
        "what each part is worth", about, ("part", "measured by", *(setting.label() for setting in settings)), rows
    )


def _gain(results: Results, setting: Setting, more: str, less: str) -> str:
    seeds = results.seeds(setting, [more, less])
    if not seeds:
        return "-"
    points = [
        100
        * (results.number(setting, more, seed, "coverage_end") - results.number(setting, less, seed, "coverage_end"))
        for seed in seeds
    ]
    return f"{fmean(points):+.1f} ({min(points):+.1f}..{max(points):+.1f})"
