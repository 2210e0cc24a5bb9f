"""Safety mechanisms that can be switched off, each alone, to see that the simulation misses it.

A switch is a list of patches that are applied for the length of a run: an attribute of a module or class,
and what makes another one of it. Nothing in the product knows of them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from xbd.abi import Frames
from xbd.control.agent import Agent
from xbd.errors import BadArgument
from xbd.guest.balloon.balloon import Balloon
from xbd.guest.zone import PageState
from xbd.machine import claims, exchange, grants, mapping, reservation
from xbd.machine.frame_table import FrameTable
from xbd.machine.machine import Machine
from xbd.protocol import session
from xbd.protocol.session import Action, Conversation, Event, Session, State
from xbd.storage.image import Column, Image, Kind, Section

Anything = Any
# From what is there to what is to be there meanwhile.
Remake = Callable[[Anything], Anything]


@dataclass(frozen=True, slots=True)
class Switch:
    """A mechanism: what is missing without it, and its patches: (where, name, remake) each."""

    missing: str
    patches: Sequence[tuple[object, str, Remake]]


@contextmanager
def replaced(where: object, name: str, remake: Remake) -> Iterator[None]:
    """Let an attribute be something else for a while."""
    original = getattr(where, name)
    setattr(where, name, remake(original))
    try:
        yield
    finally:
        setattr(where, name, original)


@contextmanager
def switched_off(names: Sequence[str]) -> Iterator[None]:
    """Do without some mechanisms for a while. Raises BadArgument: there is no such switch."""
    with ExitStack() as stack:
        for name in names:
            if name not in SWITCHES:
                raise BadArgument(f"no switch {name!r}", ", ".join(SWITCHES))
            for patch in SWITCHES[name].patches:
                stack.enter_context(replaced(*patch))
        yield


def instead(answer: Anything) -> Remake:
    """Put something in the place of what was there."""
    return lambda _original: answer


def _nothing(*args: object, **kwargs: object) -> None:
    """Do nothing."""
    del args, kwargs


# -- sessions


def _execute_repeats(original: Anything) -> Anything:
    def call(self: Session, msgid: int) -> bytes | None:
        answer: bytes | None = original(self, msgid)
        return answer if answer is None else None

    return call


def _forget_notice_number(original: Anything) -> Anything:
    def notified(self: Agent, *message: object) -> None:
        self._notice_number = 0
        original(self, *message)

    return notified


def _let_in(original: Mapping[tuple[State, Event], tuple[Action, State]]) -> Anything:
    return dict(original) | {
        (State.LIVE, Event.HELLO_NEW): (Action.BOOT, State.LIVE),
        (State.LIVE, Event.HELLO_SAME): (Action.RESUME, State.LIVE),
    }


# -- the machine


@contextmanager
def _no_scrub() -> Iterator[None]:
    with replaced(FrameTable, "scrub", instead(_nothing)), replaced(FrameTable, "scrub_superframes", instead(_nothing)):
        yield


def _without_scrub(original: Anything) -> Anything:
    def unscrubbed(self: FrameTable, frames: Frames) -> None:
        with _no_scrub():
            original(self, frames)

    return unscrubbed


def _reboot_without_scrub(original: Anything) -> Anything:
    def reboot(self: Machine, domid: int) -> Anything:
        with _no_scrub():
            return original(self, domid)

    return reboot


def _swap_without_scrub(original: Anything) -> Anything:
    def swap(*arguments: object) -> None:
        with replaced(FrameTable, "scrub", instead(_nothing)):
            original(*arguments)

    return swap


_NOT_REFERENCED: Final = instead(lambda _host, _domain, gfns: int(gfns.size))
_NO_BLOCK_REFERENCED: Final = instead(lambda _host, _domain, blocks: np.zeros(blocks.size, dtype=np.bool_))


class _Ageless:
    """A grant table that knows numbers, but no births."""

    def __init__(self, table: Anything, birth: int) -> None:
        self.gfn, self.to, self.readonly = table.gfn, table.to, table.readonly
        self.birth = np.full(self.gfn.size, birth, dtype=np.int64)


def _by_number(original: Anything) -> Anything:
    def valid(owner: Anything, table: Anything, domain: Anything, refs: Frames, *, readonly: bool) -> Anything:
        return original(owner, _Ageless(table, domain.birth), domain, refs, readonly=readonly)

    return valid


def _without_limit(original: Anything) -> Anything:
    def count(host: Anything, domain: Anything, gfns: Frames, order: int) -> Anything:
        most, domain.max_pages = domain.max_pages, 1 << 40
        try:
            return original(host, domain, gfns, order)
        finally:
            domain.max_pages = most

    return count


class _Unclaimed:
    """A host in whose superframes nobody is at home, for who asks."""

    def __init__(self, host: FrameTable) -> None:
        self.at_home = np.zeros(host.at_home.size, dtype=np.uint16)
        self.add_at_home = host.add_at_home


def _adopt_anything(original: Anything) -> Anything:
    return lambda host, *rest: original(_Unclaimed(host), *rest)


# -- recovery


class _Silent(Column):
    """A column that is written without a note."""

    __slots__ = ()

    def note(self, rows: Frames) -> None:
        """Note nothing."""

    def note_row(self, row: int) -> None:
        """Note nothing."""


def _unnoted(*columns: tuple[Kind, str]) -> Remake:
    def remake(original: Anything) -> Anything:
        def column(self: Section, name: str, *, width: int | None = None) -> Column:
            made: Column = original(self, name, width=width)
            if (self.key[0], name) in columns:
                made.__class__ = _Silent
            return made

        return column

    return remake


# -- the guest


def _isolate_nothing(original: Anything) -> Anything:
    def isolate(self: Balloon, count: int) -> Frames:
        gfns: Frames = original(self, count)
        self._zone.change(gfns, PageState.ISOLATED, PageState.FREE)
        return gfns

    return isolate


SWITCHES: Final[Mapping[str, Switch]] = {
    "answer-window": Switch("a call that comes again is done again", [(Session, "call", _execute_repeats)]),
    "one-session": Switch("a second connection gets in beside a live one", [(session, "TABLE", _let_in)]),
    "resend": Switch(
        "a resumed agent does not send again what was in flight", [(Conversation, "resend", instead(lambda _self: b""))]
    ),
    "notice-numbers": Switch("a notice that comes late is heeded", [(Agent, "_notified", _forget_notice_number)]),
    "scrub-on-free": Switch(
        "what was in a frame is there when it is given back",
        [(FrameTable, "give", _without_scrub), (FrameTable, "give_superframes", _without_scrub)],
    ),
    "scrub-on-reboot": Switch("a rebooted guest finds its old words", [(Machine, "reboot", _reboot_without_scrub)]),
    "scrub-on-move": Switch(
        "populate_depopulate gives a page with its old word", [(exchange, "_swap_small", _swap_without_scrub)]
    ),
    "frame-references": Switch(
        "what others map can be given up",
        [
            (reservation, "first_referenced", _NOT_REFERENCED),
            (exchange, "first_referenced", _NOT_REFERENCED),
            (reservation, "referenced_blocks", _NO_BLOCK_REFERENCED),
            (exchange, "referenced_blocks", _NO_BLOCK_REFERENCED),
        ],
    ),
    "births": Switch("a grant reaches the next domain of a number", [(grants, "_valid_references", _by_number)]),
    "cut-off": Switch("mappings go on into a rebooted owner's memory", [(grants, "cut_off", instead(_nothing))]),
    "zombies": Switch(
        "a destroyed domain's frames are freed though others map them",
        [(grants, "pages_in_use", instead(lambda _domain: np.zeros(0, dtype=np.int64)))],
    ),
    "max-pages": Switch("a guest grows beyond its limit", [(reservation, "_count_populatable", _without_limit)]),
    "claims": Switch(
        "what is promised to one is given to another",
        [(claims, "free_frames_for", instead(lambda host, _domain: host.heap.free_frames))],
    ),
    "eexist": Switch(
        "a populated page is populated again",
        [(reservation, "first_taken", instead(lambda entries: int(entries.size)))],
    ),
    "home-uniqueness": Switch("two blocks claim one superframe", [(mapping, "_adopt_homes", _adopt_anything)]),
    "undo-p2m": Switch(
        "half of an operation stays in the p2m after a crash",
        [(Section, "column", _unnoted((Kind.DOMAIN, "blocks"), (Kind.DOMAIN, "entry")))],
    ),
    "undo-content": Switch(
        "words that were written in a step that is undone stay", [(Section, "column", _unnoted((Kind.HOST, "content")))]
    ),
    "undo-session": Switch(
        "an answer is kept of a command that is undone", [(Section, "column", _unnoted((Kind.AGENT, "session")))]
    ),
    "undo-grants": Switch(
        "half of an operation stays in the tables of grants after a crash",
        [(Section, "column", _unnoted((Kind.DOMAIN, "grants"), (Kind.DOMAIN, "mappings")))],
    ),
    "undo-limits": Switch(
        "a limit of a call that is undone stays", [(Section, "column", _unnoted((Kind.DOMAIN, "limits")))]
    ),
    "commit": Switch("what is done can still be undone", [(Image, "commit", instead(_nothing))]),
    "isolation": Switch(
        "a page whose command is in flight can be used", [(Balloon, "isolate_pages", _isolate_nothing)]
    ),
}
