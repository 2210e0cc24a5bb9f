"""Running a grid: the same results on one core and on many, after a killed process, and after an interruption."""

import json
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.lab.experiments.tiny_grid import TINY, TINY_CELLS, tables, tiny_grid, write_tiny
from xbd.cli.main import main
from xbd.lab.experiments.cell import run_cell
from xbd.lab.experiments.grid import Grid
from xbd.lab.experiments.shell.local import LocalPool
from xbd.lab.experiments.shell.runner import run_grid
from xbd.lab.experiments.shell.store import Store
from xbd.lab.experiments.shell.work import CellFailed, Done, Job, do, jobs_of

_ONE_WORKLOAD = TINY.replace("overcommit = 1.3\nseeds = [1, 2]", 'workloads = ["churn"]\nseeds = [1]')


class Counting(LocalPool):
    """This process as a pool that counts what it does."""

    def __init__(self) -> None:
        super().__init__(1)
        self.done = 0

    def run(self, jobs: Sequence[Job]) -> Iterator[Done]:
        """Do all jobs here."""
        for done in super().run(jobs):
            self.done += 1
            yield done


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The tables of the tiny grid, run by one process without an interruption."""
    directory = tmp_path_factory.mktemp("whole")
    results = run_grid(tiny_grid(directory), Store(directory / "out"), LocalPool(1))
    assert not results.failed
    return tables(results)


@pytest.mark.slow
def test_every_cell_is_a_row_and_every_sample_too(whole: tuple[str, str]) -> None:
    """The summary has a row for each cell; the series one for each cell and moment."""
    summary, series = (text.splitlines() for text in whole)

    assert len(summary) == 1 + TINY_CELLS
    assert summary[0].startswith("strategy,workload,overcommit,slack,budget,seed,coverage_mean,")
    assert series[0].startswith("strategy,workload,overcommit,slack,budget,seed,t_s,coverage,")
    # A churn of 20 s sampled every 2 s, the begin included, and a trace of 38 s every 10 s, and at its end.
    assert len(series) == 1 + (TINY_CELLS - 4) * 11 + 4 * 5


@pytest.mark.slow
def test_two_processes_find_the_same(tmp_path: Path, whole: tuple[str, str]) -> None:
    """The tables of one process and of two are byte by byte the same."""
    results = run_grid(tiny_grid(tmp_path), Store(tmp_path / "out"), LocalPool(2))

    assert tables(results) == whole


@pytest.mark.slow
def test_a_killed_process_costs_only_its_cell(tmp_path: Path, whole: tuple[str, str]) -> None:
    """Both processes are killed in the middle; others take their place, and the tables are the same."""
    pool = LocalPool(2)
    killed: list[int] = []

    def kill_once(done: Done) -> None:
        del done
        if not killed:
            killed.extend(pool.pids())
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    results = run_grid(tiny_grid(tmp_path), Store(tmp_path / "out"), pool, kill_once)

    assert len(killed) == pool.killed == 2
    assert tables(results) == whole
    assert pool.pids() == []


@pytest.mark.slow
def test_an_interrupted_run_continues(tmp_path: Path, whole: tuple[str, str]) -> None:
    """After Ctrl-C only the cells that were not finished are run, and one whose file was damaged since."""
    grid, store, first, second = tiny_grid(tmp_path), Store(tmp_path / "out"), Counting(), Counting()

    def interrupt(done: Done) -> None:
        if first.done == 3 or done is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_grid(grid, store, first, interrupt)
    files = sorted((tmp_path / "out" / "cells").iterdir())
    files[0].write_text(files[0].read_text(encoding="utf-8")[:-9], encoding="utf-8")
    results = run_grid(grid, store, second)

    assert len(files) == 3
    assert second.done == TINY_CELLS - 2
    assert tables(results) == whole
    third = Counting()
    assert tables(run_grid(grid, store, third)) == whole
    assert third.done == 0


def test_a_cell_determines_its_numbers(tmp_path: Path) -> None:
    """Run twice, a cell has the same outcome; another seed, or another version of the model, is another cell."""
    job = jobs_of(tiny_grid(tmp_path))[0]
    first, again = run_cell(job.cell), run_cell(job.cell)

    assert first == again
    assert not first.failed
    assert run_cell(replace(job.cell, seed=9)) != first
    assert len({job.key, replace(job, model="other").key, replace(job, cell=replace(job.cell, seed=9)).key}) == 3


def test_it_measures_what_drivers_do(tmp_path: Path) -> None:
    """A driver that migrates has a balloon of whole blocks; pages move under both, and each number agrees with the others."""
    cells = {(c.strategy, c.workload.name, c.slack, c.budget.name, c.seed): c for c in tiny_grid(tmp_path).cells}
    stock = run_cell(cells["stock", "churn", 0.0, "own", 1])
    full = run_cell(cells["full-4k-targets", "churn", 0.1, "own", 1])

    assert stock.summary["balloon_whole_end"] == 0 < full.summary["balloon_whole_end"]
    # Under `stock` it is Linux's compaction that moves some.
    assert min(full.summary["pages_moved"], stock.summary["pages_moved"]) > 0
    for outcome in (stock, full):
        summary, end = outcome.summary, outcome.samples[-1]
        assert summary["coverage_least"] <= min(summary["coverage_mean"], summary["coverage_end"])
        assert end.populated_pages == 512 * end.leaves + summary["entries_4k_end"]
        assert summary["entries_per_gib_end"] >= 512
        assert summary["targets_set"] > 0
    # A tenth of the host is never given out.
    assert min(sample.free_pages for sample in full.samples) >= 3 * 512


def test_another_version_of_the_model_refuses_the_job(tmp_path: Path) -> None:
    """A process with another version of the model refuses a job, as its numbers would differ."""
    job = replace(jobs_of(tiny_grid(tmp_path))[0], model="other")

    with pytest.raises(CellFailed, match="install the same xbd"):
        do(job)


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_cell_that_cannot_run_is_named(tmp_path: Path, processes: int) -> None:
    """Guests too large for their host give a sentence that names the cell, and exit code 1."""
    path = write_tiny(tmp_path, _ONE_WORKLOAD.replace("overcommit = 1.3", "overcommit = 4"))
    arguments = ["experiment", str(path), "--out", str(tmp_path / "out"), "--processes", str(processes)]
    result = CliRunner().invoke(main, arguments)

    assert result.exit_code == 1
    assert "churn, overcommit 4, slack 0, budget own, seed 1: EINVAL" in result.stderr


@pytest.mark.slow
def test_a_process_that_fails_is_not_tried_again(tmp_path: Path) -> None:
    """An unexpected exception ends its process with a traceback; the cell is named, and the other processes are ended."""
    grid = tiny_grid(tmp_path)
    broken = Grid("broken", "", tuple(replace(cell, overcommit=float("nan")) for cell in grid.cells[:2]), grid.traces)
    pool = LocalPool(2)

    with pytest.raises(CellFailed, match=r"churn.*exit code 1"):
        list(pool.run(jobs_of(broken)))

    assert pool.pids() == []


class Deadly:
    """A trace that kills whoever receives it."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return signal.raise_signal, (signal.SIGKILL,)


