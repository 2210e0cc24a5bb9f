"""The synthetic scenario: programs allocate and free memory, and targets move memory between guests.

In each round the guests are paired at random. One of a pair is told to shrink; half a round later the other grows by
what was freed, so that the targets together never exceed what the host has to give. Amounts are random, too, rounded to
the granularity of the strategy's toolstack. A guest that has not shrunk by then keeps what it holds, as a toolstack
with a deadline would decide.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from xbd.config.strategies import find_strategy
from xbd.errors import BadArgument
from xbd.guest import GuestSettings
from xbd.guest.workload import make_workload
from xbd.lab.experiments.grid import Cell, Churn
from xbd.testing.virtual_host import VirtualHost
from xbd.units import SUPER_PAGES, round_down

# The random share of what can move between two guests that does move in a round: least and most.
_MOVES_LEAST, _MOVES_MOST = 0.3, 1.0


class ChurnRun:
    """A churn scenario on its host; `steps` runs it and yields the times to advance to.

    Raises BadArgument: its guests cannot run on such a host.
    """

    def __init__(self, cell: Cell, scenario: Churn) -> None:
        self._scenario = scenario
        self._strategy = find_strategy(cell.strategy)
        self._unit = self._strategy.granularity_pages
        superframes = int(scenario.total_pages / cell.overcommit) // SUPER_PAGES
        # Whole superframes, so that every strategy has the same to give.
        to_give = int(superframes * (1 - cell.slack)) * SUPER_PAGES
        self._least = round_down(int(scenario.memory_pages * scenario.least), self._unit)
        if to_give < scenario.guests * max(self._least, SUPER_PAGES):
            raise BadArgument(
                f"{cell.label()}: {to_give} pages for {scenario.guests} guests", f"{self._least} pages for each"
            )
        self.host = VirtualHost(superframes, self._strategy.host, seed=cell.seed)
        self.host.limit_beyond_pages = self._strategy.limit_beyond_pages
        self._rng = np.random.default_rng([cell.seed, scenario.guests])
        self._targets = _even(min(to_give, scenario.total_pages), scenario.guests, self._unit)
        settings = GuestSettings(cell.budget.apply(self._strategy.driver), verify=scenario.verify, count_faults=True)
        self.domids = [self._create(number, settings) for number in range(scenario.guests)]

    def _create(self, number: int, settings: GuestSettings) -> int:
        """Create a guest with its target rounded down to superpages, as domain builders do; `steps` sets the exact target."""
        return self.host.create(
            f"churn{number}",
            max_pages=self._scenario.memory_pages,
            target_pages=round_down(self._targets[number]),
            domain_type=self._strategy.domain_type,
            settings=settings,
            workload=make_workload(self._scenario.profile, dict(self._scenario.options)),
        )

    def steps(self) -> Iterator[float]:
        """Run the scenario: set targets, then yield the time until which they stay."""
        for domid, target in zip(self.domids, self._targets, strict=True):
            if target % SUPER_PAGES:
                self.host.set_target(domid, target)
        for number in range(self._scenario.rounds):
            begins = number * self._scenario.round_s
            moves = self._draw()
            before = list(self._targets)
            for shrinks, _, pages in moves:
                self._set(shrinks, self._targets[shrinks] - pages)
            yield begins + self._scenario.round_s / 2
            for shrinks, grows, _ in moves:
                freed = self._settle(shrinks, before[shrinks])
                self._set(grows, self._targets[grows] + freed)
            yield begins + self._scenario.round_s
        yield self._scenario.rounds * self._scenario.round_s + self._scenario.quiet_s

    def _draw(self) -> list[tuple[int, int, int]]:
        """Draw pairs of guests: which shrinks, which grows, and by how many pages."""
        order = self._rng.permutation(len(self.domids)).tolist()
        shares = self._rng.uniform(_MOVES_LEAST, _MOVES_MOST, len(order) // 2).tolist()
        moves = []
        for shrinks, grows, share in zip(order[::2], order[1::2], shares, strict=False):
            room = min(self._targets[shrinks] - self._least, self._scenario.memory_pages - self._targets[grows])
            pages = round_down(int(max(room, 0) * share), self._unit)
            if pages:
                moves.append((shrinks, grows, pages))
        return moves

    def _set(self, number: int, pages: int) -> None:
        if pages != self._targets[number]:
            self._targets[number] = pages
            self.host.set_target(self.domids[number], pages)

    def _settle(self, number: int, before: int) -> int:
        """Raise the target of a guest that has not reached it to what it holds; returns the pages freed."""
        holds = -(-self.host.machine.domain(self.domids[number]).tot_pages // self._unit) * self._unit
        self._set(number, min(max(holds, self._targets[number]), before))
        return before - self._targets[number]


def _even(pages: int, count: int, unit: int) -> list[int]:
    """Divide pages evenly, in units; the first get what is left over."""
    units: Sequence[int] = [pages // unit // count + (number < pages // unit % count) for number in range(count)]
    return [each * unit for each in units]
