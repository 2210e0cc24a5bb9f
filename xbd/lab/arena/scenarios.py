"""The known failures of policies, each a scenario: guests that bring it out, and by which figure it is told; pure.

The guests' needs fit the host in each, so nobody has to go without: who falls for one is its policy's doing. A figure and
its limit are all that decides; what was measured is told with it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from xbd.lab.arena.cell import SILENT, ArenaCell, ArenaOutcome, Entry, GuestSet, Member
from xbd.units import MIB_PAGES

_MEMORY_PAGES: Final = 1024 * MIB_PAGES
_SECONDS: Final = 900
# Who waits for files for more than a tenth of each second has too little cache.
_MOST_WAIT_S: Final = 0.1
# Targets that are taken back within a minute, for a guest and minute.
_MOST_REVERSALS: Final = 0.5


@dataclass(frozen=True, slots=True)
class Scenario:
    """A known failure: *about* says what went wrong somewhere; *kinds* of guests (kind, mode); what is measured, and falls."""

    name: str
    about: str
    kinds: tuple[tuple[str, str], ...]
    measure: Callable[[ArenaOutcome], tuple[bool, str]]
    overcommit: float = 1.5

    @property
    def guests(self) -> GuestSet:
        """The guests of it."""
        members = tuple(Member(kind, _MEMORY_PAGES, kind, mode=mode) for kind, mode in self.kinds)
        return GuestSet(f"failure: {self.name}", members)

    def cell(self, entry: Entry, seed: int) -> ArenaCell:
        """Make the cell in which a policy meets it."""
        return ArenaCell(entry, self.guests, self.overcommit, seed, _SECONDS)


def _denied(outcome: ArenaOutcome) -> tuple[bool, str]:
    denied = int(outcome.summary["denied_pages"])
    return denied > 0, f"{denied:,} pages denied, {outcome.summary['wait_worst_s']:.0f} s the longest wait"


def _slow_files(outcome: ArenaOutcome) -> tuple[bool, str]:
    wait = outcome.summary["wait_p99_s"]
    return wait > _MOST_WAIT_S, f"p99 wait {wait:.2f} s, {int(outcome.summary['refaults']):,} pages read again"


def _swings(outcome: ArenaOutcome) -> tuple[bool, str]:
    each = outcome.summary["reversals"] / len(outcome.cell.guests.members) / (outcome.cell.seconds / 60)
    return each > _MOST_REVERSALS, f"{each:.2f} targets taken back for each guest and minute"


def _of(*kinds: str) -> tuple[tuple[str, str], ...]:
    return tuple((kind, "normal") for kind in kinds)


_ALL: Final = (
    Scenario(
        "pending targets",
        "A target made from what a slow guest holds now, while an earlier one is under way, took nearly all it had",
        (("bursty", "slow 16MiB/s"), ("steady", "slow 16MiB/s"), ("idle", "slow 16MiB/s"), ("idle", "normal")),
        _denied,
    ),
    Scenario(
        "never restored",
        "An idle guest that was ballooned to its minimum needs memory again, and does not get it",
        _of("waking", "idle", "idle", "steady"),
        _denied,
    ),
    Scenario(
        "free is not all",
        "Memory that is free in guests is looked at, and not what could be reclaimed there: worthless cache is left to them",
        _of("hoarder", "hoarder", "bursty", "bursty", "idle"),
        _denied,
    ),
    Scenario(
        "cache is not free",
        "Page cache that is needed counts as free: a guest that reads files waits for its disk",
        _of("needy", "needy", "idle", "idle"),
        _slow_files,
    ),
    Scenario(
        "a minute of files",
        "A guest that reads files for a minute is given memory too late, or not at all",
        _of("reader", "reader", "idle", "idle"),
        _slow_files,
    ),
    Scenario(
        "transients",
        "Needs of some seconds are missed between two looks, and programs wait or end",
        _of("spiky", "spiky", "spiky", "steady"),
        _denied,
    ),
    Scenario("oscillation", "Targets chase each other: what one gets is taken back at once", _of("bursty", "reader", "spiky", "steady"), _swings),
    Scenario(
        "demand without a balloon",
        "A guest that reports demand and cannot balloon starves the others",
        (("hoarder", "stuck"), ("bursty", "normal"), ("bursty", "normal"), ("idle", "normal")),
        _denied,
    ),
    Scenario(
        "a liar",
        "A guest that reports that it needs everything gets it, and the others go without",
        (("idle", "lies"), ("bursty", "normal"), ("bursty", "normal"), ("idle", "normal")),
        _denied,
    ),
    Scenario(
        "a silent guest",
        "A guest that reports nothing is never given anything",
        (("waking", SILENT), ("idle", "normal"), ("idle", "normal"), ("steady", "normal")),
        _denied,
    ),
)  # fmt: skip
SCENARIOS: Final[Mapping[str, Scenario]] = {scenario.guests.name: scenario for scenario in _ALL}
