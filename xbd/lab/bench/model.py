"""Figures of the model's results, not of its speed: strategies against stock, the guest model against real guests.

They are the same on every machine for the same seeds; in the record they show what a release changed.
"""

from collections.abc import Sequence
from typing import Final

from xbd.config.strategies import STRATEGIES
from xbd.guest.workload import Trace
from xbd.lab.bench.figures import Figure, summarize
from xbd.lab.experiments.cell import Outcome, run_cell
from xbd.lab.experiments.grid import OWN_BUDGET, Cell, Churn
from xbd.lab.fidelity.curve import compare, model_curve
from xbd.units import MIB_PAGES

_SEEDS: Final = 3
_STOCK: Final = "stock"
# A host without slack, half as large again as its guests should have.
_OVERCOMMIT, _SLACK = 1.5, 0.0
_CHURN: Final = Churn(
    "bench", "steady", 4, 128 * MIB_PAGES, (("used", 0.3), ("cache", 0.1), ("churn", 0.02)), rounds=20, round_s=10.0
)


def measure_strategies(seed: int) -> dict[str, Figure]:
    """Measure each strategy after churn, against stock on the same seeds: coverage, and whole free superframes."""
    seeds = range(seed, seed + _SEEDS)
    outcomes = {name: [run_cell(_cell(name, one)) for one in seeds] for name in STRATEGIES}
    against = "the stock driver on the same seeds"
    figures = {}
    for name, of_name in outcomes.items():
        figures[f"coverage_{name}"] = summarize([100 * _figure(outcome, "coverage_end") for outcome in of_name], "%")
        figures[f"free_whole_{name}"] = summarize(
            [100 * _figure(outcome, "free_whole_mean") for outcome in of_name], "%"
        )
        if name != _STOCK:
            pairs = zip(of_name, outcomes[_STOCK], strict=True)
            gains = [_figure(one, "coverage_end") / max(_figure(stock, "coverage_end"), 0.001) for one, stock in pairs]
            figures[f"coverage_{name}_vs_stock"] = summarize(gains, "ratio", against)
    return figures


def _cell(strategy: str, seed: int) -> Cell:
    return Cell(strategy, _CHURN, _OVERCOMMIT, _SLACK, OWN_BUDGET, seed)


def _figure(outcome: Outcome, column: str) -> float:
    return float(outcome.summary[column])


def measure_fidelity(traces: Sequence[Trace], seed: int) -> dict[str, Figure]:
    """Measure the model's whole free superframes against traces of real guests, and against the best constant."""
    figures = {}
    for trace in traces:
        found = [compare(trace, model_curve(trace, one)) for one in range(seed, seed + _SEEDS)]
        figures[f"fidelity_{trace.name}"] = summarize([100 * one.error_share for one in found], "% of the guest")
        ratios = [one.ratio for one in found if one.ratio is not None]
        if ratios:
            figures[f"fidelity_{trace.name}_vs_constant"] = summarize(ratios, "ratio", "the error of the best constant")
    return figures
