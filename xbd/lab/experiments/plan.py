"""The grid file that `xbd experiment` reads: TOML text to cells, with errors that name file, key and reason.

A grid file describes workloads (`[[workload]]`) and budgets for migration (`[[budget]]`). Each `[[grid]]` says what is
combined: all of a grid's strategies with all of its workloads, overcommits,
slacks, budgets and seeds. `configs/experiments/debate.toml` shows every key. A cell of several grids runs once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from xbd.abi import MAX_DOMAIN_PAGES
from xbd.config.strategies import STRATEGIES
from xbd.config.toml_table import Table, top_table
from xbd.errors import BadArgument, ConfigError, TraceError
from xbd.guest.workload import Trace, make_workload
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


def parse_grid(text: str, path: Path, read_trace: ReadTrace, more_traces: Sequence[Trace] = ()) -> Grid:
    """Parse the text of a grid file; *path* names it in errors, and its traces are relative to it.

    *more_traces*, if any, are one more workload of every grid, together on one host.

    Raises:
        ConfigError: naming the key and the reason.
    """
    top = top_table(text, path)
    experiment = top.table("experiment") or Table(path, "experiment", {})
    name = experiment.text("name", None) or path.stem
    about = experiment.text("about", None) or ""
    experiment.finish()
    traces = {digest_trace(trace): trace for trace in more_traces}
    budgets = _by_name([_budget(table) for table in top.tables("budget")], path, "budget")
    if _OWN in budgets:
        raise ConfigError(path, "budget.name", f"{_OWN!r} is what each strategy does by itself; choose another name")
    workloads = _by_name([_workload(table, traces, read_trace) for table in top.tables("workload")], path, "workload")
    added: dict[str, Workload] = {"traces": record("traces", more_traces)} if more_traces else {}
    grids = top.tables("grid")
    top.finish()
    if not grids:
        raise ConfigError(path, "grid", "is missing; a [[grid]] says what is to be combined with what")
    cells: dict[Cell, None] = {}
    for table in grids:
        cells.update(dict.fromkeys(_cells(table, workloads, added, {_OWN: OWN_BUDGET, **budgets})))
        if len(cells) > MAX_CELLS:
            raise ConfigError(path, "grid", f"more than {MAX_CELLS} cells; combine less")
    return Grid(name, about, tuple(cells), traces)


def _by_name(things: list[_Named], path: Path, kind: str) -> dict[str, _Named]:
    """Index things by their names. Raises ConfigError: two have the same name."""
    named: dict[str, _Named] = {}
    for thing in things:
        if thing.name in named:
            raise ConfigError(path, f"{kind}.name", f"two are called {thing.name!r}")
        named[thing.name] = thing
    return named


def _name(table: Table) -> str:
    name = table.text("name", None)
    if name is None:
        raise table.error("name", "is missing")
    return name


def _budget(table: Table) -> Budget:
    batches = table.whole("compaction_batches", 0, _MOST_BATCHES, None)
    (check_s,) = table.numbers("compaction_check_s", _LEAST_S, _DAY_S, (0.0,))[:1]
    budget = Budget(_name(table), batches, check_s or None, table.whole("vacate_blocks", 0, _MOST_BATCHES, None))
    table.finish()
    return budget


def _workload(table: Table, traces: dict[str, Trace], read_trace: ReadTrace) -> Workload:
    """Parse one [[workload]]: traces if it names some, else a churn."""
    name = _name(table)
    paths = table.texts("traces", [])
    workload = _recorded(table, name, paths, traces, read_trace) if paths else _churn(table, name)
    table.finish()
    return workload


def _churn(table: Table, name: str) -> Churn:
    profile, options = table.name_and_options("profile", "profile", "steady")
    if profile == "trace":
        raise table.error("profile", 'a trace is named by its file: traces = ["FILE.csv"]')
    try:
        make_workload(profile, options)
    except BadArgument as error:
        raise table.error("profile", f"{error.message}; expected {error.expected}") from error
    if options.get("io_pages_s"):
        raise table.error("profile.io_pages_s", "block I/O needs a dom0, which an experiment has not")
    return Churn(
        name,
        profile,
        table.whole("guests", 2, _MOST_GUESTS, USUAL_CHURN.guests) or 0,
        table.size("memory", MAX_DOMAIN_PAGES),
        tuple(sorted(options.items())),
        table.whole("rounds", 1, _MOST_ROUNDS, USUAL_CHURN.rounds) or 0,
        table.number("round_s", 1, _DAY_S, USUAL_CHURN.round_s),
        table.number("quiet_s", 0, _DAY_S, USUAL_CHURN.quiet_s),
        table.number("least", 0, 1, USUAL_CHURN.least),
        table.number("sample_s", _LEAST_S, _DAY_S, USUAL_CHURN.sample_s),
        table.flag("verify", default=False),
    )


def _recorded(table: Table, name: str, paths: list[str], traces: dict[str, Trace], read_trace: ReadTrace) -> Recorded:
    window = table.numbers("window_s", 0, _YEAR_S, ())
    cut_at = f"[{window[0]:g}:{window[-1]:g}]" if window else ""
    window = window or (0.0, _YEAR_S)
    if len(window) != 2 or window[0] >= window[1]:
        raise table.error("window_s", "is not [FROM, TO], seconds of the trace with FROM before TO")
    chosen: list[Trace] = []
    for path in paths:
        try:
            trace = cut(read_trace(Path(table.path).parent / Path(path).expanduser()), window[0], window[1])
        except TraceError as error:
            raise table.error("traces", str(error)) from error
        chosen.append(replace(trace, name=trace.name + cut_at))
    traces.update((digest_trace(trace), trace) for trace in chosen)
    sample_s = table.number("sample_s", _LEAST_S, _DAY_S, TRACE_SAMPLE_S)
    return record(name, chosen, sample_s=sample_s, verify=table.flag("verify", default=False))


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
    )


def _cells(
    table: Table, workloads: Mapping[str, Workload], added: Mapping[str, Workload], budgets: Mapping[str, Budget]
) -> list[Cell]:
    """Parse one [[grid]] into its cells."""

    def chosen(key: str, known: Mapping[str, Any], default: list[str]) -> list[str]:
        names = table.texts(key, default)
        for name in names:
            if name not in known:
                raise table.error(key, f"{name!r} is not one of {', '.join(known) or 'none'}")
        return names

    strategies = chosen("strategies", STRATEGIES, list(STRATEGIES))
    played = [workloads[name] for name in chosen("workloads", workloads, list(workloads))] + list(added.values())
    if not played:
        raise table.error("workloads", "there is none; describe one in [[workload]], or give --trace FILE")
    overcommits = table.numbers("overcommit", 1, _MOST_OVERCOMMIT, (1.5,))
    slacks = table.numbers("slack", 0, _MOST_SLACK, (0.0,))
    chosen_budgets = [budgets[name] for name in chosen("budgets", budgets, [_OWN])]
    seeds = table.wholes("seeds", 0, _MAX_SEED, (0,))
    table.finish()
    return [
        Cell(strategy, workload, overcommit, slack, budget, seed)
        for workload, overcommit, slack, budget, strategy, seed in product(
            played, overcommits, slacks, chosen_budgets, strategies, seeds
        )
    ]
