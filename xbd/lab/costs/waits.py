"""How long who wanted memory waited, in a run that takes no time: recorded as counts, so that any prices can be applied."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from xbd.lab.costs.bill import bill
from xbd.lab.costs.counts import Counts, counts_of
from xbd.testing.virtual_host import VirtualHost

_P99: Final = 0.99


@dataclass(frozen=True, slots=True)
class Wait:
    """One wait of a guest for more memory.

    *own*: what was done for it. *others*: what was done for each guest that had to shrink first, all at the same time.
    *late_s*: how long its target was not reached in the time of the run: its driver was refused and backed off.
    """

    own: Counts
    others: tuple[Counts, ...] = ()
    late_s: float = 0.0

    def seconds(self, prices: Mapping[str, float]) -> float:
        """Return how long it lasted."""
        slowest = max((bill(counts, prices).elapsed_s for counts in self.others), default=0.0)
        return slowest + bill(self.own, prices).elapsed_s + self.late_s


def p99_s(waits: Sequence[Wait], prices: Mapping[str, float]) -> float:
    """Return the seconds that 99 of 100 waits did not exceed; 0 if nobody waited."""
    if not waits:
        return 0.0
    return float(np.quantile([wait.seconds(prices) for wait in waits], _P99, method="higher"))


class WaitLog:
    """Records the waits of a host's guests: `close` what goes on, `open` what begins, in turns.

    *to_targets*: the guests go to their targets; False: these mean nothing to them, and none is late for one.

    Attributes: *waits*: by guest, in the order of *domids*.
    """

    def __init__(self, host: VirtualHost, domids: Sequence[int], *, to_targets: bool = True) -> None:
        self._host = host
        self._domids = list(domids)
        self._to_targets = to_targets
        self._before = self._count()
        self._wanting: list[int] = []
        self._shrinking: list[int] = []
        # By guest, since when a target of its is not reached.
        self._late_since: dict[int, float] = {}
        self.waits: list[list[Wait]] = [[] for _ in domids]

    def _count(self) -> list[Counts]:
        return [counts_of(self._host, domid) for domid in self._domids]

    def close(self, now: float) -> None:
        """Record what was done since the last time, and for whom."""
        after = self._count()
        done = [counts.since(before) for counts, before in zip(after, self._before, strict=True)]
        self._before = after
        for nth in self._wanting:
            others = tuple(done[other] for other in self._shrinking if other != nth)
            self.waits[nth].append(Wait(done[nth], others))
        for nth, since in self._late_since.items():
            self.waits[nth][-1] = replace(self.waits[nth][-1], late_s=now - since)
        self._late_since = {nth: since for nth, since in self._late_since.items() if self._is_short(nth)}
        self._wanting = []

    def open(self, now: float, wanting: Sequence[int], shrinking: Sequence[int]) -> None:
        """Begin anew: these guests, by their place, want more memory; those were told to shrink for it."""
        self._wanting, self._shrinking = list(wanting), list(shrinking)
        for nth in wanting:
            # A wait that goes on ends with the next one.
            self._late_since.pop(nth, None)
            if self._is_short(nth):
                self._late_since[nth] = now

    def _is_short(self, nth: int) -> bool:
        """Whether a guest has less than its target."""
        domain = self._host.machine.domain(self._domids[nth])
        return self._to_targets and domain.tot_pages < domain.target_pages
