"""Safety mechanisms that can be switched off one by one, to show that the simulation notices their absence.

A switch is a list of patches that hold for the length of a run: an attribute of a module or class, and a function that
makes its replacement. The product has no code for this.
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
from xbd.machine.reboot import Reboot
from xbd.protocol import session
from xbd.protocol.client_session import ClientSession
from xbd.protocol.session import Action, Event, Session, State
from xbd.storage.image import Column, Image, Kind, Section

Anything = Any
# Makes the temporary value of an attribute from its present one.
Replacement = Callable[[Anything], Anything]


@dataclass(frozen=True, slots=True)
class Switch:
    """A mechanism: *missing*: what happens without it; *patches*: (where, name, replacement) each."""

    missing: str
    patches: Sequence[tuple[object, str, Replacement]]


@contextmanager
def patched(where: object, name: str, replacement: Replacement) -> Iterator[None]:
    """Replace an attribute for the length of a `with` block."""
    original = getattr(where, name)
    setattr(where, name, replacement(original))
    try:
        yield
    finally:
        setattr(where, name, original)


@contextmanager
def switched_off(names: Sequence[str]) -> Iterator[None]:
    """Switch mechanisms off for the length of a `with` block. Raises BadArgument: there is no such switch."""
    with ExitStack() as stack:
        for name in names:
            if name not in SWITCHES:
                raise BadArgument(f"no switch {name!r}", ", ".join(SWITCHES))
            for patch in SWITCHES[name].patches:
                stack.enter_context(patched(*patch))
        yield


def constant(answer: Anything) -> Replacement:
    """Make a replacement that is always *answer*."""
    return lambda _original: answer


def nothing(*args: object, **kwargs: object) -> None:
    """Do nothing."""
    del args, kwargs


# -- sessions


def execute_repeats(original: Callable[..., bytes | None]) -> Callable[[Session, int], None]:
    """Make a `Session.call` that refuses what is out of turn, and knows of no call that it was done before."""

    def call(self: Session, msgid: int) -> None:
        original(self, msgid)

    return call


def _let_in(original: Mapping[tuple[State, Event], tuple[Action, State]]) -> Anything:
    return dict(original) | {
        (State.LIVE, Event.HELLO_NEW): (Action.BOOT, State.LIVE),
        (State.LIVE, Event.HELLO_SAME): (Action.RESUME, State.LIVE),
    }


# -- the machine


@contextmanager
def _no_scrub() -> Iterator[None]:
    with patched(FrameTable, "scrub", constant(nothing)), patched(FrameTable, "scrub_superframes", constant(nothing)):
        yield


def _without_scrub(original: Anything) -> Anything:
    def unscrubbed(self: FrameTable, frames: Frames) -> None:
        with _no_scrub():
            original(self, frames)

    return unscrubbed


def _reboot_without_scrub(original: Anything) -> Anything:
    def go_on(self: Reboot) -> Anything:
        with _no_scrub():
            return original(self)

    return go_on


def _swap_without_scrub(original: Anything) -> Anything:
    def swap(*arguments: object) -> None:
        with patched(FrameTable, "scrub", constant(nothing)):
            original(*arguments)

    return swap


_NOT_REFERENCED: Final = constant(lambda _host, _domain, gfns: int(gfns.size))
_NO_BLOCK_REFERENCED: Final = constant(lambda _host, _domain, blocks: np.zeros(blocks.size, dtype=np.bool_))


class _TableWithoutBirths:
    """A grant table in which every grantee has the birth that is asked for: only domids count."""

    def __init__(self, table: Anything, birth: int) -> None:
        self.gfn, self.to, self.readonly = table.gfn, table.to, table.readonly
        self.birth = np.full(self.gfn.size, birth, dtype=np.int64)


def _by_number(original: Anything) -> Anything:
    def valid(owner: Anything, table: Anything, domain: Anything, refs: Frames, *, readonly: bool) -> Anything:
        return original(owner, _TableWithoutBirths(table, domain.birth), domain, refs, readonly=readonly)

    return valid


def _without_limit(original: Anything) -> Anything:
    def count(host: Anything, domain: Anything, gfns: Frames, order: int, within: int) -> Anything:
        most, domain.max_pages = domain.max_pages, 1 << 40
        try:
            return original(host, domain, gfns, order, within)
        finally:
            domain.max_pages = most

    return count


class _NobodyAtHome:
    """A frame table that reports that no page is in its home superframe."""

    def __init__(self, host: FrameTable) -> None:
        self.at_home = np.zeros(host.at_home.size, dtype=np.uint16)
        self.add_at_home = host.add_at_home


def _adopt_anything(original: Anything) -> Anything:
    return lambda host, *rest: original(_NobodyAtHome(host), *rest)


# -- recovery


class _UnloggedColumn(Column):
    """A column whose writes are not recorded in the undo log."""

    __slots__ = ()

    def note(self, rows: Frames) -> None:
        """Record nothing."""

    def note_row(self, row: int) -> None:
        """Record nothing."""


def _without_undo(*columns: tuple[Kind, str]) -> Replacement:
    def replacement(original: Anything) -> Anything:
        def column(self: Section, name: str, *, width: int | None = None) -> Column:
            made: Column = original(self, name, width=width)
            if (self.key[0], name) in columns:
                made.__class__ = _UnloggedColumn
            return made

        return column

    return replacement


# -- the guest


def _isolate_nothing(original: Anything) -> Anything:
    def isolate(self: Balloon, count: int) -> Frames:
        gfns: Frames = original(self, count)
        self.zone.change(gfns, PageState.ISOLATED, PageState.FREE)
        return gfns

    return isolate


SWITCHES: Final[Mapping[str, Switch]] = {
    "answer-window": Switch("a call that comes again is done again", [(Session, "call", execute_repeats)]),
    "one-session": Switch("a second connection gets in beside a live one", [(session, "TABLE", _let_in)]),
    "resend": Switch(
        "a resumed agent does not send again what was in flight",
        [(ClientSession, "resend", constant(lambda _self: b""))],
    ),
    "notice-numbers": Switch(
        "a notice that comes late is heeded", [(Agent, "is_overtaken", constant(lambda _agent, _number: False))]
    ),
    "scrub-on-free": Switch(
        "what was in a frame is there when it is given back",
        [(FrameTable, "give", _without_scrub), (FrameTable, "give_superframes", _without_scrub)],
    ),
    "scrub-on-reboot": Switch("a rebooted guest finds its old words", [(Reboot, "go_on", _reboot_without_scrub)]),
    "scrub-on-move": Switch(
        "populate_depopulate gives a page with its old word", [(exchange, "swap_small", _swap_without_scrub)]
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
    "births": Switch("a grant reaches the next domain of a number", [(grants, "valid_references", _by_number)]),
    "cut-off": Switch("mappings go on into a rebooted owner's memory", [(grants, "cut_off", constant(nothing))]),
    "zombies": Switch(
        "a destroyed domain's frames are freed though others map them",
        [(grants, "pages_in_use", constant(lambda _domain: np.zeros(0, dtype=np.int64)))],
    ),
    "max-pages": Switch("a guest grows beyond its limit", [(reservation, "count_populatable", _without_limit)]),
    "claims": Switch(
        "what is promised to one is given to another",
        [(claims, "free_frames_for", constant(lambda host, _domain: host.heap.free_frames))],
    ),
    "eexist": Switch(
        "a populated page is populated again",
        [(reservation, "first_taken", constant(lambda entries: int(entries.size)))],
    ),
    "home-uniqueness": Switch("two blocks claim one superframe", [(mapping, "adopt_homes", _adopt_anything)]),
    "undo-p2m": Switch(
        "half of an operation stays in the p2m after a crash",
        [(Section, "column", _without_undo((Kind.DOMAIN, "blocks"), (Kind.DOMAIN, "entry")))],
    ),
    "undo-content": Switch(
        "words that were written in a step that is undone stay",
        [(Section, "column", _without_undo((Kind.HOST, "content")))],
    ),
    "undo-session": Switch(
        "an answer is kept of a command that is undone", [(Section, "column", _without_undo((Kind.AGENT, "session")))]
    ),
    "undo-grants": Switch(
        "half of an operation stays in the tables of grants after a crash",
        [(Section, "column", _without_undo((Kind.DOMAIN, "grants"), (Kind.DOMAIN, "mappings")))],
    ),
    "undo-limits": Switch(
        "a limit of a call that is undone stays", [(Section, "column", _without_undo((Kind.DOMAIN, "limits")))]
    ),
    "commit": Switch("what is done can still be undone", [(Image, "commit", constant(nothing))]),
    "isolation": Switch(
        "a page whose command is in flight can be used", [(Balloon, "isolate_pages", _isolate_nothing)]
    ),
}
