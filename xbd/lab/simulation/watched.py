"""The daemon's core and the guests, as they are, with somebody looking over their shoulders.

A `WatchedHost` holds every command that it carries out against what the domain's guest has sent, and
what came of it against the limits; a `WatchedGuest` keeps its domain's book.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from xbd.abi import Command, Populate, Refused, Result
from xbd.control.controller import Controller
from xbd.control.domain_record import DomainRecord, Wake
from xbd.guest import Answered, Event, Step
from xbd.lab.simulation.oracle import Oracle, same
from xbd.lab.simulation.violation import Violation
from xbd.machine import Machine
from xbd.storage.memory import Crash

# Commands that leave it as it is which frames are whose, and who reaches them.
_LOOKING = frozenset({"Load", "Send", "Receive", "Store"})


class Playable(Protocol):
    """What an agent needs of a guest."""

    shut_down: bool

    def step(self, event: Event, now: float) -> Step:
        """Apply an event; returns commands to send."""

    def report(self) -> dict[str, int | str]:
        """Say how things are."""

    def check(self) -> list[str]:
        """Recompute every counter; says what disagrees."""


class WatchedGuest:
    """A guest whose commands and answers are written into a book.

    Attributes: *inner*: the guest itself.
    """

    def __init__(self, inner: Playable, oracle: Oracle) -> None:
        self.inner = inner
        self._book = oracle

    @property
    def shut_down(self) -> bool:
        """Whether it has ended."""
        return self.inner.shut_down

    def step(self, event: Event, now: float) -> Step:
        """Let it step, with the book kept before and after."""
        if type(event) is Answered:
            for result in event.results:
                self._book.answered(result)
        step = self.inner.step(event, now)
        if step.commands:
            self._book.issue(step.commands)
        return step

    def report(self) -> dict[str, int | str]:
        """Say how it is."""
        return self.inner.report()


class Books:
    """The books of a host's domains, by domid: of those that live, or were not seen to go.

    Attributes: *tally*: how many commands were carried out.
    """

    def __init__(self) -> None:
        self._books: dict[int, Oracle] = {}
        self.tally: Counter[str] = Counter()

    def of(self, machine: Machine, domid: int) -> Oracle:
        """Find a living domain's book, or begin one: a new domain of an old number has a new one."""
        domain = machine.living(domid)
        oracle = self._books.get(domid)
        if oracle is None or oracle.birth != domain.birth:
            oracle = self._books[domid] = Oracle(domid, domain.birth, domain.p2m.gfn_count)
        return oracle


@dataclass(frozen=True, slots=True)
class Limits:
    """What the toolstack was told that a domain's target and limit are."""

    target_pages: int
    max_pages: int


class InOrder(set[Wake]):
    """A set that is gone through in the order in which things came in: the same in every process."""

    def __init__(self) -> None:
        super().__init__()
        self._order: dict[Wake, None] = {}

    def add(self, element: Wake, /) -> None:
        """Put something in."""
        super().add(element)
        self._order[element] = None

    def discard(self, element: object, /) -> None:
        """Take something out, if it is in."""
        super().discard(element)
        self._order.pop(element, None)  # type: ignore[call-overload]  # what is not in it is not in it

    def __iter__(self) -> Iterator[Wake]:
        return iter(tuple(self._order))


class WatchedHost(Controller):
    """A daemon's core that is watched.

    Attributes: *books*; *limits*: by domid, of all that live; *limits_before*, *in_hand*: the
    limits, and whose command was done, since the last commit; *dies_at_commit*: it is to be
    killed at the end of the next step, when all of it is written; *changed*: something has changed that an audit would look
    at, since somebody reset it; *shared*: that concerns grants or mappings too.
    """

    oracles: Books
    changed = False
    shared = False
    limits: dict[int, Limits]
    limits_before: dict[int, Limits]
    in_hand: int | None = None
    dies_at_commit = False

    def execute(self, record: DomainRecord, command: Command) -> Result:
        """Do a turn of a command, if it is just the one that is due."""
        oracle = self.oracles.of(self.machine, record.domid)
        due = oracle.next_to_execute()
        if due is None or not same(due, command):
            raise Violation(
                f"d{record.domid}: the daemon carries out {describe(command)}; due is {due and describe(due)}"
            )
        result = super().execute(record, command)
        self.in_hand = record.domid
        oracle.executed += 1
        self.oracles.tally["commands"] += 1
        oracle.results.append(result)
        name = type(command).__name__
        if name not in _LOOKING and not (isinstance(result, Refused) or result.done == 0):
            self.changed = True
            self.shared |= name in _SHARED or self.machine.living(record.domid).referenced > 0
        if isinstance(command, Populate) and not isinstance(result, Refused) and result.done:
            domain = self.machine.living(record.domid)
            if domain.tot_pages > domain.max_pages:
                raise Violation(f"d{record.domid} holds {domain.tot_pages} pages, its limit is {domain.max_pages}")
        return result

    def connect(
        self, record: DomainRecord, msgid: int, session: str, last_seen: int | None, wake: Wake
    ) -> dict[str, object]:
        """Let an agent in; a new session zeroes the domain's memory."""
        self.changed = self.shared = True
        answer = super().connect(record, msgid, session, last_seen, wake)
        if not answer["resumed"]:
            self.oracles.of(self.machine, record.domid).unsure = True
        return answer

    def call(self, method: str, untrusted_params: object) -> dict[str, object]:
        """Do what a toolstack asks; what was done is what the domains' limits are from then on."""
        if method not in _QUESTIONS:
            self.changed = self.shared = True
        answer = super().call(method, untrusted_params)
        if method in _TOLD:
            assert isinstance(untrusted_params, list), "simulated toolstacks send parameters so"
            self._note(method, dict(untrusted_params[0]), answer)
        return answer

    def _note(self, method: str, asked: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        limits = dict(self.limits)
        match method:
            case "create":
                limits[answer["domid"]] = Limits(asked["target_pages"], asked["max_pages"])
            case "destroy":
                del limits[asked["domid"]]
            case "set_target":
                limits[asked["domid"]] = replace(limits[asked["domid"]], target_pages=asked["pages"])
            case _:
                limits[asked["domid"]] = replace(limits[asked["domid"]], max_pages=asked["pages"])
        self.limits = limits

    def tick(self, now: float) -> float | None:
        """Look whose agents have died; those of them that are to be destroyed are gone then."""
        doomed = {domid for domid in self.limits if self.record(domid).on_crash == "destroy"}
        deadline = super().tick(now)
        gone = doomed.difference(self.machine.living_domains())
        if gone:
            self.changed = self.shared = True
            self.limits = {domid: limits for domid, limits in self.limits.items() if domid not in gone}
        return deadline

    def commit(self) -> None:
        """Let what was done be done."""
        if self.dies_at_commit:
            raise Crash
        super().commit()
        self.in_hand = None
        self.limits_before = self.limits


_TOLD = frozenset({"create", "destroy", "set_target", "set_max"})
_SHARED = frozenset({"Grant", "EndGrant", "MapGrant", "UnmapGrant"})
_QUESTIONS = frozenset({"list", "info", "host", "frames", "audit", "set_target", "guest_mode"})


def describe(command: Command) -> str:
    """Name a command and the sizes of its lists."""
    parts = []
    for name in command.__slots__:
        value = getattr(command, name)
        size = getattr(value, "size", None)
        parts.append(f"{name}={value if size is None else f'{size}@{int(value[0]):#x}' if size else 'none'}")
    return f"{type(command).__name__}({', '.join(parts)})"
