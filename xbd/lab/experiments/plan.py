"""The grid file that `xbd experiment` reads: TOML text to cells, with errors that name file, key and reason.

A grid file describes workloads (`[[workload]]`) and budgets for migration (`[[budget]]`). Each `[[grid]]` says what is
combined: all of a grid's strategies with all of its workloads, overcommits,
slacks, budgets and seeds. `configs/experiments/debate.toml` shows every key. A cell of several grids runs once.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import numpy as np

from xbd.abi import MAX_DOMAIN_PAGES
from xbd.config.strategies import STRATEGIES
from xbd.config.toml import load_toml, read_file
from xbd.errors import BadSetting, ConfigError, TraceError
from xbd.guest.workload import PROFILES, Profile, Steady, Trace
from xbd.lab.experiments.grid import (
    OWN_BUDGET,
    TRACE_SAMPLE_S,
    USUAL_CHURN,
    Budget,
    Cell,
    Churn,
    Grid,
    Recorded,
    Workload,
    digest_trace,
    record,
)
from xbd.settings import ListOf, Section, Variant, choice, flag, number, size, text, whole

# Reads a trace by its path. Raises TraceError.
ReadTrace = Callable[[Path], Trace]
_Named = TypeVar("_Named", Budget, Workload)
_OWN: Final = "own"
# More cells are most likely a mistake.
MAX_CELLS: Final = 100_000
_MAX_SEED: Final = (1 << 31) - 1
_MOST_GUESTS: Final = 1000
_MOST_ROUNDS: Final = 100_000
_DAY_S: Final = 86_400.0
_YEAR_S: Final = 366 * _DAY_S
_MOST_OVERCOMMIT: Final = 16.0
_MOST_SLACK: Final = 0.9
_MOST_BATCHES: Final = 1 << 20
_LEAST_S: Final = 0.01


@dataclass(frozen=True, kw_only=True)
class ExperimentTable:
    """The section [experiment]."""

    name: Annotated[str | None, text("the question; left out: the file's name")] = None
    about: Annotated[str, text("what it is about", lines=True)] = ""


@dataclass(frozen=True, kw_only=True)
class BudgetTable:
    """A section [[budget]]; what is left out is each strategy's own. Raises BadSetting: it takes the name of that."""

    name: Annotated[str, text("by which grids name it", missing="is missing")]
    compaction_batches: Annotated[int | None, whole("batches migrated at a time", 0, _MOST_BATCHES)] = None
    compaction_check_s: Annotated[
        float | None, number("how often is looked for what to migrate", _LEAST_S, _DAY_S, "seconds")
    ] = None
    vacate_blocks: Annotated[int | None, whole("blocks emptied at a time for an inflation", 0, _MOST_BATCHES)] = None
    move_pages_s: Annotated[
        float | None, number("in-use pages moved in a second at most; 0: no bound", 0, _MOST_BATCHES)
    ] = None

    def __post_init__(self) -> None:
        if self.name == _OWN:
            raise BadSetting("name", f"{_OWN!r} is what each strategy does by itself; choose another name")

    def budget(self) -> Budget:
        """Make the budget."""
        return Budget(
            self.name, self.compaction_batches, self.compaction_check_s, self.vacate_blocks, self.move_pages_s
        )


@dataclass(frozen=True, kw_only=True)
class LoadTable:
    """What both kinds of [[workload]] have in common."""

    name: Annotated[str, text("by which grids name it", missing="is missing")]
    sample_s: Annotated[
        float | None,
        number("how often the host is looked at; left out: 5, or 60 with traces", _LEAST_S, _DAY_S, "seconds"),
    ] = None
    verify: Annotated[bool, flag("whether every content word is checked")] = False


