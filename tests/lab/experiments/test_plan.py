"""Grid files: the cells that they combine to, and the errors in them."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.lab.experiments.tiny_grid import TINY, TINY_CELLS, tiny_grid, trace_text, write_tiny
from xbd.cli.main import main
from xbd.config.strategies import STRATEGIES
from xbd.daemons.trace_files import read_trace
from xbd.errors import TraceError
from xbd.guest.workload import parse_trace
from xbd.lab.experiments.grid import OWN_BUDGET, Churn, Recorded
from xbd.lab.experiments.plan import cut, parse_grid

_DEBATE = Path(__file__).resolve().parents[3] / "configs" / "experiments" / "debate.toml"
_WORKLOAD = '[[workload]]\nname = "w"\nmemory = "64m"\n'
_LEAST = f"{_WORKLOAD}[[grid]]\n"


def test_grids_are_combined_and_what_they_share_runs_once(tmp_path: Path) -> None:
    """Every combination of a grid is a cell, in order; one that two grids have in common is one cell."""
    grid = tiny_grid(tmp_path)

    assert len(grid.cells) == len(set(grid.cells)) == TINY_CELLS
    assert grid.strategies == ["stock", "full-4k-targets", "relocate"]
    assert [workload.name for workload in grid.workloads] == ["churn", "trace"]
    assert {cell.budget.name for cell in grid.cells} == {"own", "small"}
    assert len(grid.only(("relocate",)).cells) == 4


def test_keys_that_a_file_leaves_out_have_defaults(tmp_path: Path) -> None:
    """The defaults are all strategies, seed 0, overcommit 1.5, no slack, and each strategy's own budget."""
    cells = parse_grid(_LEAST, tmp_path / "least.toml", read_trace).cells

    assert [cell.strategy for cell in cells] == list(STRATEGIES)
    assert {(cell.overcommit, cell.slack, cell.budget, cell.seed) for cell in cells} == {(1.5, 0.0, OWN_BUDGET, 0)}
    workload = cells[0].workload
    assert isinstance(workload, Churn)
    assert (workload.guests, workload.profile, workload.memory_pages) == (4, "steady", 64 * 256)


def test_the_debate_is_about_all_strategies_with_three_seeds() -> None:
    """The grid file that comes with xbd can be read; its main comparison has every strategy, thrice at least."""
    grid = parse_grid(_DEBATE.read_text(encoding="utf-8"), _DEBATE, read_trace)
    churn = [
        c for c in grid.cells if (c.workload.name, c.slack, c.overcommit, c.budget.name) == ("churn", 0, 1.5, "own")
    ]

    assert {cell.strategy for cell in churn} == set(STRATEGIES)
    assert all(len({c.seed for c in churn if c.strategy == strategy}) >= 3 for strategy in STRATEGIES)
    assert any(cell.workload.verify for cell in grid.cells)


def test_a_trace_is_identified_by_its_content(tmp_path: Path) -> None:
    """Another trace of the same name, or another window of it, is another cell."""
    before = tiny_grid(tmp_path).workloads[1]
    window = tiny_grid(tmp_path, TINY.replace("sample_s = 10", "sample_s = 10\nwindow_s = [4, 20]"))
    (tmp_path / "a.csv").write_text(trace_text(5), encoding="utf-8")
    after = parse_grid(TINY, tmp_path / "tiny.toml", read_trace).workloads[1]

    assert isinstance(before, Recorded)
    assert isinstance(after, Recorded)
    assert before.traces == after.traces == ("a", "b")
    assert before.digests[0] != after.digests[0]
    assert before.digests[1] == after.digests[1]
    assert [trace.name for trace in window.traces.values()] == ["a[4:20]", "b[4:20]"]
    assert [float(trace.seconds[-1]) for trace in window.traces.values()] == [16.0, 16.0]


def test_a_trace_may_be_replayed_by_several_guests(tmp_path: Path) -> None:
    """A trace named twice makes two guests of one host; added traces are a workload of every grid."""
    write_tiny(tmp_path)
    text = '[[workload]]\nname = "w"\ntraces = ["a.csv", "a.csv"]\n[[grid]]\nstrategies = ["full"]\n'
    grid = parse_grid(text, tmp_path / "twice.toml", read_trace, [read_trace(tmp_path / "b.csv")])
    twice, added = grid.cells

    assert [trace.name for trace in grid.traces_of(twice)] == ["a", "a"]
    assert [trace.name for trace in grid.traces_of(added)] == ["b"]
    assert added.workload.name == "traces"


def test_a_window_with_nothing_in_it_is_refused() -> None:
    """A window between two samples is refused, as it has no sample."""
    trace = parse_trace(trace_text(0), "t")

    assert cut(trace, 3, 5).samples == 1
    with pytest.raises(TraceError, match=r"no sample from 2\.5 to 3 s"):
        cut(trace, 2.5, 3)


def test_the_command_exits_as_for_other_configurations(tmp_path: Path) -> None:
    """A mistake in the file gives a sentence and exit code 78, and no directory is made."""
    path = write_tiny(tmp_path, "[[grid]]\n")
    result = CliRunner().invoke(main, ["experiment", str(path), "--out", str(tmp_path / "out")])

    assert result.exit_code == 78
    assert result.stderr.startswith(f"{path}: grid[1].workloads: there is none")
    assert not (tmp_path / "out").exists()
