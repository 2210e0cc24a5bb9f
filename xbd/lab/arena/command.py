"""`xbd arena`: reads a file of policies and guests, runs it, and writes the results."""

import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote

import click

from xbd.cli.common import Failure, emit, json_option
from xbd.cli.series_file import series_file, series_option
from xbd.config.policies import BUILT_IN
from xbd.daemons.config_files import read_text
from xbd.daemons.policy_process import started_policy
from xbd.daemons.trace_files import read_trace
from xbd.guest.workload import Trace
from xbd.lab.arena.cell import ArenaCell, ArenaOutcome, Point, run_arena
from xbd.lab.arena.equal import ROUNDS, other_hosts
from xbd.lab.arena.page import Drawn, render_page, report
from xbd.lab.arena.plan import Arena, parse_arena
from xbd.lab.arena.scenarios import SCENARIOS
from xbd.lab.arena.standings import standings
from xbd.lab.experiments.command import grid_options, pool_of
from xbd.lab.experiments.grid import digest
from xbd.lab.experiments.outcome import Watch
from xbd.lab.experiments.page import Provenance
from xbd.lab.experiments.report import table_lines
from xbd.lab.experiments.results import as_csv, rounded
from xbd.lab.experiments.shell.runner import run_jobs
from xbd.lab.experiments.shell.store import Store
from xbd.lab.experiments.shell.work import Job, Kind, Pool, model_version


def run_with_policy(cell: ArenaCell, traces: Sequence[Trace], watch: Watch | None = None) -> ArenaOutcome:
    """Run a cell: xbd's own policy in this process, a stranger's in one of its own. Raises as `started_policy` and `run_arena`."""
    with started_policy(cell.entry.policy, dict(cell.entry.settings)) as policy:
        return run_arena(cell, traces, policy, watch)


# What decides a cell's numbers beside what decides those of an experiment.
_SOURCES = ("target_rules.py", "config/policies.py", "testing/governor.py", "lab/arena/cell.py", "lab/arena/guests.py")
ARENA = Kind(run_with_policy, Point, _SOURCES)


@click.command("arena")
@grid_options
@click.option("--policy", "policies", multiple=True, help="Run only this policy; may be repeated.")
@click.option("--guests", multiple=True, help="Run only this set of guests; may be repeated.")
@click.option(
    "--overcommit", multiple=True, type=float, help="Run only this overcommit, of FILE or not; may be repeated."
)
@click.option("--seed", "seeds", multiple=True, type=int, help="Run only this seed; may be repeated.")
@click.option("--fresh", is_flag=True, help="Run again what is already in the results directory.")
@series_option
@json_option
def command(
    path: Path,
    *,
    out: Path | None,
    processes: int | None,
    scheduler: str | None,
    policies: tuple[str, ...],
    guests: tuple[str, ...],
    overcommit: tuple[float, ...],
    seeds: tuple[int, ...],
    fresh: bool,
    series_path: Path | None,
    as_json: bool,
) -> None:
    """Let policies compete for the memory of the same hosts, with the same guests.

    FILE says which: policies, sets of guests (made up, or traces), overcommits and seeds; every policy meets the known
    failures of policies, too. Finished runs are kept in the results directory, so an interrupted run continues where it
    was. It writes summary.csv (a row for each run), report.txt and page.html there; --series has the guests one by one, about 120 times a run. JSON has the rows of summary.csv.
    Exit code 1: a run's audit found something wrong.
    """
    pool = pool_of(processes, scheduler)
    arena = parse_arena(read_text(path, may_wait=True), path, read_trace, source_of)

    def chosen(cell: ArenaCell) -> bool:
        asked = ((cell.entry.name, policies), (cell.guests.name, guests), (cell.seed, seeds))
        return all(not among or value in among for value, among in asked)

    cells = at_overcommits([cell for cell in arena.cells if chosen(cell)], overcommit)
    if not cells:
        raise Failure(f"{path}: no run of it is what was asked for; its report names them all")
    store = Store(Path(path.stem) if out is None else out)
    if fresh:
        store.forget()
    # Before anything is run: a file that cannot be written is said at once.
    with series_file(series_path, (path, *arena.trace_paths)) as series:
        runs = _Runs(arena, store, pool, series=series is not None)
        asked, outcomes = runs.until_equal(cells)
        model = model_version(_SOURCES)
        _write(store, arena, asked, outcomes, Provenance(f"xbd arena {quote(str(path))}", model), as_json=as_json)
        if series is not None:
            store.write_series(runs.jobs, series)
    failed = [outcome for outcome in outcomes if outcome.failed]
    if failed:
        raise Failure("\n".join(f"FAILED {each.cell.label()}: {'; '.join(each.violations)}" for each in failed))


