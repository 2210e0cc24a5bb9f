"""The demo's story as one HTML page with the run's own data; it needs no network. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from xbd.config.strategies import STRATEGIES
from xbd.lab.experiments.page import figures_of, page_of, table_of
from xbd.lab.experiments.tables import TextTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TITLE: Final = "Superpages, and what ballooning does to them"
_WHY: Final = (
    (
        "A guest's memory is mapped fastest in <b>superpages</b> of 2 MiB: one entry instead of 512. When memory is to move from"
        " one guest to another, the first one's balloon takes pages from its programs and gives them back to the host."
    ),
    (
        "A superpage <b>breaks</b> when single pages of 4 KiB are given back out of its middle: 511 entries are left, and a hole"
        " that the host cannot give anybody as a superpage. It stays broken when the guest grows again and gets other single pages."
    ),
    (
        "It <b>heals</b> when the guest moves what it uses out of the way, gives 2 MiB back as a whole, and gets 2 MiB as a whole"
        " when it grows. That is what the improved balloon does: its pages are movable, so compaction can put them together."
    ),
)


@dataclass(slots=True, eq=False)
class Story:
    """What was seen of one strategy: *curve*: seconds and the share of all guests' memory in superpages; *phases*: when each
    began, and what was done in it; *squares*: the host's superframes by state in the end, as pixels.
    """  # noqa: D205 - one sentence

    curve: list[tuple[float, float]] = field(default_factory=list)
    phases: list[tuple[float, str]] = field(default_factory=list)
    squares: NDArray[np.uint8] | None = None


def render_page(
    stories: Mapping[str, Story], rows: Sequence[tuple[str, ...]], ends_well: str, again: str, *, with_plots: bool
) -> str:
    """Format the page; *rows*: the demo's table, *ends_well*: its audit in a sentence, *again*: the command that repeats it.

    *with_plots*: whether matplotlib is there.
    """
    figures = _draw(stories) if with_plots else None
    parts = [
        f"<h1>{_TITLE}</h1>",
        *(f"<p>{text}</p>" for text in _WHY),
        "<h2>What was done</h2>",
        "<p>8 busy guests on a host that has no memory to spare, once with each strategy:</p>",
        f"<ul>{''.join(f'<li><b>{escape(name)}</b>: {escape(STRATEGIES[name].about)}</li>' for name in stories)}</ul>",
        _phases(next(iter(stories.values()))),
        "<h2>What came of it</h2>",
        *figures_of(figures),
        table_of(TextTable("The figures", ends_well, ("", *stories), tuple(rows))),
        f"<p>Hypervisor, agents and sockets were real, on this machine's own clock. Again: <code>{escape(again)}</code></p>",
    ]
    return page_of(_TITLE, parts)


def _phases(story: Story) -> str:
    items = "".join(f"<li>after {began_s:.0f} s: {escape(what)}</li>" for began_s, what in story.phases)
    return f"<ol>{items}</ol>"


def _draw(stories: Mapping[str, Story]) -> list[tuple[str, str]]:
    """Draw the curves, and the host of each strategy in the end."""
    from xbd.lab.experiments.plots import figure_of  # noqa: PLC0415 - an extra

    drawn = [("memory in superpages over time", figure_of(lambda axes: _draw_curves(axes, stories)))]
    for name, story in stories.items():
        if story.squares is not None:
            squares, title = (
                story.squares,
                f"{name}: the host in the end, a square for each 2 MiB; green: whole superpages",
            )
            title += ", orange: shattered, dark: free"
            drawn.append((title, figure_of(partial(_draw_squares, squares=squares, title=title))))
    return drawn


def _draw_curves(axes: "Axes", stories: Mapping[str, Story]) -> None:
    for (name, story), colour in zip(stories.items(), ("#D55E00", "#0072B2"), strict=False):
        axes.plot([t_s for t_s, _ in story.curve], [100 * share for _, share in story.curve], color=colour, label=name)
        for began_s, _ in story.phases:
            axes.axvline(began_s, color=colour, alpha=0.4, linestyle="dotted")
    axes.set_xlabel("seconds (dotted: a phase begins)")
    axes.set_ylabel("memory in superpages, %")
    axes.set_ylim(0, 102)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(loc="lower left")


def _draw_squares(axes: "Axes", squares: NDArray[np.uint8], title: str) -> None:
    axes.imshow(squares, interpolation="nearest")
    axes.set_title(title, fontsize="small")
    axes.set_axis_off()
