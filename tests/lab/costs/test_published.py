"""Published figures, run again on a smaller guest: prices are for each page, so the figures are the same."""

from dataclasses import replace

import pytest

from xbd.errors import BadArgument
from xbd.lab.bench.costs import measure_costs
from xbd.lab.costs.prices import Published
from xbd.lab.costs.published import compute
from xbd.lab.costs.shell.files import read_prices
from xbd.units import GIB_PAGES


def test_fitted_figures_are_within_10_percent_and_predicted_ones_within_35() -> None:
    """Of the eight; the keys of the ratios end in `_vs_published`, and say which prices were fitted to what."""
    figures = measure_costs(read_prices("kvm-xeon6252"), 0, large_pages=GIB_PAGES, small_pages=GIB_PAGES // 4)
    ratios = {name: figure for name, figure in figures.items() if name.endswith("_vs_published")}
    predicted = {name for name, figure in ratios.items() if str(figure.ratio_to).endswith("a prediction")}
    assert len(ratios) == 8
    assert predicted == {"reclaim_2m_touched_vs_published", "reclaim_2m_untouched_vs_published"}
    for name, figure in ratios.items():
        assert abs(figure.value - 1) <= (0.35 if name in predicted else 0.10), name
    assert ratios["return_4k_vs_published"].ratio_to == "2.34 GiB/s; extent was fitted to it"


def test_a_dearer_primitive_slows_what_it_explains_and_nothing_else() -> None:
    """The ratio follows from the run and the prices: with zapping at ten times its price only touched memory is slower."""
    prices = read_prices("kvm-xeon6252")
    dear = replace(prices.price, zap=replace(prices.of("zap"), value=17.312))
    sizes = {"large_pages": GIB_PAGES // 2, "small_pages": GIB_PAGES // 8}
    before = {one.name: one.gib_s for one in compute(prices, **sizes)}
    after = {one.name: one.gib_s for one in compute(replace(prices, price=dear), **sizes)}
    assert {name for name in before if after[name] < 0.9 * before[name]} == {"reclaim_4k_touched", "reclaim_2m_touched"}
    unknown = replace(prices, published=(Published(name="return_1g", gib_s=1.0),))
    with pytest.raises(BadArgument, match="return_1g"):
        compute(unknown, **sizes)
