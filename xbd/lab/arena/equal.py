"""The default policy against each other one at equal memory held: who holds more is run on smaller hosts until both hold the same; pure.

What guests hold is what a policy costs, what their programs wait is what it is worth, and either can be had for the other:
policies are comparable where one of both is equal. The size of the host is the one knob that every policy has, a
stranger's too, and the smaller host is told as the overcommit that it is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from xbd.config.policies import DEFAULT_POLICY
from xbd.lab.arena.cell import ArenaCell
from xbd.lab.arena.standings import Standing
from xbd.lab.experiments.tables import TextTable

# As much memory: no further apart than this part of it.
EQUAL: Final = 0.02
# So often another size of host is tried, for each comparison: what is held follows it closely.
ROUNDS: Final = 3
# The default earns its place where it waits at most so many times as long as the best other. Less than a tenth of a second
# is no wait that anybody notices, and no ratio is made of it.
_MOST_TIMES: Final = 1.1
_NOTICED_S: Final = 0.1
# Hosts beyond it have no memory for their guests' kernels.
_MOST_OVERCOMMIT: Final = 7.0


@dataclass(frozen=True, slots=True)
class Pair:
    """The default and another policy with the same guests, at an *overcommit*: *fixed* held less there, and *moved* more.

    *moved* is on that host, of all on which it has run, on which it holds what is nearest to that.
    """

    overcommit: float
    fixed: Standing
    moved: Standing

    @property
    def default(self) -> Standing:
        """The default's standing."""
        return self.fixed if self.fixed.policy == DEFAULT_POLICY else self.moved

    @property
    def other(self) -> Standing:
        """The other's."""
        return self.moved if self.fixed.policy == DEFAULT_POLICY else self.fixed

    @property
    def matched(self) -> bool:
        """Whether both hold as much."""
        return abs(self.moved.held - self.fixed.held) <= EQUAL * self.fixed.held

    @property
    def times(self) -> float:
        """How many times as long as the other's the default's p99 wait is, as far as anybody notices."""
        return self.default.mean("wait_p99_s") / max(self.other.mean("wait_p99_s"), _NOTICED_S / _MOST_TIMES)


def pairs(asked: Sequence[Standing], found: Sequence[Standing]) -> Iterator[Pair]:
    """Pair the default with each other policy in each of the settings that were *asked* for; *found*: all that there are."""
    for own in (each for each in asked if each.policy == DEFAULT_POLICY):
        for other in asked:
            if other.policy != DEFAULT_POLICY and (other.guests, other.overcommit) == (own.guests, own.overcommit):
                fixed, more = sorted((own, other), key=lambda each: each.held)
                alike = [each for each in found if (each.policy, each.guests) == (more.policy, more.guests)]
                yield Pair(own.overcommit, fixed, min(alike, key=lambda each: abs(each.held - fixed.held)))


def other_hosts(asked: Sequence[Standing], found: Sequence[Standing]) -> list[ArenaCell]:
    """List the runs, of those who hold more, that are to bring pairs to equal memory held; empty: nothing more is to be tried."""
    cells: dict[tuple[str, str, float], tuple[ArenaCell, ...]] = {}
    tried = {(each.policy, each.guests, each.overcommit) for each in found}
    for pair in pairs(asked, found):
        near = pair.moved
        overcommit = round(near.overcommit * near.held / pair.fixed.held, 3)
        key = (near.policy, near.guests, overcommit)
        if not pair.matched and key not in tried and 1 <= overcommit <= _MOST_OVERCOMMIT:
            cells[key] = tuple(replace(outcome.cell, overcommit=overcommit) for outcome in near.outcomes)
    return [cell for of_seeds in cells.values() for cell in of_seeds]


def equal_memory(asked: Sequence[Standing], found: Sequence[Standing]) -> TextTable:
    """Compare the default with each other policy in each setting, at equal memory held."""
    rows: list[tuple[str, ...]] = []
    for pair in pairs(asked, found):
        own, other = pair.default, pair.other
        setting = (own.guests, f"{pair.overcommit:g}", other.policy)
        if not pair.matched:
            rows.append((*setting, "", "", "", "", "", "not compared: no host was found on which both hold as much"))
            continue
        rows.append((
            *setting,
            f"{pair.fixed.held:,.2f}",
            *(f"{each.mean('wait_p99_s'):.2f} at {each.overcommit:g}" for each in (own, other)),
            *(f"{each.mean('denied_pages'):,.0f}" for each in (own, other)),
            _verdict(pair),
        ))  # fmt: skip
    about = (
        f"the default, {DEFAULT_POLICY}, against each other policy where both hold as much memory within {EQUAL:.0%}: who held more at this overcommit is"
        f" run on a smaller host, at the overcommit that stands beside its wait. The default holds where its p99 wait is at most {_MOST_TIMES:g} times the"
        f" other's, or under {_NOTICED_S:g} s, and it denies no more pages than that times the other's"
    )
    head = ("guests", "overcommit", "other", "held GiB h", "p99 s", "other's p99 s", "denied", "other's denied", "the default")  # fmt: skip
    return TextTable("The default at equal memory held", about, head, tuple(rows))


def _verdict(pair: Pair) -> str:
    """Say whether the default holds, or by what the other is better, as far as the figures tell."""
    own, other = pair.default, pair.other
    denies = own.mean("denied_pages") > _MOST_TIMES * other.mean("denied_pages")
    # Who denies little often waits little, too: the rare ones that wait in vain do not show in p99.
    if pair.times <= _MOST_TIMES and not denies:
        return "holds"
    parts = [f"{pair.times:.1f} times the wait"] if pair.times > _MOST_TIMES else []
    for column, words in (("denied_pages", "pages denied"), ("refaults", "pages read again"), ("short_guest_s", "guest seconds without memory")):  # fmt: skip
        mine, others = own.mean(column), other.mean(column)
        if mine > _MOST_TIMES * others:
            parts.append(f"{mine:,.0f} {words} against {others:,.0f}")
    return f"falls short: {'; '.join(parts)}"
