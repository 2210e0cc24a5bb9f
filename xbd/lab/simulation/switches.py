"""Safety mechanisms that can be switched off one by one, to show that the simulation notices their absence.

A switch replaces parts: functions that say that they can be replaced (`xbd.replaceable`), for the length of a run; the
classes of a machine's tables (`xbd.machine.parts`); the undo log; limits. The product has no code for this.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

import numpy as np

from xbd.abi import MAX_DOMAIN_PAGES, Frames
from xbd.control.agent import Agent
from xbd.control.controller import Controller
from xbd.control.host_state import HostState
from xbd.errors import BadArgument
from xbd.guest.balloon.balloon import Balloon
from xbd.guest.zone import PageState
from xbd.limits import Limits
from xbd.machine import claims, placement
from xbd.machine.domain import P2m
from xbd.machine.frame_table import FrameTable
from xbd.machine.grant_tables import GrantTable, MappingTable
from xbd.machine.parts import PARTS, Parts
from xbd.policy.balance import Claimant
from xbd.policy.cases import Case
from xbd.policy.model import DomainSnapshot, Progress, Snapshot
from xbd.policy.plugin import Answer, Policy, ask
from xbd.policy.progress import observe
from xbd.protocol import session
from xbd.protocol.client_session import ClientSession
from xbd.protocol.session import Action, Event, Session, State
from xbd.replaceable import replaced
from xbd.storage.image import Column, Kind, Section
from xbd.storage.undo import Undo

Anything = Any
# Makes what stands for a function for a while from the function itself.
Replacement = Callable[[Anything], Callable[..., Anything]]
_NONE: Final[Frames] = np.zeros(0, dtype=np.int64)


Replacements = Sequence[tuple[Callable[..., Anything], Replacement]]


@dataclass(frozen=True, slots=True)
class Switch:
    """A mechanism: *missing*: what happens without it.

    *replaced*: functions, each with what makes its replacement; *machine*: methods of the classes of `Parts`; *undo*:
    the log of a step; *limits*: by the field of `Limits`.
    """

    missing: str
    replaced: Replacements = ()
    machine: Replacements = ()
    undo: type[Undo] = Undo
    limits: Mapping[str, float] = field(default_factory=dict)


def find(names: Sequence[str], switches: Mapping[str, Switch], of: str = "") -> list[Switch]:
    """Find switches by name. Raises BadArgument: there is no such switch (*of* what)."""
    for name in names:
        if name not in switches:
            raise BadArgument(f"no switch {name!r}{of}", ", ".join(switches))
    return [switches[name] for name in names]


@contextmanager
def switched_off(switches: Sequence[Switch]) -> Iterator[None]:
    """Replace the functions of some switches for the length of a `with` block."""
    with ExitStack() as stack:
        for switch in switches:
            for part, replacement in switch.replaced:
                stack.enter_context(replaced(part, replacement))
        yield


def parts_without(switches: Sequence[Switch]) -> Parts:
    """Make the parts of a machine without some mechanisms: classes with other methods."""
    classes: dict[str, Anything] = {}
    for one in fields(Parts):
        whole: type = getattr(PARTS, one.name)
        methods = {part.__name__: make(part) for switch in switches for part, make in switch.machine
                   if vars(whole).get(part.__name__) is part}  # fmt: skip
        classes[one.name] = type(whole.__name__, (whole,), methods)
    return Parts(**classes)


def limits_without(switches: Sequence[Switch]) -> Limits:
    """Make the limits of a host without some mechanisms."""
    limits: dict[str, Anything] = {}
    for switch in switches:
        limits |= switch.limits
    return Limits(**limits)


def undo_without(switches: Sequence[Switch]) -> type[Undo]:
    """Choose the undo log of a machine without some mechanisms."""
    return next((switch.undo for switch in switches if switch.undo is not Undo), Undo)


def instead(other: Callable[..., Anything]) -> Replacement:
    """Make a replacement that is always *other*."""
    return lambda _original: other


def constant(answer: Anything) -> Replacement:
    """Make a replacement that always answers the same."""
    return instead(lambda *_args, **_kwargs: answer)


NOTHING: Final = constant(None)


# -- sessions


def execute_repeats(original: Callable[..., bytes]) -> Callable[[Session, int], None]:
    """Make a `Session.answer_again` that refuses what is out of turn, and knows of no call that it was done before."""

    def answer_again(self: Session, msgid: int) -> None:
        original(self, msgid)

    return answer_again


def _let_in(original: Callable[..., tuple[Action, State]]) -> Anything:
    also = {Event.HELLO_NEW: (Action.BOOT, State.LIVE), Event.HELLO_SAME: (Action.RESUME, State.LIVE)}

    def transition(state: State, event: Event) -> tuple[Action, State]:
        return also[event] if state is State.LIVE and event in also else original(state, event)

    return transition


# -- the machine


def _without_scrub(original: Callable[..., None]) -> Callable[..., None]:
    def give(host: Anything, indexes: Frames) -> None:
        host.scrub = host.scrub_superframes = NOTHING(None)
        original(host, indexes)
        del host.scrub, host.scrub_superframes

    return give


_NOTHING_REFERENCED: Final = instead(lambda _host, indexes: np.zeros(indexes.shape, dtype=np.bool_))


# -- recovery


def _without_undo(*columns: tuple[Kind, str]) -> Replacements:
    """Let no write of some columns be recorded in the undo log."""

    def replacement(original: Anything) -> Anything:
        def column(self: Section, name: str, *, width: int | None = None) -> Column[Anything]:
            made: Column[Anything] = original(self, name, width=width)
            return Column(made.words, None, (0, 0, 0, 0)) if (self.key[0], name) in columns else made

        return column

    return [(Section.column, replacement)]


class _NeverCleared(Undo):
    noted_words = 0

    def clear(self) -> None:
        """Keep what was noted, and say that nothing is."""


# -- the policy


def _observe_by_number(original: Anything) -> Anything:
    def carry_over(before: Progress | None, domain: DomainSnapshot, *rest: Anything) -> Anything:
        return original(before, domain if before is None else replace(domain, life=before.life), *rest)

    return carry_over


def _ask_unguarded(_original: Anything) -> Anything:
    def unguarded(policy: Policy, own: object, snapshot: Snapshot, now: float) -> Answer:
        after, targets = policy.step(own, snapshot, now)
        return Answer(tuple(targets), after)

    return unguarded


def _claim_without_bounds(original: Anything) -> Anything:
    def claimant(self: Case) -> Claimant:
        claimed: Claimant = original(self)
        return replace(claimed, floor=0, ceiling=1 << 40) if self.takes_part else claimed

    return claimant


# -- the guest


def _isolate_nothing(original: Anything) -> Anything:
    def isolate(self: Balloon, count: int) -> Frames:
        gfns: Frames = original(self, count)
        self.zone.change(gfns, PageState.ISOLATED, PageState.FREE)
        return gfns

    return isolate


def _commit_each(original: Anything) -> Anything:
    def execute_together(self: Controller, record: Anything, commands: Sequence[Anything]) -> Anything:
        spent, results = 0, []
        for command in commands:
            cost, answered = original(self, record, [command])
            self.machine.commit()
            spent += cost
            results += answered
        return spent, results

    return execute_together


SWITCHES: Final[Mapping[str, Switch]] = {
    "answer-window": Switch("a call that comes again is done again", [(Session.answer_again, execute_repeats)]),
    "one-session": Switch("a second connection gets in beside a live one", [(session.transition, _let_in)]),
    "resend": Switch("a resumed agent does not send again what was in flight", [(ClientSession.resend, constant(b""))]),
    "notice-numbers": Switch("a notice that comes late is heeded", [(Agent.is_overtaken, constant(answer=False))]),
    "scrub-on-free": Switch(
        "what was in a frame is there when it is given back",
        machine=[(FrameTable.give, _without_scrub), (FrameTable.give_superframes, _without_scrub)],
    ),
    "scrub-on-reboot": Switch("a rebooted guest finds its old words", machine=[(FrameTable.scrub_rebooted, NOTHING)]),
    "scrub-on-move": Switch(
        "populate_depopulate gives a page with its old word", machine=[(FrameTable.scrub_moved, NOTHING)]
    ),
    "frame-references": Switch(
        "what others map can be given up",
        machine=[(FrameTable.are_referenced, _NOTHING_REFERENCED), (FrameTable.are_pinned, _NOTHING_REFERENCED)],
    ),
    "births": Switch(
        "a grant reaches the next domain of a number",
        machine=[(GrantTable.are_for, instead(lambda table, refs, domid, _birth: table.to[refs] == domid))],
    ),
    "cut-off": Switch(
        "mappings go on into a rebooted owner's memory", machine=[(MappingTable.cut_off, constant(_NONE))]
    ),
    "zombies": Switch(
        "a destroyed domain's frames are freed though others map them",
        machine=[(GrantTable.mapped_gfns, constant(_NONE))],
    ),
    "max-pages": Switch(
        "a guest grows beyond its limit", machine=[(FrameTable.room_pages, constant(MAX_DOMAIN_PAGES))]
    ),
    "claims": Switch(
        "what is promised to one is given to another",
        machine=[(FrameTable.free_frames_for, instead(lambda host, _domain: host.heap.free_frames))],
    ),
    "node-claims": Switch(
        "what is promised to one on a node is given to another",
        machine=[(FrameTable.claimed_by_others, constant(0))],
    ),
    "redemption": Switch("what a domain got is still promised to it", [(claims.redeem, NOTHING)]),
    "same-node": Switch("a page that moves goes to another node", [(placement.on_the_same_node, NOTHING)]),
    "eexist": Switch(
        "a populated page is populated again", machine=[(P2m.first_taken, instead(lambda _p2m, gfns: gfns.size))]
    ),
    "home-uniqueness": Switch(
        "two blocks claim one superframe", machine=[(FrameTable.is_unclaimed, constant(answer=True))]
    ),
    "undo-p2m": Switch(
        "half of an operation stays in the p2m after a crash",
        _without_undo((Kind.DOMAIN, "blocks"), (Kind.DOMAIN, "entry")),
    ),
    "undo-content": Switch(
        "words that were written in a step that is undone stay", _without_undo((Kind.HOST, "content"))
    ),
    "undo-session": Switch("an answer is kept of a command that is undone", _without_undo((Kind.AGENT, "session"))),
    "undo-grants": Switch(
        "half of an operation stays in the tables of grants after a crash",
        _without_undo((Kind.DOMAIN, "grants"), (Kind.DOMAIN, "mappings")),
    ),
    "multicall-step": Switch(
        "half of a multicall stays after a crash in its middle", [(Controller.execute_together, _commit_each)]
    ),
    "undo-limits": Switch("a limit of a call that is undone stays", _without_undo((Kind.DOMAIN, "limits"))),
    "changes": Switch("`list` tells a domain as it was", [(HostState.note_changes, NOTHING)]),
    "commit": Switch("what is done can still be undone", undo=_NeverCleared),
    "lives": Switch(
        "what the policy knows of a domain is carried over to the next one of its number",
        [(observe, _observe_by_number)],
    ),
    "policy-guard": Switch("a policy that fails ends autoballoon", [(ask, _ask_unguarded)]),
    "policy-bounds": Switch("what a policy wants is not kept within bounds", [(Case.claimant, _claim_without_bounds)]),
    "isolation": Switch("a page whose command is in flight can be used", [(Balloon.isolate_pages, _isolate_nothing)]),
}
