"""Claims about the design, and whether the measurements confirm them.

A claim names the strategies that decide it and a condition on their numbers. It is judged for each setting and seed in
which all of them ran: *confirmed* if it always holds, *refuted* if it never holds; otherwise it *depends*, and the cases
show on what. Only the numbers decide.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import fmean
from typing import Final

from xbd.lab.experiments.meter import Number
from xbd.lab.experiments.results import Results, Setting
from xbd.lab.experiments.tables import count, share

# By strategy and column: a number, of one seed.
Numbers = Mapping[str, Mapping[str, Number]]

# The share in superpages that the whole design must keep, and the share that today's driver falls below.
_KEEPS: Final = 0.98
_FALLS_BELOW: Final = 0.30
# A smaller difference, as a share of all memory, is not worth its cost.
_WORTH: Final = 0.02
# A part that makes up this share of a gain is most of it.
_MOST_OF_IT: Final = 0.5


class Verdict(StrEnum):
    """The verdict on a claim."""

    CONFIRMED = "confirmed"
    REFUTED = "refuted"
    DEPENDS = "depends"
    NOT_MEASURED = "not measured"


def _end(numbers: Numbers, strategy: str) -> Number:
    return numbers[strategy]["coverage_end"]


def _everywhere(setting: Setting) -> bool:
    del setting
    return True


def _without_slack(setting: Setting) -> bool:
    return setting.slack == 0


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim: what it *says*, its condition (*holds* as code, *criterion* as text), and the *columns* to print.

    *columns*: (strategy, column) each. *holds* returns None if a case cannot decide. *within*: the settings that the
    claim is about.
    """

    key: str
    says: str
    criterion: str
    columns: tuple[tuple[str, str], ...]
    holds: Callable[[Numbers], bool | None]
    within: Callable[[Setting], bool] = _everywhere

    @property
    def strategies(self) -> list[str]:
        """The strategies that decide it."""
        return list(dict.fromkeys(strategy for strategy, _ in self.columns))


@dataclass(frozen=True, slots=True)
class Case:
    """One setting: in how many seeds the claim held, and the numbers, means over the seeds."""

    setting: Setting
    seeds: tuple[int, ...]
    verdicts: tuple[bool | None, ...]
    numbers: tuple[tuple[str, str, Number], ...]

    def sentence(self) -> str:
        """Format it as a line."""
        decided = [verdict for verdict in self.verdicts if verdict is not None]
        held = f"holds in {sum(decided)} of {len(decided)} seeds" if decided else "decides nothing"
        return f"{self.setting.label()}: {', '.join(_told(*number) for number in self.numbers)}; {held}"


def _told(strategy: str, column: str, number: Number) -> str:
    kind, _, when = column.rpartition("_")
    if kind == "coverage":
        return f"{strategy} {share(number)}" + ("" if when == "end" else f" ({when})")
    return f"{strategy} {count(number)} {column.replace('_', ' ')}"


@dataclass(frozen=True, slots=True)
class Answer:
    """The verdicts on a claim, by case."""

    claim: Claim
    cases: tuple[Case, ...] = field(default=())

    @property
    def verdict(self) -> Verdict:
        """The verdict over all cases."""
        decided = [verdict for case in self.cases for verdict in case.verdicts if verdict is not None]
        if not decided:
            return Verdict.NOT_MEASURED
        if all(decided):
            return Verdict.CONFIRMED
        return Verdict.DEPENDS if any(decided) else Verdict.REFUTED

    @property
    def seeds(self) -> list[int]:
        """The seeds of all cases."""
        return sorted({seed for case in self.cases for seed in case.seeds})

    def sentence(self) -> str:
        """Format the criterion and in how many runs it held."""
        decided = [verdict for case in self.cases for verdict in case.verdicts if verdict is not None]
        if not decided:
            return f"{', '.join(self.claim.strategies)} were not run together where this could be seen"
        return f"{self.claim.criterion}: so in {sum(decided)} of {len(decided)} runs"

    def command(self, run: str) -> str:
        """Format the command that repeats it; *run* is the command of the whole experiment."""
        return " ".join([run, *(f"--only {strategy}" for strategy in self.claim.strategies)])


def judge(results: Results) -> list[Answer]:
    """Judge all claims."""
    return [Answer(claim, tuple(_cases(claim, results))) for claim in CLAIMS]


def _cases(claim: Claim, results: Results) -> Iterator[Case]:
    for setting in results.settings:
        seeds = results.seeds(setting, claim.strategies)
        if not seeds or not claim.within(setting):
            continue
        verdicts = tuple(
            claim.holds({one: results.outcome(setting, one, seed).summary for one in claim.strategies})
            for seed in seeds
        )
        numbers = tuple(
            (strategy, column, fmean(results.number(setting, strategy, seed, column) for seed in seeds))
            for strategy, column in claim.columns
        )
        yield Case(setting, tuple(seeds), verdicts, numbers)


# -- the claims


def _exchange_is_enough(numbers: Numbers) -> bool | None:
    nothing, enough = _end(numbers, "huge-queue"), _end(numbers, "relocate")
    if enough - nothing < _WORTH:
        return None
    return _end(numbers, "exchange") - nothing >= _MOST_OF_IT * (enough - nothing)


