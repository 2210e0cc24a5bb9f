"""The claims by their costs: which of two strategies is cheaper, for which prices, and from what slowdown on migration pays.

A strategy costs the processor seconds of guests and hosts for managing memory, and those that busy processors lose to memory in
4 KiB pages. Both follow from counts that each cell has, and are linear in the prices; so whether an answer holds over a
range of prices is computed, and nothing is run again. Only means of seeds are compared here; the seeds are the cells'.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from statistics import fmean
from typing import Final

from xbd.lab.costs.bill import guest_uses, host_uses
from xbd.lab.costs.counts import Counts
from xbd.lab.costs.prices import PRIMITIVES, Prices
from xbd.lab.experiments.meter import COUNT_PREFIX, Number
from xbd.lab.experiments.results import Results, Setting
from xbd.lab.experiments.tables import TextTable

# By primitive: how often it ran, or the difference of two such; of the slowdown, lost microseconds at a price of 1.
Uses = Mapping[str, float]
_SLOWDOWN: Final = "broken_slowdown"
_US: Final = 1e-6
_HOUR_S: Final = 3600.0
_BUSY: Final = (1.0, 2.0, 4.0, 12.0)
# Differences below this, in microseconds, are sums that were rounded.
_NOTHING_US: Final = 1e-3


@dataclass(frozen=True, slots=True)
class Question:
    """Whether *cheaper* costs less than *other*; *says*: the claim that this answers. *driver_only*: without the slowdown."""

    says: str
    cheaper: str
    other: str
    driver_only: bool = False


QUESTIONS: Final = (
    Question("the whole design is cheaper than today's Xen and Linux", "full", "stock"),
    Question("the same, in what the driver and its host do alone", "full", "stock", driver_only=True),
    Question("XENMEM_exchange is good enough to migrate", "exchange", "relocate"),
    Question("a worker thread pays, beside migration", "worker", "relocate"),
    Question("a worker thread pays, in place of migration", "worker-only", "relocate"),
    Question("queues of 2 MiB pay by themselves", "huge-queue", "stock"),
    Question("targets in 2 MiB pay", "full", "full-4k-targets"),
    Question("migration pays", "full", "home"),
    Question("home_fill at every populate pays", "full", "relocate-only"),
    Question("keep_holes pays", "full", "full-no-keep"),
    Question("virtio is as good, by two calls", "virtio", "full"),
    Question("Linux's compaction is as good as the driver's", "full-linux", "full"),
    Question("the design is cheaper than Linux's virtio balloon", "full", "linux-virtio"),
    Question("the design is cheaper than free page reporting", "full", "free-page-reporting"),
)
# What migrates, and what the same guest does without.
_BREAK_EVENS: Final = (("full", "home"), ("full", "stock"), ("full-linux", "home"), ("exchange", "huge-queue"))


class Answer(StrEnum):
    """The answer over all prices."""

    YES = "yes"
    NO = "no"
    SAME = "same"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Decision:
    """What the first of two costs less, in microseconds: at the prices as they are, and at least and most over all of them.

    *flips*: by price, at which value within its range, all others as they are, both cost the same.
    """

    at_value: float
    at_least: float
    at_most: float
    flips: dict[str, float]

    @property
    def answer(self) -> Answer:
        """Whether the first is cheaper."""
        if abs(self.at_least) < _NOTHING_US and abs(self.at_most) < _NOTHING_US:
            return Answer.SAME
        if self.at_least > 0:
            return Answer.YES
        return Answer.NO if self.at_most < 0 else Answer.UNDECIDED

    def sentence(self) -> str:
        """Say it, with the prices at which it flips."""
        if self.answer is not Answer.UNDECIDED:
            return self.answer.value
        flips = ", ".join(f"{name} {at:.3g}" for name, at in self.flips.items())
        return f"undecided: {flips}" if flips else "undecided: prices together"


def decide(more: Uses, prices: Prices) -> Decision:
    """Decide, by *more*, what the other of two uses more than the first (below 0: less)."""
    values = prices.values()
    at_value = sum(values[name] * times for name, times in more.items())
    at_least = at_most = 0.0
    flips: dict[str, float] = {}
    for name, times in more.items():
        price = prices.of(name)
        ends = price.least * times, price.most * times
        at_least, at_most = at_least + min(ends), at_most + max(ends)
        if times and price.least < price.most and price.least <= (even := price.value - at_value / times) <= price.most:
            flips[name] = even
    return Decision(at_value, at_least, at_most, flips)


def uses_of(summary: Mapping[str, Number], busy_processors: float) -> dict[str, float]:
    """Count how often each primitive ran in a cell, all guests together; each has so many busy processors."""
    counts = Counts(**{field.name: int(summary[COUNT_PREFIX + field.name]) for field in fields(Counts)})
    guest, host = guest_uses(counts), host_uses(counts)
    uses = {name: float(guest.get(name, 0) + host.get(name, 0)) for name in PRIMITIVES}
    uses[_SLOWDOWN] = float(summary["broken_s"]) * busy_processors / _US
    return uses


def _more(results: Results, setting: Setting, first: str, other: str, busy: float) -> list[dict[str, float]]:
    """Count what *other* uses more than *first*, by seed."""
    found = []
    for seed in results.seeds(setting, [first, other]):
        ours, theirs = (uses_of(results.outcome(setting, name, seed).summary, busy) for name in (first, other))
        found.append({name: theirs[name] - ours[name] for name in PRIMITIVES})
    return found


def _mean(of_seeds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: fmean(uses[name] for uses in of_seeds) for name in PRIMITIVES}


def priced_tables(results: Results, prices: Prices, busy_processors: float) -> list[TextTable]:
    """Tabulate the answers to all questions that were run, and where migration breaks even."""
    return [
        table
        for setting in results.settings
        for table in (_answers(results, setting, prices, busy_processors), _break_even(results, setting, prices))
        if table.rows
    ]


def _answers(results: Results, setting: Setting, prices: Prices, busy: float) -> TextTable:
    rows = []
    for question in QUESTIONS:
        of_seeds = _more(results, setting, question.cheaper, question.other, busy)
        if not of_seeds:
            continue
        if question.driver_only:
            of_seeds = [uses | {_SLOWDOWN: 0.0} for uses in of_seeds]
        decision = decide(_mean(of_seeds), prices)
        hours = _guest_hours(results, setting, question.cheaper)
        gains = [_US * end / hours for end in (decision.at_value, decision.at_least, decision.at_most)]
        cheaper = sum(decide(uses, prices).at_value > 0 for uses in of_seeds)
        rows.append(
            (
                question.says,
                f"{question.cheaper} < {question.other}",
                decision.sentence(),
                f"{gains[0]:+.2f}",
                f"{gains[1]:+.2f} to {gains[2]:+.2f}",
                f"{cheaper} of {len(of_seeds)}",
            )
        )
    about = (
        f"Prices {prices.name}, {busy_processors_of(busy)} in each guest. The gain is in processor seconds for each guest and"
        " hour, at the prices as they are, and over all of their ranges together; the price at which an answer flips is within"
        " its range, with all others as they are. Seeds: in how many the first is cheaper at the prices as they are"
    )
    head = ("claim", "measured by", "answer", "gain", "over all prices", "seeds")
    return TextTable(f"by costs: {setting.label()}", about, head, tuple(rows))


def busy_processors_of(busy: float) -> str:
    """Format a number of busy processors."""
    return f"{busy:g} busy processor" + ("" if busy == 1 else "s")


def _guest_hours(results: Results, setting: Setting, strategy: str) -> float:
    seconds = fmean(float(number) for number in results.numbers(setting, strategy, "run_s"))
    return seconds * float(results.numbers(setting, strategy, "guests")[0]) / _HOUR_S


def _break_even(results: Results, setting: Setting, prices: Prices) -> TextTable:
    rows = []
    for first, other in _BREAK_EVENS:
        of_seeds = _more(results, setting, first, other, 1.0)
        if of_seeds:
            rows.append((f"{first} over {other}", *(break_even(_mean(of_seeds), prices, busy) for busy in _BUSY)))
    about = (
        "The share of a busy processor that memory in 4 KiB pages must cost for migration to pay, at the prices as they are, and"
        " at the other prices' joint extremes in brackets; published are 3 to 22 %"
    )
    head = ("break-even slowdown", *(busy_processors_of(busy) for busy in _BUSY))
    return TextTable(f"where migration pays: {setting.label()}", about, head, tuple(rows))


def break_even(more: Uses, prices: Prices, busy_processors: float) -> str:
    """Say from what slowdown on the first of two is cheaper; *more* is of one busy processor."""
    work = decide({**more, _SLOWDOWN: 0.0}, prices)
    lost_us = more[_SLOWDOWN] * busy_processors
    if lost_us <= _NOTHING_US:
        return "always" if work.at_least > 0 else "never" if work.at_value <= 0 else "it depends"
    at, most, least = (-end / lost_us for end in (work.at_value, work.at_least, work.at_most))
    if most <= 0:
        return "always"
    return f"{max(at, 0.0):.2%} ({max(least, 0.0):.2%} to {most:.2%})"
