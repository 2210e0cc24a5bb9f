"""A guest that asks for anything at all: what a hostile one, or a broken one, may do with its own socket.

Its answers are held against its book by whoever watches it. It grants and maps what it hears of, from a
board of rumours that all of its kind write on and where nothing is ever taken down: so it also tries
what was granted to others, or to a domain that had its number before.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from xbd import abi
from xbd.abi import MAX_IN_FLIGHT, BootInfo, Command, Frames
from xbd.guest import Answered, Event, LimitSet, ShutdownAsked, Step, TargetSet
from xbd.lab.simulation.oracle import Oracle
from xbd.lab.simulation.rng import Lots
from xbd.units import SUPER_ORDER, SUPER_PAGES

_PAUSE_S: Final = 0.1
_SENSIBLE_SHARE: Final = 0.8
# Often it means the same few pages, so that what it does to them adds up.
_FAVOURED_SHARE: Final = 0.4
_EXTENTS_MOST: Final = 64
_RUMOURS_KEPT: Final = 64
_DOMIDS: Final = 8


@dataclass(slots=True, eq=False)
class Board:
    """What the wild guests have heard of: (owner, to whom, reference) each; and whether they are to behave."""

    rumours: list[tuple[int, int, int]] = field(default_factory=list)
    calm: bool = False

    def tell(self, owner: int, to: int, ref: int) -> None:
        """Write something on it."""
        if (owner, to, ref) not in self.rumours:
            self.rumours.append((owner, to, ref))
            del self.rumours[:-_RUMOURS_KEPT]


class HostileGuest:
    """One of them; as an agent plays it."""

    def __init__(self, boot: BootInfo, oracle: Oracle, board: Board, lots: Lots) -> None:
        self.shut_down = False
        self._domid = boot.domid
        self._gfn_count = boot.gfn_count
        self._target_pages = boot.target_pages
        self._book = oracle
        self._board = board
        self._lots = lots
        self._in_flight = 0
        self._stopping = False
        self._next_s = 0.0
        self._word = 0
        self._kinds: tuple[Callable[[], Command], ...] = (
            *(self._populate, self._decrease, self._swap, self._store, self._load) * 2,
            *(self._exchange, self._grant, self._map, self._map, self._let_go, self._give_up),
        )

    def step(self, event: Event, now: float) -> Step:
        """Do something, sometimes."""
        match event:
            case Answered(results):
                self._in_flight -= len(results)
                for ref, grant in self._book.grants.items():
                    self._board.tell(self._domid, grant.to, ref)
            case TargetSet(pages):
                self._target_pages = pages
            case LimitSet(_):
                pass
            case ShutdownAsked():
                self._stopping = True
            case _:
                pass
        commands: list[Command] = []
        if self._stopping:
            self.shut_down = self._in_flight == 0
        elif now >= self._next_s:
            self._next_s = now + self._lots.spread(_PAUSE_S)
            commands = self._tidy() if self._board.calm else self._anything()
        self._in_flight += len(commands)
        return Step(commands, None if self._stopping else self._next_s, [])

    def report(self) -> dict[str, int | str]:
        """Say something, which nobody should believe."""
        return {"current_pages": self._target_pages, "target_pages": self._target_pages, "mode": "wild"}

    def check(self) -> list[str]:
        """Find nothing to say."""
        return []

    def _tidy(self) -> list[Command]:
        """Let go of what is others'."""
        if self._in_flight:
            return []
        slots, refs = list(self._book.slots), list(self._book.grants)
        commands: list[Command] = []
        if slots:
            commands.append(abi.UnmapGrant(np.array(slots, dtype=np.int64)))
        # One at a time: a grant that is still mapped must not keep the others.
        commands += [abi.EndGrant(np.array([ref], dtype=np.int64)) for ref in refs[: MAX_IN_FLIGHT - 1]]
        return commands

    def _anything(self) -> list[Command]:
        count = min(1 + self._lots.below(3), MAX_IN_FLIGHT - self._in_flight)
        return [self._one() for _ in range(count)]

    def _one(self) -> Command:
        return self._lots.pick(self._kinds)()

    def _order(self) -> int:
        return SUPER_ORDER if self._lots.chance(0.2) else 0

    def _populate(self) -> Command:
        order = self._order()
        return abi.Populate(self._extents(order, held=False), order)

    def _decrease(self) -> Command:
        order = self._order()
        return abi.Decrease(self._extents(order, held=True), order)

    def _swap(self) -> Command:
        order = self._order()
        fills = self._extents(order, held=False)
        return abi.PopulateDepopulate(fills, self._extents(order, fills.size, held=True), order)

    def _store(self) -> Command:
        gfns = self._extents(0, held=True)
        self._word += 1
        return abi.Store(gfns, np.arange(gfns.size, dtype=np.uint64) + np.uint64(self._word << 32 | self._domid))

    def _load(self) -> Command:
        return abi.Load(self._extents(0, held=True))

    def _grant(self) -> Command:
        gfns = self._extents(0, held=True)[: 1 + self._lots.below(4)]
        return abi.Grant(gfns, self._lots.below(_DOMIDS), self._lots.chance(0.3))

    def _exchange(self) -> Command:
        if self._lots.chance(0.5):
            gives = self._extents(0, held=True)
            return abi.Exchange(gives, self._extents(0, gives.size, held=False))
        if self._lots.chance(0.5):
            gives = self._extents(SUPER_ORDER, 1, held=True)
            first = int(self._extents(SUPER_ORDER, 1, held=False)[0])
            return abi.Exchange(gives, np.arange(first, first + SUPER_PAGES, dtype=np.int64), SUPER_ORDER, 0)
        gives, gets = self._extents(SUPER_ORDER, 1, held=True), self._extents(SUPER_ORDER, 1, held=False)
        return abi.Exchange(gives, gets, SUPER_ORDER, SUPER_ORDER)

    def _mine(self) -> list[tuple[int, int, int]]:
        """List what is rumoured to be granted to whoever has this number."""
        return [rumour for rumour in self._board.rumours if rumour[1] == self._domid]

    def _map(self) -> Command:
        lots = self._lots
        mine = self._mine()
        if not mine and lots.chance(0.8):
            return self._let_go()
        if mine and lots.chance(0.8):
            owner, _, ref = lots.pick(mine)
            refs = np.array([ref], dtype=np.int64)
        else:
            owner = lots.below(_DOMIDS)
            refs = np.array([lots.below(8) for _ in range(1 + lots.below(3))], dtype=np.int64)
        return abi.MapGrant(owner, refs, self._extents(0, refs.size, held=False), lots.chance(0.5))

    def _let_go(self) -> Command:
        slots, refs = list(self._book.slots), list(self._book.grants)
        if slots and self._lots.chance(0.5):
            return abi.UnmapGrant(np.array([self._lots.pick(slots)], dtype=np.int64))
        if refs:
            return abi.EndGrant(np.array([self._lots.pick(refs)], dtype=np.int64))
        return abi.Send(self._lots.below(_DOMIDS), np.array([self._lots.below(1 << 40)], dtype=np.uint64))

    def _give_up(self) -> Command:
        """Give a page to the host that it has granted, and that somebody may map."""
        granted = [grant.gfn for grant in self._book.grants.values()]
        return abi.Decrease(np.array([self._lots.pick(granted)], dtype=np.int64)) if granted else self._grant()

    def _extents(self, order: int, count: int | None = None, *, held: bool) -> Frames:
        """Name some extents: mostly such as are *held*, or are not; at times any, rarely some that nobody can have."""
        lots = self._lots
        most = max(self._gfn_count >> order, 1)
        count = 1 + lots.below(min(_EXTENTS_MOST >> (order and 4), most)) if count is None else count
        fitting = np.flatnonzero(self._held(order) == held) if lots.chance(_SENSIBLE_SHARE) else np.arange(most)
        if fitting.size < count:
            fitting = np.arange(most)
        if lots.chance(_FAVOURED_SHARE):
            fitting = fitting[:_EXTENTS_MOST]
        if lots.chance(0.7) or count > fitting.size:
            first = lots.below(max(fitting.size - count, 0) + 1)
            bases = fitting[first : first + count]
        else:
            bases = fitting[[lots.below(fitting.size) for _ in range(count)]]
        bases = np.resize(bases, count).astype(np.int64)
        if lots.chance(0.02):
            bases = bases + lots.below(1 << 40)
        return bases << order

    def _held(self, order: int) -> NDArray[np.bool_]:
        populated = self._book.populated
        if not order:
            return populated
        rows = populated[: self._gfn_count >> order << order].reshape(-1, 1 << order)
        held: NDArray[np.bool_] = np.count_nonzero(rows, axis=1) > 0
        return held