@dataclass(frozen=True, kw_only=True)
class ChurnTable(LoadTable):
    """A section [[workload]] of equal guests. Raises BadSetting: its guests do block I/O."""

    profile: Annotated[
        Profile,
        Variant(
            kinds=PROFILES,
            hints={"trace": 'a trace is named by its file: traces = ["FILE.csv"]'},
            doc="what runs in the guests",
        ),
    ] = Steady()  # noqa: RUF009 - frozen
    guests: Annotated[int, whole("how many on one host", 2, _MOST_GUESTS)] = USUAL_CHURN.guests
    memory_pages: Annotated[int, size("of each guest; not with traces", MAX_DOMAIN_PAGES, key="memory")]
    rounds: Annotated[int, whole("in each, targets move from guest to guest", 1, _MOST_ROUNDS)] = USUAL_CHURN.rounds
    round_s: Annotated[float, number("the length of a round", 1, _DAY_S, "seconds")] = USUAL_CHURN.round_s
    quiet_s: Annotated[
        float, number("for how long programs go on in the end while targets stay", 0, _DAY_S, "seconds")
    ] = USUAL_CHURN.quiet_s
    least: Annotated[float, number("the share of a guest's memory below which no target goes", 0, 1)] = (
        USUAL_CHURN.least
    )

    def __post_init__(self) -> None:
        if self.profile.io_pages_s:
            raise BadSetting("profile.io_pages_s", "block I/O needs a dom0, which an experiment has not")

    def workload(self, raw: object) -> Churn:
        """Make the workload, of which *raw* is the profile as it was written."""
        options: dict[str, Any] = dict(raw) if isinstance(raw, dict) else {"profile": raw or "steady"}
        profile = str(options.pop("profile"))
        return Churn(
            self.name,
            profile,
            self.guests,
            self.memory_pages,
            tuple(sorted(options.items())),
            self.rounds,
            self.round_s,
            self.quiet_s,
            self.least,
            self.sample_s or USUAL_CHURN.sample_s,
            self.verify,
        )


@dataclass(frozen=True, kw_only=True)
class TracesTable(LoadTable):
    """A section [[workload]] of recorded guests, all on one host. Raises BadSetting: the window is none."""

    traces: Annotated[
        tuple[str, ...],
        ListOf(
            item=text(""),
            doc="files, relative to this one; a guest for each, instead of the keys from profile to least",
        ),
    ]
    window_s: Annotated[
        tuple[float, ...],
        ListOf(item=number("", 0, _YEAR_S, "seconds"), doc="[FROM, TO], what of the traces is played"),
    ] = ()

    def __post_init__(self) -> None:
        if self.window_s and (len(self.window_s) != 2 or self.window_s[0] >= self.window_s[1]):
            raise BadSetting("window_s", "is not [FROM, TO], seconds of the trace with FROM before TO")

    def workload(self, directory: Path, traces: dict[str, Trace], read_trace: ReadTrace) -> Recorded:
        """Make the workload, and put its traces among *traces*. Raises BadSetting: one cannot be read."""
        first_s, end_s = self.window_s or (0.0, _YEAR_S)
        cut_at = f"[{first_s:g}:{end_s:g}]" if self.window_s else ""
        chosen: list[Trace] = []
        for path in self.traces:
            try:
                trace = cut(read_trace(directory / Path(path).expanduser()), first_s, end_s)
            except TraceError as error:
                raise BadSetting("traces", str(error)) from error
            chosen.append(replace(trace, name=trace.name + cut_at))
        traces.update((digest_trace(trace), trace) for trace in chosen)
        return record(self.name, chosen, sample_s=self.sample_s or TRACE_SAMPLE_S, verify=self.verify)


@dataclass(frozen=True, kw_only=True)
class GridTable:
    """A section [[grid]]: all of its keys are combined; none of a key: what its default says."""

    strategies: Annotated[
        tuple[str, ...], ListOf(item=choice("", STRATEGIES), doc="which are compared; left out: all")
    ] = tuple(STRATEGIES)
    workloads: Annotated[tuple[str, ...] | None, ListOf(item=text(""), doc="names; left out: all")] = None
    overcommit: Annotated[
        tuple[float, ...],
        ListOf(item=number("", 1, _MOST_OVERCOMMIT), or_one=True, distinct=True, doc="guests' memory over the host's"),
    ] = (1.5,)
    slack: Annotated[
        tuple[float, ...],
        ListOf(item=number("", 0, _MOST_SLACK), or_one=True, distinct=True, doc="share of the host never given out"),
    ] = (0.0,)
    budgets: Annotated[tuple[str, ...], ListOf(item=text(""), doc='names; "own" is each strategy\'s own')] = (_OWN,)
    seeds: Annotated[tuple[int, ...], ListOf(item=whole("", 0, _MAX_SEED), distinct=True, doc="a cell for each")] = (0,)

    def cells(
        self, workloads: Mapping[str, Workload], added: list[Workload], budgets: Mapping[str, Budget]
    ) -> list[Cell]:
        """Combine. Raises BadSetting: a name of no workload or budget, or there is no workload."""
        for key, names, known in (("workloads", self.workloads or (), workloads), ("budgets", self.budgets, budgets)):
            for name in names:
                if name not in known:
                    raise BadSetting(key, f"{name!r} is not one of {', '.join(known) or 'none'}")
        played = [*(workloads[name] for name in self.workloads or workloads), *added]
        if not played:
            raise BadSetting("workloads", "there is none; describe one in [[workload]], or give --trace FILE")
        chosen = [budgets[name] for name in self.budgets]
        return [
            Cell(strategy, workload, overcommit, slack, budget, seed)
            for workload, overcommit, slack, budget, strategy, seed in product(
                played, self.overcommit, self.slack, chosen, self.strategies, self.seeds
            )
        ]


