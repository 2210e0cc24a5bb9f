"""The claims by their costs: what holds over all prices, what flips at which, and where migration pays."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.lab.experiments.tiny_grid import tiny_grid, write_tiny
from xbd.cli.main import main
from xbd.config.strategies import STRATEGIES
from xbd.lab.costs.prices import PRIMITIVES
from xbd.lab.costs.shell.files import read_prices
from xbd.lab.experiments.priced import QUESTIONS, Answer, break_even, decide, priced_tables, uses_of
from xbd.lab.experiments.results import Results
from xbd.lab.experiments.shell.local import LocalPool
from xbd.lab.experiments.shell.runner import run_grid
from xbd.lab.experiments.shell.store import Store

_PRICES = read_prices("kvm-xeon6252")
_NOTHING = dict.fromkeys(PRIMITIVES, 0.0)


def _decide(**more: float) -> tuple[Answer, dict[str, float]]:
    decision = decide({**_NOTHING, **more}, _PRICES)
    return decision.answer, decision.flips


def test_what_no_price_changes_is_decided() -> None:
    """More of everything is dearer at any price; the same is the same."""
    assert _decide(extent=10.0, move_page=5.0) == (Answer.YES, {})
    assert _decide(extent=-10.0) == (Answer.NO, {})
    assert _decide() == (Answer.SAME, {})


def test_an_answer_that_a_price_flips_is_undecided_with_that_price() -> None:
    """Ten pages less to move, at 1.5 to 5 us, against 20 us that are known: both cost the same at 2 us."""
    answer, flips = _decide(move_page=10.0, extent=-20.0 / _PRICES.of("extent").value)
    assert answer is Answer.UNDECIDED
    assert flips == pytest.approx({"move_page": 2.0})


def test_an_answer_that_only_prices_together_flip_is_undecided() -> None:
    """At its dearest each of two prices leaves the answer as it is; both at once do not."""
    extents = 75.0 / _PRICES.of("extent").value
    decision = decide({**_NOTHING, "move_page": -10.0, "call": -4.0, "extent": extents}, _PRICES)
    assert (decision.answer, decision.flips) == (Answer.UNDECIDED, {})
    assert (decision.at_value, decision.at_least, decision.at_most) == pytest.approx((29.0, -15.0, 56.0))
    assert decision.sentence() == "undecided: prices together"


def test_migration_breaks_even_at_a_slowdown() -> None:
    """A processor second of moving against a hundred seconds in 4 KiB pages: 1 %, and less with more busy processors."""
    more = {**_NOTHING, "move_page": -1e6 / 3.0, "broken_slowdown": 100e6}
    assert break_even(more, _PRICES, 1.0) == "1.00% (0.50% to 1.67%)"
    assert break_even(more, _PRICES, 4.0) == "0.25% (0.12% to 0.42%)"
    assert break_even({**more, "move_page": 1.0}, _PRICES, 1.0) == "always"
    assert break_even({**more, "broken_slowdown": 0.0}, _PRICES, 1.0) == "never"


def test_questions_are_about_strategies_that_there_are() -> None:
    """Two different ones each."""
    for question in QUESTIONS:
        assert {question.cheaper, question.other} <= set(STRATEGIES)
        assert question.cheaper != question.other


def test_cells_have_what_prices_are_applied_to(tmp_path: Path) -> None:
    """Counts of all guests, and time in 4 KiB pages; tables have the questions whose strategies were run."""
    grid = tiny_grid(tmp_path)
    results: Results = run_grid(grid, Store(tmp_path / "out"), LocalPool(1))
    stock = next(outcome for outcome in results.outcomes if outcome.cell.strategy == "stock")
    assert stock.summary["n_taken_4k"] + stock.summary["n_given_4k"] == stock.summary["pages_ballooned"]
    assert stock.summary["n_calls"] == stock.summary["hypercalls"]
    uses = uses_of(stock.summary, 2.0)
    expected = (
        2e6 * (1 - float(stock.summary["coverage_mean"])) * stock.samples[-1].t_s * float(stock.summary["guests"])
    )
    assert uses["broken_slowdown"] == pytest.approx(expected)
    assert uses["unmap"] >= stock.summary["n_taken_4k"] > 0
    assert priced_tables(results, _PRICES, 1.0) == []


def test_the_report_has_the_answers_and_prices_need_no_other_run(tmp_path: Path) -> None:
    """With --prices the claims are judged by costs, too; a second time, with other prices, every cell is there already."""
    path = write_tiny(tmp_path, _TWO)
    out = tmp_path / "out"
    first = CliRunner().invoke(
        main, ["experiment", str(path), "--out", str(out), "--processes", "1", "--prices", "kvm-xeon6252"]
    )
    kept = {file: file.stat().st_mtime_ns for file in (out / "cells").iterdir()}
    other = CliRunner().invoke(main, ["experiment", str(path), "--out", str(out), "--prices", "xen", "--busy", "4"])

    assert (first.exit_code, other.exit_code) == (0, 0)
    assert "full < stock" in first.stdout
    assert "break-even slowdown" in first.stdout
    assert "Prices xen, 4 busy processors in each guest." in other.stdout
    assert {file: file.stat().st_mtime_ns for file in (out / "cells").iterdir()} == kept
    assert "--prices xen --busy 4" in (out / "page.html").read_text(encoding="utf-8")
    refused = CliRunner().invoke(main, ["experiment", str(path), "--out", str(out), "--prices", "xenn"])
    assert (refused.exit_code, "did you mean 'xen'?" in refused.stderr) == (1, True)


_TWO = """
[[workload]]
name = "churn"
profile = { profile = "steady", used = 0.3, churn = 0.05 }
guests = 2
memory = "32m"
rounds = 3
round_s = 4
quiet_s = 4
sample_s = 2

[[grid]]
strategies = ["stock", "home", "full"]
seeds = [1]
"""
