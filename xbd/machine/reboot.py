"""The reboot of a domain, a few superpages at a time, so that nobody waits long for it.

It begins with what others can notice: messages of a departure, grants and mappings end. From then on nobody but the
domain's next guest can come to its memory, and that one is not there yet. So its memory is zeroed, and its boot map
made, piece by piece, each within a turn; what others do between two pieces changes neither.
"""

from typing import Final, Protocol

import numpy as np

from xbd import abi
from xbd.arrays import from_cells, supers_of
from xbd.machine.domain import NO_RUNS, Domain, P2m
from xbd.machine.frame_table import FrameTable

# What a piece costs at most, as turns count it.
_PIECE_COST: Final = abi.TURN_EXTENTS


class Rebooting(Protocol):
    """A machine, as the reboot of one of its domains sees it; its tables are others after a step was undone."""

    host: FrameTable

    def living(self, domid: int) -> Domain:
        """Find the tables of a domain that is no zombie. Raises NoSuchDomain."""

    def boot_info(self, domid: int, *, runs: abi.Frames | None = None) -> abi.BootInfo:
        """Return what a booting guest is told. Raises NoSuchDomain."""


class Reboot:
    """The reboot of a domain that has begun: `Machine.begin_reboot`.

    Each piece is done in a step of its own. If it is left half done the next reboot begins anew.
    """

    def __init__(self, machine: Rebooting, domid: int) -> None:
        self._machine = machine
        self._domid = domid
        self._ends = self._divide(machine.living(domid).p2m)
        self._next_block = 0
        self._runs = [NO_RUNS]

    def _divide(self, p2m: P2m) -> list[int]:
        """Divide the blocks into pieces that cost a turn; returns where each ends."""
        costs = np.zeros(p2m.leaf.size, dtype=np.int64)
        costs[(p2m.populated > 0) & (p2m.leaf == 0)] = abi.TURN_COST_SHATTERED
        leaves = np.flatnonzero(p2m.leaf)
        written = self._machine.host.written[supers_of(from_cells(p2m.leaf[leaves]))]
        costs[leaves[written]] = abi.TURN_COST_LEAF
        turns = np.cumsum(costs) // _PIECE_COST
        return [*(np.flatnonzero(turns[1:] > turns[:-1]) + 1).tolist(), costs.size]

    def go_on(self) -> bool:
        """Zero the next piece; returns whether that was the last. Raises NoSuchDomain: it was destroyed meanwhile."""
        host, p2m = self._machine.host, self._machine.living(self._domid).p2m
        if self._ends:
            piece = slice(self._next_block, self._ends[0])
            host.scrub_rebooted(p2m, piece)
            self._add_runs(p2m.runs(piece))
            self._next_block = self._ends.pop(0)
        return not self._ends

    def _add_runs(self, runs: abi.Frames) -> None:
        """Add a piece's runs; its first goes on from the last of those before it where they touch."""
        if runs.size == 0:
            return
        last = self._runs[-1]
        if last.size and last[-1, 1] == runs[0, 0]:
            runs[0, 0] = last[-1, 0]
            self._runs[-1] = last[:-1]
        self._runs.append(runs)

    def info(self) -> abi.BootInfo:
        """Return what the new guest is told, when all pieces are done."""
        return self._machine.boot_info(self._domid, runs=np.concatenate(self._runs))
