"""Figures of the cost model: what prices make of a real run, against what was published. The same on every machine."""

from xbd.lab.bench.figures import Figure, summarize
from xbd.lab.costs.prices import Prices
from xbd.lab.costs.published import LARGE_PAGES, SMALL_PAGES, compute


def measure_costs(
    prices: Prices, seed: int, *, large_pages: int = LARGE_PAGES, small_pages: int = SMALL_PAGES
) -> dict[str, Figure]:
    """Compute each published figure of a price file, in GiB/s, and its ratio to what was published; sizes as `compute`."""
    figures = {}
    for one in compute(prices, seed=seed, large_pages=large_pages, small_pages=small_pages):
        kind = f"{one.fitted} was fitted to it" if one.fitted else "a prediction"
        figures[one.name] = summarize([one.gib_s], "GiB/s")
        figures[f"{one.name}_vs_published"] = summarize([one.ratio], "ratio", f"{one.published_gib_s:g} GiB/s; {kind}")
    return figures
