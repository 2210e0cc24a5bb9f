"""Claims are decided by the numbers, both ways; the page shows all claims and needs no network."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.lab.experiments.tiny_grid import tiny_grid, write_tiny
from xbd.cli.main import main
from xbd.lab.experiments.cell import Outcome
from xbd.lab.experiments.claims import CLAIMS, Answer, Verdict, judge
from xbd.lab.experiments.gains import gains_of
from xbd.lab.experiments.grid import OWN_BUDGET, Cell, Churn, Grid
from xbd.lab.experiments.meter import Sample
from xbd.lab.experiments.page import Provenance, render_page
from xbd.lab.experiments.report import render
from xbd.lab.experiments.results import Results
from xbd.lab.experiments.tables import _COVERAGE, _WORK

_CHURN = Churn("churn", "steady", 4, 1 << 16)
# Plausible figures; every claim is decided one way by these and the other way by their reverse.
_EXPECTED = {
    "stock": 0.2,
    "huge-queue": 0.4,
    "exchange": 0.45,
    "worker": 0.45,
    "worker-only": 0.4,
    "relocate": 0.95,
    "full": 1.0,
    "virtio": 1.0,
    "home": 0.5,
    "relocate-only": 0.9,
    "full-no-keep": 0.9,
    "full-4k-targets": 0.95,
}
_SURPRISING = {
    "stock": 0.7,
    "huge-queue": 0.7,
    "exchange": 0.75,
    "worker": 0.79,
    "worker-only": 0.6,
    "relocate": 0.76,
    "full": 0.8,
    "virtio": 0.7,
    "home": 0.8,
    "relocate-only": 0.8,
    "full-no-keep": 0.8,
    "full-4k-targets": 0.8,
}


def _outcome(strategy: str, seed: int, coverage: float, slack: float) -> Outcome:
    """Make an outcome with a given coverage and a number of hypercalls in proportion to it."""
    summary: dict[str, float | int] = {measure.column: 0 for measure in (*_COVERAGE, *_WORK)}
    summary |= {"coverage_end": coverage, "coverage_mean": coverage, "hypercalls": int(coverage * 1000)}
    samples = tuple(Sample(float(t), coverage, 512, 1, 0, 0) for t in range(3))
    cell = Cell(strategy, _CHURN, 1.5, slack, OWN_BUDGET, seed)
    return Outcome(cell, {**summary, "content_errors": 0}, samples, ())


def _results(*of_each_seed: Mapping[str, float], slack: float = 0.0) -> Results:
    return Results(
        _outcome(strategy, seed, coverage, slack)
        for seed, coverages in enumerate(of_each_seed)
        for strategy, coverage in coverages.items()
    )


def _verdicts(answers: list[Answer]) -> dict[str, Verdict]:
    return {answer.claim.key: answer.verdict for answer in answers}


_WHEN_EXPECTED = {
    **{claim.key: Verdict.CONFIRMED for claim in CLAIMS},
    "exchange": Verdict.REFUTED,
    "worker": Verdict.REFUTED,
}
_OPPOSITE = {Verdict.CONFIRMED: Verdict.REFUTED, Verdict.REFUTED: Verdict.CONFIRMED}


def test_claims_are_decided_by_the_numbers() -> None:
    """Every claim is confirmed by some numbers and refuted by others."""
    assert _verdicts(judge(_results(_EXPECTED, _EXPECTED))) == _WHEN_EXPECTED
    surprising = _verdicts(judge(_results(_SURPRISING)))
    # In these outcomes more superpages mean more hypercalls, so this claim has the opposite verdict.
    reversed_calls = {"stock": _EXPECTED["full"], "full": _EXPECTED["stock"]}

    assert surprising == {key: _OPPOSITE[verdict] for key, verdict in _WHEN_EXPECTED.items()} | {
        "dearer": Verdict.CONFIRMED
    }
    assert _verdicts(judge(_results(reversed_calls)))["dearer"] is Verdict.REFUTED


def test_seeds_that_disagree_give_the_verdict_depends() -> None:
    """A claim that holds for one seed only depends; the case says for how many it holds."""
    answers = {answer.claim.key: answer for answer in judge(_results(_EXPECTED, _SURPRISING))}

    assert answers["full-keeps"].verdict is Verdict.DEPENDS
    assert answers["full-keeps"].seeds == [0, 1]
    assert "holds in 1 of 2 seeds" in answers["full-keeps"].cases[0].sentence()


def test_what_was_not_run_is_not_decided() -> None:
    """Without its strategies, or outside its settings, a claim is not measured."""
    only_stock = _verdicts(judge(_results({"stock": 0.1})))
    with_slack = _verdicts(judge(_results(_EXPECTED, slack=0.1)))

    assert {key for key, verdict in only_stock.items() if verdict is not Verdict.NOT_MEASURED} == {"stock-falls"}
    assert with_slack["stock-falls"] is with_slack["full-keeps"] is Verdict.NOT_MEASURED
    assert with_slack["exchange"] is Verdict.REFUTED


def test_without_a_gain_to_share_nothing_is_decided() -> None:
    """If relocate gains nothing over huge-queue, the claim about exchange is not decided."""
    even = dict.fromkeys(_EXPECTED, 0.9)

    assert _verdicts(judge(_results(even)))["exchange"] is Verdict.NOT_MEASURED


def test_a_gain_is_what_is_missing_without_a_part() -> None:
    """Gains are in points of all memory, with the spread over the seeds."""
    table = gains_of(_results(_EXPECTED, {**_EXPECTED, "home": 0.7}))
    worth = {row[0]: row[2] for row in table.rows}

    assert worth["migration"] == "+40.0 (+30.0..+50.0)"
    assert worth["all of it"] == "+80.0 (+80.0..+80.0)"


@pytest.fixture(name="page")
def page_of_expected() -> str:
    """The page of these outcomes, without plots."""
    results = _results(_EXPECTED, _SURPRISING)
    grid = Grid("A <debate>", "", tuple(outcome.cell for outcome in results.outcomes), {})
    return render_page(grid, results, judge(results), Provenance("xbd experiment debate.toml", "abc"), None)


def test_the_page_holds_all_claims_and_needs_no_network(page: str) -> None:
    """Each claim with a verdict, its seeds and the command that repeats it; nothing is fetched from anywhere."""
    for claim in CLAIMS:
        assert f'id="claim-{claim.key}"' in page
    assert page.count("again: <code>xbd experiment debate.toml --only ") == len(CLAIMS)
    assert not re.search(r"""(src|href|url)\s*[=(]\s*["']?\s*(https?:)?//""", page)
    assert "<script" not in page
    assert "A &lt;debate&gt;" in page
    assert "No plots: matplotlib is not installed" in page
    assert page.count("<table") == page.count("</table>")


def test_the_report_has_the_same(page: str) -> None:
    """As plain text for a terminal: the verdicts, the gains, the comparison of strategies."""
    results = _results(_EXPECTED)
    grid = Grid("debate", "What is it about?", tuple(outcome.cell for outcome in results.outcomes), {})
    report = render(grid, results, judge(results))

    assert report.startswith("debate: 12 cells, 0 failed\nWhat is it about?\n")
    assert "[refuted] XENMEM_exchange is good enough" in report
    assert all(claim.says in report for claim in CLAIMS)
    assert re.search(r"full +100\.0%", report)
    assert "what each part is worth" in page


@pytest.mark.slow
def test_plots_are_in_the_page(tmp_path: Path) -> None:
    """With matplotlib the page has two images for each setting, in itself, the same for the same results."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (the extra plots)")
    arguments = ["experiment", str(write_tiny(tmp_path)), "--processes", "1", "--out", str(tmp_path / "out")]
    pages = []
    for _ in range(2):
        assert CliRunner().invoke(main, arguments).exit_code == 0
        pages.append((tmp_path / "out" / "page.html").read_text(encoding="utf-8"))

    settings = {(c.workload, c.overcommit, c.slack, c.budget) for c in tiny_grid(tmp_path).cells}
    assert pages[0].count('src="data:image/svg+xml;base64,') == 2 * len(settings)
    assert pages[0] == pages[1]
