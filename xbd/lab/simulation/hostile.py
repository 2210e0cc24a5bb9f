"""A hostile guest: it sends arbitrary valid and invalid commands, as a malicious or broken guest may on its own socket.

Its answers are checked by its oracle, like any guest's. All hostile guests share a list of grants that they made, and
map grants from it. Entries are not removed when a grant ends: so a guest also tries to map what was granted to other
domains, or to an earlier domain of its own domid.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from xbd import abi
from xbd.abi import MAX_IN_FLIGHT, BootInfo, Command, Frames
from xbd.guest import Answered, Event, LimitSet, ShutdownAsked, Standing, Step, TargetSet
from xbd.lab.simulation.rng import Rng
from xbd.testing.oracle import Oracle
from xbd.units import SUPER_ORDER, SUPER_PAGES

_PAUSE_S: Final = 0.1
# The course of every seed depends on the length of this text: it is part of the messages.
HOSTILE_MODE: Final = "wild"
_SENSIBLE_SHARE: Final = 0.8
# In this share of the commands it names the same few pages, so that commands on them combine.
_SAME_PAGES_SHARE: Final = 0.4
_MAX_EXTENTS: Final = 64
_GRANTS_KEPT: Final = 64
_DOMIDS: Final = 8


@dataclass(slots=True, eq=False)
class SharedGrants:
    """The grants that hostile guests have made: (owner, grantee, grant reference) each.

    *release_all*: hostile guests now only release their mappings and grants.
    """

    entries: list[tuple[int, int, int]] = field(default_factory=list)
    release_all: bool = False

    def add(self, owner: int, to: int, ref: int) -> None:
        """Add a grant unless it is listed; the oldest entries go when there are too many."""
        if (owner, to, ref) not in self.entries:
            self.entries.append((owner, to, ref))
            del self.entries[:-_GRANTS_KEPT]


class HostileGuest:
    """A hostile guest, with the interface of `Guest` that an agent uses."""

    def __init__(
        self, boot: BootInfo, oracle: Oracle, shared_grants: SharedGrants, rng: Rng, *, nodes: int = 1
    ) -> None:
        self.shut_down = False
        self._nodes = nodes
        self._domid = boot.domid
        self._gfn_count = boot.gfn_count
        self._target_pages = boot.target_pages
        self._oracle = oracle
        self._shared = shared_grants
        self._rng = rng
        self._in_flight = 0
        self._stopping = False
        self._next_s = 0.0
        self._word = 0
        self._makers: tuple[Callable[[], Command], ...] = (
            *(self._populate, self._decrease, self._populate_depopulate, self._store, self._load) * 2,
            *(self._exchange, self._grant, self._map, self._map, self._release_one, self._decrease_granted),
        )

    def step(self, event: Event, now: float) -> Step:
        """Apply an event; returns random commands, at random times."""
        match event:
            case Answered(results):
                self._in_flight -= len(results)
                for ref, grant in self._oracle.grants.items():
                    self._shared.add(self._domid, grant.to, ref)
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
            self._next_s = now + self._rng.exponential(_PAUSE_S)
            commands = self._release_all() if self._shared.release_all else self._random_commands()
        self._in_flight += len(commands)
        return Step(commands, None if self._stopping else self._next_s, [])

    def report(self) -> dict[str, int | str]:
        """Report values that need not be true."""
        return {"current_pages": self._target_pages, "target_pages": self._target_pages, "mode": HOSTILE_MODE}

    def standing(self) -> Standing:
        """Say that it is another one whenever its target is."""
        return Standing((self._target_pages,), (), 1)

    def check(self) -> list[str]:
        """Return no discrepancies: this guest keeps no counters."""
        return []

    def _release_all(self) -> list[Command]:
        """Unmap everything it maps, and end all its grants."""
        if self._in_flight:
            return []
        slots, refs = list(self._oracle.slots), list(self._oracle.grants)
        commands: list[Command] = []
        if slots:
            commands.append(abi.UnmapGrant(np.array(slots, dtype=np.int64)))
        # One at a time: a grant that is still mapped must not keep the others.
        commands += [abi.EndGrant(np.array([ref], dtype=np.int64)) for ref in refs[: MAX_IN_FLIGHT - 1]]
        return commands

    def _random_commands(self) -> list[Command]:
        count = min(1 + self._rng.below(3), MAX_IN_FLIGHT - self._in_flight)
        return [self._random_command() for _ in range(count)]

    def _random_command(self) -> Command:
        return self._rng.choice(self._makers)()

    def _random_order(self) -> int:
        return SUPER_ORDER if self._rng.bernoulli(0.2) else 0

    def _node(self) -> tuple[int, bool] | tuple[()]:
        """Draw a node to ask for, rarely one that there is not, and whether exactly that; on a host of one: none."""
        rng = self._rng
        if self._nodes == 1 or rng.bernoulli(0.4):
            return ()
        return rng.below(self._nodes + (1 if rng.bernoulli(0.05) else 0)), rng.bernoulli(0.5)

    def _populate(self) -> Command:
        order = self._random_order()
        return abi.Populate(self._extents(order, held=False), order, *self._node())

    def _decrease(self) -> Command:
        order = self._random_order()
        return abi.Decrease(self._extents(order, held=True), order)

    def _populate_depopulate(self) -> Command:
        order = self._random_order()
        fills = self._extents(order, held=False)
        return abi.PopulateDepopulate(fills, self._extents(order, fills.size, held=True), order)

    def _store(self) -> Command:
        gfns = self._extents(0, held=True)
        self._word += 1
        return abi.Store(gfns, np.arange(gfns.size, dtype=np.uint64) + np.uint64(self._word << 32 | self._domid))

    def _load(self) -> Command:
        return abi.Load(self._extents(0, held=True))

    def _grant(self) -> Command:
        gfns = self._extents(0, held=True)[: 1 + self._rng.below(4)]
        return abi.Grant(gfns, self._rng.below(_DOMIDS), self._rng.bernoulli(0.3))

    def _exchange(self) -> Command:
        if self._rng.bernoulli(0.5):
            gives = self._extents(0, held=True)
            return abi.Exchange(gives, self._extents(0, gives.size, held=False), 0, 0, *self._node())
        if self._rng.bernoulli(0.5):
            gives = self._extents(SUPER_ORDER, 1, held=True)
            first = int(self._extents(SUPER_ORDER, 1, held=False)[0])
            return abi.Exchange(gives, np.arange(first, first + SUPER_PAGES, dtype=np.int64), SUPER_ORDER, 0)
        gives, gets = self._extents(SUPER_ORDER, 1, held=True), self._extents(SUPER_ORDER, 1, held=False)
        return abi.Exchange(gives, gets, SUPER_ORDER, SUPER_ORDER, *self._node())

    def _grants_to_me(self) -> list[tuple[int, int, int]]:
        """List the shared entries whose grantee is this domid."""
        return [entry for entry in self._shared.entries if entry[1] == self._domid]

    def _map(self) -> Command:
        rng = self._rng
        mine = self._grants_to_me()
        if not mine and rng.bernoulli(0.8):
            return self._release_one()
        if mine and rng.bernoulli(0.8):
            owner, _, ref = rng.choice(mine)
            refs = np.array([ref], dtype=np.int64)
        else:
            owner = rng.below(_DOMIDS)
            refs = np.array([rng.below(8) for _ in range(1 + rng.below(3))], dtype=np.int64)
        return abi.MapGrant(owner, refs, self._extents(0, refs.size, held=False), rng.bernoulli(0.5))

    def _release_one(self) -> Command:
        slots, refs = list(self._oracle.slots), list(self._oracle.grants)
        if slots and self._rng.bernoulli(0.5):
            return abi.UnmapGrant(np.array([self._rng.choice(slots)], dtype=np.int64))
        if refs:
            return abi.EndGrant(np.array([self._rng.choice(refs)], dtype=np.int64))
        return abi.Send(self._rng.below(_DOMIDS), np.array([self._rng.below(1 << 40)], dtype=np.uint64))

    def _decrease_granted(self) -> Command:
        """Give up a page that it has granted, and that another domain may map."""
        granted = [grant.gfn for grant in self._oracle.grants.values()]
        return abi.Decrease(np.array([self._rng.choice(granted)], dtype=np.int64)) if granted else self._grant()

    def _extents(self, order: int, count: int | None = None, *, held: bool) -> Frames:
        """Draw bases of extents: mostly such as are *held*, or not held; sometimes any; rarely ones beyond every gfn space."""
        rng = self._rng
        most = max(self._gfn_count >> order, 1)
        count = 1 + rng.below(min(_MAX_EXTENTS >> (order and 4), most)) if count is None else count
        fitting = np.flatnonzero(self._held(order) == held) if rng.bernoulli(_SENSIBLE_SHARE) else np.arange(most)
        if fitting.size < count:
            fitting = np.arange(most)
        if rng.bernoulli(_SAME_PAGES_SHARE):
            fitting = fitting[:_MAX_EXTENTS]
        if rng.bernoulli(0.7) or count > fitting.size:
            first = rng.below(max(fitting.size - count, 0) + 1)
            bases = fitting[first : first + count]
        else:
            bases = fitting[[rng.below(fitting.size) for _ in range(count)]]
        bases = np.resize(bases, count).astype(np.int64)
        if rng.bernoulli(0.02):
            bases = bases + rng.below(1 << 40)
        return bases << order

    def _held(self, order: int) -> NDArray[np.bool_]:
        populated = self._oracle.populated
        if not order:
            return populated
        rows = populated[: self._gfn_count >> order << order].reshape(-1, 1 << order)
        held: NDArray[np.bool_] = np.count_nonzero(rows, axis=1) > 0
        return held