def _migration_is_most(numbers: Numbers) -> bool | None:
    gain = _end(numbers, "full") - _end(numbers, "stock")
    if gain < _WORTH:
        return None
    return _end(numbers, "full") - _end(numbers, "home") >= _MOST_OF_IT * gain


def _better(better: str, worse: str) -> Callable[[Numbers], bool]:
    """Make a condition: one strategy ends with more superpages than another, by a margin that matters."""
    return lambda numbers: _end(numbers, better) - _end(numbers, worse) >= _WORTH


def _ends(*strategies: str) -> tuple[tuple[str, str], ...]:
    return tuple((strategy, "coverage_end") for strategy in strategies)


def _exchanged(*strategies: str) -> tuple[tuple[str, str], ...]:
    return tuple((strategy, "blocks_exchanged") for strategy in strategies)


def _full_keeps(numbers: Numbers) -> bool:
    return min(numbers["full"]["coverage_mean"], _end(numbers, "full")) >= _KEEPS


CLAIMS: Final[Sequence[Claim]] = (
    Claim(
        "full-keeps",
        f"Under churn on a host without slack, the whole design keeps {_KEEPS:.0%} of memory in superpages.",
        f"full has at least {_KEEPS:.0%} in superpages, both on average over time and at the end",
        (("full", "coverage_mean"), ("full", "coverage_end")),
        _full_keeps,
        _without_slack,
    ),
    Claim(
        "stock-falls",
        f"Under the same churn, today's Xen and Linux fall below {_FALLS_BELOW:.0%}.",
        f"stock ends with less than {_FALLS_BELOW:.0%} in superpages",
        _ends("stock"),
        lambda numbers: _end(numbers, "stock") < _FALLS_BELOW,
        _without_slack,
    ),
    Claim(
        "exchange",
        "XENMEM_exchange is good enough to migrate ballooned pages; no new hypercall is needed.",
        "exchange gets back at least half of the superpages that relocate does, both over huge-queue, which migrates nothing",
        (*_ends("huge-queue", "exchange", "relocate"), ("exchange", "pages_migrated"), ("relocate", "pages_migrated")),
        _exchange_is_enough,
    ),
    Claim(
        "worker",
        "The driver needs a worker thread of its own to put superpages together again.",
        f"with a worker, beside migration or instead of it (worker-only), at least {_WORTH:.0%} more of memory ends in"
        " superpages than with relocate, which has no such thread",
        (*_ends("worker", "worker-only", "relocate"), *_exchanged("worker", "worker-only")),
        lambda numbers: (
            max(_end(numbers, "worker"), _end(numbers, "worker-only")) - _end(numbers, "relocate") >= _WORTH
        ),
    ),
    Claim(
        "huge-queue",
        "Queues of 2 MiB pages pay by themselves, without migration.",
        f"huge-queue ends with at least {_WORTH:.0%} more of memory in superpages than stock",
        (*_ends("stock", "huge-queue"), ("stock", "hypercalls"), ("huge-queue", "hypercalls")),
        _better("huge-queue", "stock"),
    ),
    Claim(
        "targets",
        "The toolstack must think in 2 MiB, too.",
        f"full ends with at least {_WORTH:.0%} more of memory in superpages than full-4k-targets",
        (*_ends("full", "full-4k-targets"), ("full", "hypercalls"), ("full-4k-targets", "hypercalls")),
        _better("full", "full-4k-targets"),
    ),
    Claim(
        "migration",
        "Most of what is gained over today is due to migration: emptying blocks, and moving ballooned pages.",
        "without migration (home) at least half of what full gains over stock is lost",
        (*_ends("stock", "home", "full"), ("full", "pages_moved"), ("full", "pages_migrated")),
        _migration_is_most,
    ),
    Claim(
        "home-fill",
        "Filling a hole with the frame that its superframe misses pays on every populate, not only in populate_depopulate.",
        f"full ends with at least {_WORTH:.0%} more of memory in superpages than relocate-only",
        _ends("full", "relocate-only"),
        _better("full", "relocate-only"),
    ),
    Claim(
        "keep-holes",
        "Sparing nearly whole superframes (keep_holes) pays.",
        f"full ends with at least {_WORTH:.0%} more of memory in superpages than full-no-keep",
        _ends("full", "full-no-keep"),
        _better("full", "full-no-keep"),
    ),
    Claim(
        "virtio",
        "Nothing of it is Xen's alone: the same driver does as well on virtio-balloon.",
        f"virtio ends within {_WORTH:.0%} of memory of full",
        (*_ends("full", "virtio"), ("virtio", "pages_half_done"), ("virtio", "migrations_without_headroom")),
        lambda numbers: _end(numbers, "full") - _end(numbers, "virtio") < _WORTH,
    ),
    Claim(
        "dearer",
        "Keeping superpages together costs more hypercalls than today's driver makes.",
        "full makes more hypercalls than stock",
        (("stock", "hypercalls"), ("full", "hypercalls"), ("stock", "extents"), ("full", "extents")),
        lambda numbers: numbers["full"]["hypercalls"] > numbers["stock"]["hypercalls"],
    ),
)
