"""What one guest must hold according to the answers that it got: pages, content words, grants and slots.

An oracle is fed with what a guest sends (`issue`) and what it is answered (`answered`). Commands without an answer are
*in doubt*: they may have been done or not. Everything else must be the same on the host at any time, and every answer
must fit what the oracle knows. So a command that is lost or done twice, and a page that is lost or leaked, is found.
Checker guest of the soak, simulation of the cores and tests use it; the simulation's `WatchedOracle` also sees which
commands the daemon has done. It is no model of the host: it does not say what a host must answer (tests' naive hosts do).

The content word of a page that is granted writable is unknown until the owner has written it again: others may write it.
"""

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xbd import abi
from xbd.abi import BootInfo, Command, Frames, Result, Stop, Words

_BACKING = (abi.Populate, abi.Deflate)
_UNBACKING = (abi.Decrease, abi.Inflate)


class Violation(Exception):
    """Something that must always hold did not; the message says what."""


@dataclass(frozen=True, slots=True)
class Granted:
    """A grant: the page *gfn*, granted to domain *to*, perhaps *readonly*."""

    gfn: int
    to: int
    readonly: bool


class Oracle:
    """The expected state of one guest, that of domain *domid*.

    Attributes: by gfn *populated*, the content *words*, and *words_unknown*. *grants* by reference; *slots*: by gfn
    where the domain maps a grant, (owner, reference). *booted*: a guest has booted.
    """

    def __init__(self, domid: int, gfn_count: int) -> None:
        self.domid = domid
        self.gfn_count = gfn_count
        self.populated: NDArray[np.bool_] = np.zeros(gfn_count, dtype=np.bool_)
        self.words: Words = np.zeros(gfn_count, dtype=np.uint64)
        self.words_unknown: NDArray[np.bool_] = np.zeros(gfn_count, dtype=np.bool_)
        self.grants: dict[int, Granted] = {}
        self.slots: dict[int, tuple[int, int]] = {}
        self.booted = False
        self._issued: deque[Command] = deque()

    # -- the guest's side

    def boot(self, boot: BootInfo) -> None:
        """Reset to what a booting guest was told.

        Raises Violation: a page that is not in doubt has changed; it is reset all the same.
        """
        found = np.zeros(self.gfn_count, dtype=np.bool_)
        for first, end in boot.runs.tolist():
            found[first:end] = True
        right = (found == self.populated) | self.in_doubt() | (not self.booted)
        self.populated = found
        self.words[:] = 0
        self.words_unknown[:] = False
        self.grants.clear()
        self.slots.clear()
        self._issued.clear()
        self.booted = True
        self._expect(right, "found other pages populated when it booted")

    def issue(self, commands: list[Command]) -> None:
        """Record commands that the guest has sent."""
        for command in commands:
            if isinstance(command, abi.Grant) and not command.readonly:
                self.words_unknown[self._inside(command.gfns)] = True
        self._issued.extend(commands)

    @property
    def in_flight(self) -> list[Command]:
        """List the commands without an answer."""
        return list(self._issued)

    def answered(self, result: Result) -> None:
        """Check the answer to the oldest command without one and apply it. Raises Violation: it does not fit what is known."""
        command = self._issued.popleft()
        if isinstance(result, abi.Refused):
            return
        if isinstance(command, _BACKING):
            self._backed(command.gfns, command.order, result.done, result.stop)
        elif isinstance(command, _UNBACKING):
            self._unbacked(command.gfns, command.order, result.done, result.stop)
        elif isinstance(command, abi.Exchange):
            self._moved(command.gives, command.gives_order, command.gets, command.gets_order, result.done)
        elif isinstance(command, abi.PopulateDepopulate):
            self._moved(command.depopulate, command.order, command.populate, command.order, result.done)
        else:
            self._accessed(command, result)

    def _accessed(self, command: Command, result: Result) -> None:
        match command, result:
            case abi.Load(gfns), abi.LoadResult(done, stop, words):
                self._loaded(gfns, done, stop, words)
            case abi.Store(gfns, words), abi.MemopResult(done, _):
                self._stored(gfns[:done], words[:done])
            case abi.Grant(gfns, to, readonly), abi.GrantResult(done, _, refs):
                self._have_granted(refs, gfns[:done], to, readonly=readonly)
            case abi.EndGrant(refs), abi.MemopResult(done, _):
                self._lose(self.grants, refs[:done], "ended a grant that it never had")
            case abi.MapGrant(owner, refs, gfns, _), abi.MemopResult(done, _):
                self._have_mapped(owner, refs[:done], gfns[:done])
            case abi.UnmapGrant(gfns), abi.MemopResult(done, _):
                self._lose(self.slots, gfns[:done], "unmapped what was not mapped")
            case _:
                pass  # messages: sender and receiver check them

    def _have_granted(self, refs: Frames, gfns: Frames, to: int, *, readonly: bool) -> None:
        for ref, gfn in zip(refs.tolist(), gfns.tolist(), strict=True):
            if ref in self.grants:
                raise Violation(f"d{self.domid} got grant reference {ref} twice")
            self.grants[ref] = Granted(gfn, to, readonly)

    def _have_mapped(self, owner: int, refs: Frames, gfns: Frames) -> None:
        for gfn, ref in zip(gfns.tolist(), refs.tolist(), strict=True):
            if gfn in self.slots or self.populated[gfn]:
                raise Violation(f"d{self.domid} mapped a grant at gfn {gfn:#x}, where something is")
            self.slots[gfn] = (owner, ref)

    def _lose(self, held: dict[int, Any], keys: Frames, wrong: str) -> None:
        for key in keys.tolist():
            if held.pop(key, None) is None:
                raise Violation(f"d{self.domid} {wrong} ({key:#x})")

    # -- applying answers

    def _backed(self, bases: Frames, order: int, done: int, stop: Stop | None) -> None:
        gfns = expand_extents(bases[:done], order)
        self._expect(~self.populated[gfns], "was given pages that it has")
        if self.slots and not self.slots.keys().isdisjoint(gfns.tolist()):
            raise Violation(f"d{self.domid} was given pages where it maps others'")
        self._fill(gfns)
        if stop is Stop.EEXIST:
            extent = expand_extents(bases[done : done + 1], order)
            if not self.populated[extent].any() and self.slots.keys().isdisjoint(extent.tolist()):
                raise Violation(f"d{self.domid} got the answer that gfn {int(bases[done]):#x} is populated; it is not")

    def _unbacked(self, bases: Frames, order: int, done: int, stop: Stop | None) -> None:
        gfns = expand_extents(bases[:done], order)
        self._expect(self.populated[gfns], "gave pages that it did not have")
        self.populated[gfns] = False
        extent = expand_extents(bases[done : done + 1], order)
        if stop is Stop.ENOENT and self.populated[extent].all():
            raise Violation(f"d{self.domid} got the answer that gfn {int(bases[done]):#x} is not populated; it is")
        if stop is Stop.EBUSY and not any(grant.gfn in extent for grant in self.grants.values()):
            raise Violation(
                f"d{self.domid} got the answer that others map gfn {int(bases[done]):#x}, which it granted nobody"
            )

    def _moved(self, outs: Frames, out_order: int, ins: Frames, in_order: int, done: int) -> None:
        """Apply moved pages; an exchange counts *done* in extents of what it gives up."""
        pages = done << out_order
        gone, come = expand_extents(outs[:done], out_order), expand_extents(ins[: pages >> in_order], in_order)
        self._expect(self.populated[gone], "moved pages away that it did not have")
        self._expect(~self.populated[come], "moved pages to where it had some")
        self.populated[gone] = False
        self._fill(come)

    def _fill(self, gfns: Frames) -> None:
        self.populated[gfns] = True
        self.words[gfns] = 0
        self.words_unknown[gfns] = False

    def _loaded(self, gfns: Frames, done: int, stop: Stop | None, words: Words) -> None:
        read = gfns[:done]
        known = self.populated[read] & ~self.words_unknown[read]
        wrong = known & (self.words[read] != words)
        if wrong.any():
            at = int(wrong.argmax())
            gfn, left = int(read[at]), int(self.words[read[at]])
            raise Violation(f"d{self.domid} read {int(words[at]):#x} at gfn {gfn:#x}, where {left:#x} was left")
        if stop is Stop.EFAULT and self.populated[gfns[done]]:
            raise Violation(f"d{self.domid} could not read gfn {int(gfns[done]):#x}, which is populated")

    def _stored(self, gfns: Frames, words: Words) -> None:
        own = self.populated[gfns]
        written = gfns[own]
        self.words[written] = words[own]
        if self.words_unknown[written].any():
            self.words_unknown[written] = False
            for grant in self.grants.values():
                self.words_unknown[grant.gfn] |= not grant.readonly
            for command in self._issued:
                if isinstance(command, abi.Grant) and not command.readonly:
                    self.words_unknown[self._inside(command.gfns)] = True

    # -- queries

    @property
    def tot_pages(self) -> int:
        """The number of populated pages."""
        return int(np.count_nonzero(self.populated))

    def in_doubt(self) -> NDArray[np.bool_]:
        """Mark the gfns named in commands that may have been done and are not yet answered: (gfns,) bool."""
        doubt = np.zeros(self.gfn_count, dtype=np.bool_)
        for command in self.maybe_done():
            match command:
                case abi.Populate() | abi.Decrease() | abi.Deflate() | abi.Inflate():
                    parts = [expand_extents(command.gfns, command.order)]
                case abi.Exchange(gives, gets, out_order, in_order):
                    parts = [expand_extents(gives, out_order), expand_extents(gets, in_order)]
                case abi.PopulateDepopulate(gets, gives, order):
                    parts = [expand_extents(gets, order), expand_extents(gives, order)]
                case abi.Store(gfns, _):
                    parts = [gfns]
                case _:
                    parts = []
            for part in parts:
                doubt[self._inside(part)] = True
        return doubt

    def maybe_done(self) -> list[Command]:
        """List the commands that may have been done and are not yet answered."""
        return self.in_flight

    def has_in_doubt(self, *kinds: type[Command]) -> bool:
        """Tell whether a command of one of these kinds may have been done and is not yet answered."""
        return any(isinstance(command, kinds) for command in self.maybe_done())

    def _inside(self, gfns: Frames) -> Frames:
        """Leave out gfns beyond the gfn space: commands that name them are refused."""
        return gfns[(gfns >= 0) & (gfns < self.gfn_count)]

    def _expect(self, right: NDArray[np.bool_], what: str) -> None:
        if not right.all():
            raise Violation(f"d{self.domid} {what} ({np.count_nonzero(~right)} of them)")


def expand_extents(bases: Frames, order: int) -> Frames:
    """Return the gfn of every page of the extents."""
    if not order:
        return bases
    return (bases[:, None] + np.arange(1 << order, dtype=np.int64)).reshape(-1)


def same(left: object, right: object) -> bool:
    """Compare two commands, or two results, by type and all fields."""
    if type(left) is not type(right):
        return False
    names = left.__slots__  # type: ignore[attr-defined]  # all of them are dataclasses with slots
    return all(_equal(getattr(left, name), getattr(right, name)) for name in names)


def _equal(left: object, right: object) -> bool:
    if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
        return left.size == right.size and bool((left == right).all())
    return bool(left == right)
