"""Plots of an arena as SVG. Imported only where they are drawn: matplotlib is in the extra `plots`."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

from matplotlib.axes import Axes

from xbd.lab.arena.cell import ArenaOutcome
from xbd.lab.arena.scenarios import SCENARIOS
from xbd.lab.arena.standings import Standing
from xbd.lab.experiments.plots import COLOURS, DASHES, figure_of
from xbd.units import GIB_PAGES

# What is no wait at all has to be somewhere on a logarithmic axis.
_LEAST_WAIT_S: Final = 0.01


def pareto(found: Sequence[Standing]) -> Iterator[tuple[str, str]]:
    """Draw, for each set of guests, the memory held against the wait, a curve over overcommit for each policy."""
    for guests in dict.fromkeys(each.guests for each in found):
        policies = dict.fromkeys(each.policy for each in found if each.guests == guests)

        def draw(axes: Axes, guests: str = guests, policies: Sequence[str] = tuple(policies)) -> None:
            for number, policy in enumerate(policies):
                of = [each for each in found if (each.guests, each.policy) == (guests, policy)]
                axes.plot(
                    [each.mean("held_gib_h") for each in of],
                    [max(each.mean("wait_p99_s"), _LEAST_WAIT_S) for each in of],
                    color=COLOURS[number % len(COLOURS)],
                    linestyle=DASHES[number // len(COLOURS) % len(DASHES)],
                    marker="o",
                    label=policy,
                )
            axes.set_yscale("log")
            axes.set_xlabel("memory held, GiB h (left and down is better)")
            axes.set_ylabel("p99 wait, s")
            axes.grid(visible=True, alpha=0.3)
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small")

        yield f"{guests}: memory held and p99 wait, from the lowest overcommit to the highest", figure_of(draw)


def curves(outcomes: Sequence[ArenaOutcome]) -> Iterator[tuple[str, str]]:
    """Draw each guest under each policy, with the first seed and the overcommit in the middle."""
    for name in dict.fromkeys(outcome.cell.guests.name for outcome in outcomes):
        of = [outcome for outcome in outcomes if outcome.cell.guests.name == name]
        overcommits = sorted({outcome.cell.overcommit for outcome in of})
        middle, seed = overcommits[len(overcommits) // 2], of[0].cell.seed
        shown = [each for each in of if (each.cell.overcommit, each.cell.seed) == (middle, seed)]
        members = of[0].cell.guests.members
        for at, member in enumerate(members if name not in SCENARIOS else members[:1]):
            title = f"{name}, overcommit {middle:g}, seed {seed}: guest {at + 1}, {member.name}"
            yield title, figure_of(partial(_draw_guest, at=at, shown=shown))


def _draw_guest(axes: Axes, at: int, shown: Sequence[ArenaOutcome]) -> None:
    wanted = shown[0].samples
    axes.fill_between(
        [point.t_s / 60 for point in wanted],
        [point.wanted_pages[at] / GIB_PAGES for point in wanted],
        color="#dddddd",
        label="wanted, with cache",
    )
    for number, outcome in enumerate(shown):
        axes.plot(
            [point.t_s / 60 for point in outcome.samples],
            [point.held_pages[at] / GIB_PAGES for point in outcome.samples],
            color=COLOURS[number % len(COLOURS)],
            linestyle=DASHES[number // len(COLOURS) % len(DASHES)],
            label=outcome.cell.entry.name,
        )
    axes.set_xlabel("virtual time, minutes")
    axes.set_ylabel("held, GiB")
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small")
