"""The cells of an experiment; each holds everything that its outcome depends on."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final

from xbd.guest import DriverSettings
from xbd.guest.workload import Trace

_DIGEST_CHARS: Final = 24
# Long, as traces last for hours.
TRACE_SAMPLE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Budget:
    """How much a driver may move and migrate at a time, by the names of the driver's settings; None: the strategy's own."""

    name: str
    compaction_batches: int | None = None
    compaction_check_s: float | None = None
    vacate_blocks: int | None = None
    move_pages_s: float | None = None

    def apply(self, driver: DriverSettings) -> DriverSettings:
        """Return the driver's settings with this budget."""
        if self.compaction_batches is not None:
            driver = replace(driver, compaction_batches=self.compaction_batches)
        if self.compaction_check_s is not None:
            driver = replace(driver, compaction_check_s=self.compaction_check_s)
        if self.vacate_blocks is not None:
            driver = replace(driver, vacate_blocks=self.vacate_blocks)
        if self.move_pages_s is not None:
            driver = replace(driver, move_pages_s=self.move_pages_s)
        return driver


OWN_BUDGET: Final = Budget("own")


@dataclass(frozen=True, slots=True)
class Churn:
    """Equal guests on one host, between which targets move memory: what one gives up another gets.

    *profile* with *options* runs in each of *guests* guests of *memory_pages*. Targets stay between *least* of that and
    all of it. After *rounds* of *round_s* seconds, for *quiet_s* seconds programs continue and targets stay.
    """

    name: str
    profile: str
    guests: int
    memory_pages: int
    options: tuple[tuple[str, float | int], ...] = ()
    rounds: int = 24
    round_s: float = 20.0
    quiet_s: float = 60.0
    least: float = 0.45
    sample_s: float = 5.0
    verify: bool = False

    @property
    def total_pages(self) -> int:
        """The sum of the guests' memory."""
        return self.guests * self.memory_pages

    def about(self) -> str:
        """Return a one-line description."""
        options = "".join(f", {name} {value:g}" for name, value in self.options)
        return (
            f"{self.guests} guests of {self.memory_pages // 256} MiB run {self.profile}{options};"
            f" {self.rounds} rounds of {self.round_s:g} s in which targets move, not below {self.least:.0%} of a guest,"
            f" then {self.quiet_s:g} s of quiet{'; every content word is checked' if self.verify else ''}"
        )


@dataclass(frozen=True, slots=True)
class Recorded:
    """Real guests' traces, replayed together on one host, a guest each; targets follow demand.

    *traces*: their names; *digests*: of their content, so that another trace of the same name makes another cell.
    """

    name: str
    traces: tuple[str, ...]
    digests: tuple[str, ...]
    total_pages: int
    sample_s: float = TRACE_SAMPLE_S
    verify: bool = False

    def about(self) -> str:
        """Return a one-line description."""
        return f"traces of real guests, together on one host: {', '.join(self.traces)}"


Workload = Churn | Recorded
# The defaults of a churn.
USUAL_CHURN: Final = Churn("churn", "steady", 4, 0)


@dataclass(frozen=True, slots=True)
class Cell:
    """One run, on a host *overcommit* times smaller than its guests, of which the share *slack* is never given out."""

    strategy: str
    workload: Workload
    overcommit: float
    slack: float
    budget: Budget
    seed: int

    def key(self, model: str) -> str:
        """Return the key of this cell's outcome with this version of the model: equal keys, equal outcomes."""
        return digest(json.dumps([model, asdict(self)], sort_keys=True).encode())

    def coordinates(self) -> dict[str, str | float | int]:
        """Return its place in the grid, as columns of a table."""
        return {
            "strategy": self.strategy,
            "workload": self.workload.name,
            "overcommit": self.overcommit,
            "slack": self.slack,
            "budget": self.budget.name,
            "seed": self.seed,
        }

    def label(self) -> str:
        """Format it for people."""
        return (
            f"{self.strategy}, {self.workload.name}, overcommit {self.overcommit:g}, slack {self.slack:g},"
            f" budget {self.budget.name}, seed {self.seed}"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """An experiment: *cells* in the order of the report; *traces* by digest, for the cells that replay some."""

    name: str
    about: str
    cells: tuple[Cell, ...]
    traces: Mapping[str, Trace]

    @property
    def strategies(self) -> list[str]:
        """The strategies compared, in order."""
        return list(dict.fromkeys(cell.strategy for cell in self.cells))

    @property
    def workloads(self) -> list[Workload]:
        """The workloads, in order."""
        return list(dict.fromkeys(cell.workload for cell in self.cells))

    def traces_of(self, cell: Cell) -> tuple[Trace, ...]:
        """List the traces that a cell replays."""
        played = cell.workload.digests if isinstance(cell.workload, Recorded) else ()
        return tuple(self.traces[digest] for digest in played)

    def only(self, strategies: tuple[str, ...]) -> "Grid":
        """Return the grid with these strategies only; all if none is named."""
        kept = tuple(cell for cell in self.cells if not strategies or cell.strategy in strategies)
        return replace(self, cells=kept)


def digest(content: bytes) -> str:
    """Return a short hash of *content*."""
    return hashlib.sha256(content).hexdigest()[:_DIGEST_CHARS]


def digest_trace(trace: Trace) -> str:
    """Return a short hash of a trace's content."""
    columns = (trace.seconds, trace.anon_pages, trace.cache_pages)
    return digest(str(trace.total_pages).encode() + b"".join(column.tobytes() for column in columns))


def record(name: str, traces: Sequence[Trace], *, sample_s: float = TRACE_SAMPLE_S, verify: bool = False) -> Recorded:
    """Make a workload of traces, with a guest for each."""
    names = tuple(trace.name for trace in traces)
    digests = tuple(digest_trace(trace) for trace in traces)
    return Recorded(name, names, digests, sum(trace.total_pages for trace in traces), sample_s, verify)
