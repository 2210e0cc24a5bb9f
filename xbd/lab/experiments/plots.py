"""Plots of an experiment as SVG. Imported only where they are drawn: matplotlib is in the extra `plots`."""

import io
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xbd.lab.experiments.results import Results, Setting

_INCHES: Final = (9.0, 4.5)
# Colours that are distinguishable with colour blindness (Okabe and Ito); dashes distinguish further curves.
COLOURS: Final = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#0072B2", "#CC79A7")
DASHES: Final = ("solid", "dashed", "dotted")


def draw(results: Results, setting: Setting) -> list[tuple[str, str]]:
    """Draw one setting; returns titles and SVG texts, the same for the same results."""
    return [
        ("superpages over time", figure_of(lambda axes: _draw_curves(axes, results, setting))),
        ("superpages and whole free memory", figure_of(lambda axes: _draw_bars(axes, results, setting))),
    ]


def figure_of(draw_axes: Callable[[Axes], None]) -> str:
    """Draw a figure; returns its SVG text, the same for the same drawing."""
    # Text stays text, and the SVG file's identifiers are not random.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "xbd"}):
        figure = Figure(figsize=_INCHES, layout="constrained")
        axes = figure.add_subplot()
        draw_axes(axes)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def _draw_curves(axes: Axes, results: Results, setting: Setting) -> None:
    for number, strategy in enumerate(results.strategies(setting)):
        curve = results.curve(setting, strategy)
        dashes = DASHES[number // len(COLOURS) % len(DASHES)]
        axes.plot(
            [moment for moment, _ in curve],
            [100 * coverage for _, coverage in curve],
            color=COLOURS[number % len(COLOURS)],
            linestyle=dashes,
            label=strategy,
        )
    axes.set_xlabel("virtual time, s")
    axes.set_ylabel("memory in superpages, %")
    axes.set_ylim(0, 102)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small")


def _draw_bars(axes: Axes, results: Results, setting: Setting) -> None:
    strategies = results.strategies(setting)
    places = list(range(len(strategies)))
    columns = (("coverage_end", "memory in superpages at the end", -0.2), ("free_whole_mean", "free memory whole", 0.2))
    for number, (column, label, aside) in enumerate(columns):
        of_each = [[100 * value for value in results.numbers(setting, one, column)] for one in strategies]
        axes.bar(
            [place + aside for place in places],
            [fmean(values) for values in of_each],
            width=0.4,
            color=COLOURS[2 + 3 * number],
            yerr=_spread(of_each),
            capsize=3,
            label=label,
        )
    axes.set_xticks(places, strategies, rotation=30, ha="right")
    axes.set_ylabel("%")
    axes.set_ylim(0, 105)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize="small", frameon=False)


def _spread(of_each: Sequence[Sequence[float]]) -> list[list[float]]:
    """Return how far the lowest and the highest seed are from the mean, for each bar."""
    # A mean of equal numbers may be off by the last digit, and an error bar must not be negative.
    means = [fmean(values) for values in of_each]
    return [
        [max(mean - min(values), 0.0) for mean, values in zip(means, of_each, strict=True)],
        [max(max(values) - mean, 0.0) for mean, values in zip(means, of_each, strict=True)],
    ]