@dataclass(frozen=True, kw_only=True)
class ExperimentFile:
    """A whole grid file. Which of the two kinds a [[workload]] is of, says whether it names traces."""

    experiment: Annotated[ExperimentTable, Section(of=ExperimentTable)] = field(default_factory=ExperimentTable)
    budget: Annotated[tuple[BudgetTable, ...], Section(of=BudgetTable, many=True)] = ()
    workload: Annotated[
        tuple[ChurnTable | TracesTable, ...],
        Section(of=ChurnTable, other=TracesTable, other_key="traces", many=True),
    ] = ()
    grid: Annotated[
        tuple[GridTable, ...],
        Section(of=GridTable, many=True, missing="is missing; a [[grid]] says what is to be combined with what"),
    ]


def parse_grid(text: str, path: Path, read_trace: ReadTrace, more_traces: Sequence[Trace] = ()) -> Grid:
    """Parse the text of a grid file; *path* names it in errors, and its traces are relative to it.

    *more_traces*, if any, are one more workload of every grid, together on one host.

    Raises:
        ConfigError: naming the key and the reason.
    """
    raw = load_toml(text, path)
    file = read_file(ExperimentFile, raw, path)
    traces = {digest_trace(trace): trace for trace in more_traces}
    at = ""
    try:
        budgets = {_OWN: OWN_BUDGET, **_by_name((table.budget() for table in file.budget), "budget")}
        loads: list[Workload] = []
        for nth, table in enumerate(file.workload):
            at = f"workload[{nth + 1}]."
            if isinstance(table, ChurnTable):
                loads.append(table.workload(raw["workload"][nth].get("profile")))
            else:
                loads.append(table.workload(path.parent, traces, read_trace))
        at = ""
        workloads = _by_name(loads, "workload")
        added: list[Workload] = [record("traces", more_traces)] if more_traces else []
        cells: dict[Cell, None] = {}
        for nth, grid in enumerate(file.grid, start=1):
            at = f"grid[{nth}]."
            cells.update(dict.fromkeys(grid.cells(workloads, added, budgets)))
            if len(cells) > MAX_CELLS:
                raise ConfigError(path, "grid", f"more than {MAX_CELLS} cells; combine less")
    except BadSetting as error:
        raise ConfigError(path, at + error.key, error.reason) from error
    return Grid(file.experiment.name or path.stem, file.experiment.about, tuple(cells), traces)


def _by_name(things: Iterable[_Named], kind: str) -> dict[str, _Named]:
    """Index things by their names. Raises BadSetting: two have the same name."""
    named: dict[str, _Named] = {}
    for thing in things:
        if thing.name in named:
            raise BadSetting(f"{kind}.name", f"two are called {thing.name!r}")
        named[thing.name] = thing
    return named


def cut(trace: Trace, first_s: float, end_s: float) -> Trace:
    """Cut a window out of a trace; its time starts at 0 again. Raises TraceError: the window has no sample."""
    inside = np.flatnonzero((trace.seconds >= first_s) & (trace.seconds <= end_s))
    if not inside.size:
        raise TraceError(f"{trace.name}: no sample from {first_s:g} to {end_s:g} s")
    window = slice(int(inside[0]), int(inside[-1]) + 1)
    return Trace(
        trace.name,
        trace.total_pages,
        trace.seconds[window] - trace.seconds[window.start],
        trace.anon_pages[window],
        trace.cache_pages[window],
        trace.free_superframes[window],
        trace.free_by_order[window],
    )