class _Runs:
    """The runs of an arena, as far as they are done; *jobs*: of all of them, in order."""

    def __init__(self, arena: Arena, store: Store, pool: Pool, *, series: bool) -> None:
        self.jobs: list[Job] = []
        self._arena, self._store, self._pool, self._series = arena, store, pool, series

    def do(self, cells: Sequence[ArenaCell]) -> list[ArenaOutcome]:
        """Do some. Raises CellFailed."""
        model = model_version(_SOURCES)
        jobs = [Job(cell, self._arena.traces_of(cell), model, ARENA, series=self._series) for cell in cells]
        self.jobs += jobs
        return run_jobs(jobs, self._store, self._pool)

    def until_equal(self, cells: Sequence[ArenaCell]) -> tuple[list[ArenaOutcome], list[ArenaOutcome]]:
        """Do some, and those on other hosts with which the default is compared; returns the former, and all. Raises CellFailed."""
        asked = self.do(cells)
        outcomes = list(asked)
        for _ in range(ROUNDS):
            outcomes += self.do(other_hosts(standings(asked), standings(outcomes)))
        return asked, outcomes


def at_overcommits(cells: Sequence[ArenaCell], overcommits: Sequence[float]) -> list[ArenaCell]:
    """Put cells on hosts of these overcommits, each once, and leave out known failures at another one; none: as they are."""
    if not overcommits:
        return list(cells)
    moved = [
        cell if cell.guests.name in SCENARIOS else replace(cell, overcommit=overcommit)
        for cell in cells
        for overcommit in overcommits
        if cell.guests.name not in SCENARIOS or cell.overcommit == overcommit
    ]
    return list({cell.key(""): cell for cell in moved}.values())


def check_arena(text: str, path: Path) -> tuple[str, tuple[str, ...]]:
    """Check an arena's file and its traces, for `xbd check`; returns a summary and no remarks. Raises ConfigError."""
    arena = parse_arena(text, path, read_trace, source_of)
    policies = dict.fromkeys(cell.entry.name for cell in arena.cells)
    return f"arena {arena.name!r}, {len(arena.cells)} runs of {', '.join(policies)}", ()


def source_of(policy: str) -> str:
    """Tell a stranger's policy from what it was: by its module's source, if that is found; nothing of xbd's own."""
    module = policy.partition(":")[0]
    if policy in BUILT_IN or ":" not in policy:
        return ""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return ""
    return (
        digest(Path(spec.origin).read_bytes())
        if spec is not None and spec.origin and Path(spec.origin).is_file()
        else ""
    )


def _write(
    store: Store,
    arena: Arena,
    asked: list[ArenaOutcome],
    outcomes: list[ArenaOutcome],
    provenance: Provenance,
    *,
    as_json: bool,
) -> None:
    """Write table, report and page, and print the report."""
    rows = [
        rounded({**each.cell.coordinates(), **each.summary, "violations": len(each.violations)}) for each in outcomes
    ]
    lines = [f"{arena.name}: {len(outcomes)} runs"]
    for table in report(asked, outcomes):
        lines += ["", *table_lines(table)]
    store.write("summary.csv", as_csv(rows))
    store.write("report.txt", "\n".join(lines) + "\n")
    page = store.write("page.html", render_page(arena, asked, outcomes, provenance, _draw(asked)))
    output = {"directory": str(store.directory), "page": str(page), "runs": rows}
    emit(as_json, output, [*lines, "", f"{page}: the same as a page; {store.directory}/summary.csv: the numbers"])


def _draw(outcomes: list[ArenaOutcome]) -> Drawn:
    """Draw the plots; None: matplotlib is not installed."""
    try:
        from xbd.lab.arena.plots import curves, pareto  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        return None
    return list(pareto(standings(outcomes))), list(curves(outcomes))
