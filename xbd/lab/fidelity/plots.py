"""Plots of a trace and the model as SVG. Imported only where they are drawn: matplotlib is in the extra `plots`."""

from matplotlib.axes import Axes

from xbd.abi import Frames
from xbd.guest.workload import Trace
from xbd.lab.experiments.plots import figure_of
from xbd.lab.fidelity.split import ORDERS
from xbd.units import SUPER_PAGES


def draw(trace: Trace, free: Frames) -> list[tuple[str, str]]:
    """Draw the free memory in whole blocks, and by class of order where the trace says it; returns titles and SVG texts."""
    if not trace.free_by_order.size:
        return [_plot(trace, "free memory in whole blocks", trace.free_superframes * SUPER_PAGES, free[:, -1])]
    return [
        _plot(
            trace,
            f"free memory in blocks of order {name}",
            *(one[:, first:end].sum(axis=1) for one in (trace.free_by_order, free)),
        )
        for name, (first, end) in reversed(ORDERS.items())
    ]


def _plot(trace: Trace, title: str, real: Frames, model: Frames) -> tuple[str, str]:
    def draw_axes(axes: Axes) -> None:
        for pages, label, colour in ((real, "trace", "#000000"), (model, "model", "#D55E00")):
            axes.plot(trace.seconds, 100 * pages / trace.total_pages, color=colour, linewidth=1, label=label)
        axes.set_title(title, fontsize="medium")
        axes.set_xlabel("time, s")
        axes.set_ylabel("of all memory, %")
        axes.set_ylim(bottom=0)
        axes.grid(visible=True, alpha=0.3)
        axes.legend(fontsize="small")

    return title, figure_of(draw_axes)
