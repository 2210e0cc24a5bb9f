"""A trace's shape over time as SVG. Imported only where it is drawn: matplotlib is in the extra `plots`."""

from matplotlib.axes import Axes

from xbd.guest.workload import Trace
from xbd.lab.experiments.plots import figure_of
from xbd.units import GIB_PAGES


def draw(trace: Trace) -> str:
    """Draw what programs hold, the page cache and what is free, one on the other, in GiB; the same for the same trace."""

    def draw_axes(axes: Axes) -> None:
        free = trace.total_pages - trace.anon_pages - trace.cache_pages
        axes.stackplot(
            trace.seconds,
            *(pages / GIB_PAGES for pages in (trace.anon_pages, trace.cache_pages, free)),
            labels=("programs and kernel", "page cache", "free"),
            colors=("#D55E00", "#56B4E9", "#EEEEEE"),
            step="post",
        )
        axes.set_title(trace.name, fontsize="medium")
        axes.set_xlabel("time, s")
        axes.set_ylabel("memory, GiB")
        axes.legend(loc="upper left", fontsize="small")

    return figure_of(draw_axes)