@pytest.mark.slow
def test_a_cell_that_kills_every_process_is_named(tmp_path: Path) -> None:
    """A job that kills its process is tried three times, and then named in the error."""
    first, second = jobs_of(tiny_grid(tmp_path))[:2]
    pool = LocalPool(2)

    with pytest.raises(CellFailed, match=r"stock, churn.*seed 2: 3 processes were killed at it"):
        list(pool.run([first, replace(second, traces=(Deadly(),))]))  # type: ignore[arg-type]  # no trace, on purpose

    assert pool.killed == 3
    assert pool.pids() == []


def test_the_command_writes_everything_and_reports_failures(tmp_path: Path) -> None:
    """Tables, report and page; a cell whose audit found something makes exit code 1, until --fresh runs it again."""
    out = tmp_path / "out"
    arguments = ["experiment", str(write_tiny(tmp_path, _ONE_WORKLOAD)), "--out", str(out), "--processes", "1"]
    arguments += ["--only", "stock"]
    first = CliRunner().invoke(main, arguments)
    (kept,) = (out / "cells").iterdir()
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"violations": ["a page was lost"]}), encoding="utf-8")
    second = CliRunner().invoke(main, arguments)
    third = CliRunner().invoke(main, [*arguments, "--fresh", "--json"])

    assert (first.exit_code, second.exit_code, third.exit_code) == (0, 1, 0)
    assert "every cell's audit is clean" in first.stdout
    assert "FAILED stock, churn" in second.stderr
    assert "a page was lost" in second.stderr
    told = json.loads(third.stdout)
    assert (told["directory"], told["failed"], len(told["cells"])) == (str(out), 0, 1)
    assert (told["cells"][0]["strategy"], told["cells"][0]["violations"]) == ("stock", 0)
    assert {path.name for path in out.iterdir()} >= {"summary.csv", "series.csv", "report.txt", "page.html", "cells"}


def test_one_place_to_run(tmp_path: Path) -> None:
    """Processes of this machine and a cluster are not given at once; a strategy that no grid has is refused."""
    path = str(write_tiny(tmp_path))
    both = CliRunner().invoke(main, ["experiment", path, "--processes", "2", "--scheduler", "tcp://localhost:1"])
    none = CliRunner().invoke(main, ["experiment", path, "--only", "virtio", "--out", str(tmp_path / "out")])

    assert both.exit_code == 2
    assert none.exit_code == 1
    assert "no grid of it has virtio" in none.stderr
