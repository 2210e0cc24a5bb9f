"""The daemon's core and the guests, wrapped so that every command and answer is checked.

A `WatchedController` checks each command that it executes against what the domain's guest has sent, and the pages that
the domain then holds against its limit. A `WatchedGuest` passes its commands and answers to the domain's oracle, a
`WatchedOracle`, which knows what the daemon has done, too.
"""

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from types import TracebackType
from typing import Any, Protocol

from xbd.abi import MAX_DOMAINS, BootInfo, Command, Exchange, Populate, PopulateDepopulate, Refused, Result
from xbd.control import step as control_step
from xbd.control.controller import ANY_CLIENT, Controller
from xbd.control.domain_record import DomainRecord, Wake
from xbd.domain import DomainSpec
from xbd.guest import Answered, Event, Standing, Step
from xbd.machine import Machine
from xbd.machine.reboot import Reboot
from xbd.storage.memory import Crash
from xbd.testing.oracle import Oracle, Violation, same

# Commands that change neither the owner of a frame nor who can reach it.
_NO_OWNERSHIP_CHANGE = frozenset({"Load", "Send", "Receive", "Store"})


class Playable(Protocol):
    """The interface of a guest that an agent uses."""

    shut_down: bool

    def step(self, event: Event, now: float) -> Step:
        """Apply an event; returns commands to send."""

    def report(self) -> dict[str, int | str]:
        """Report the guest's figures, as `Guest.report` does."""

    def standing(self) -> Standing:
        """Say what others act on, as `Guest.standing` does."""

    def check(self) -> list[str]:
        """Recompute every counter; returns the discrepancies."""


class WatchedGuest:
    """A guest whose commands and answers are passed to an oracle.

    Attributes: *inner*: the guest itself.
    """

    def __init__(self, inner: Playable, oracle: Oracle) -> None:
        self.inner = inner
        self._oracle = oracle

    @property
    def shut_down(self) -> bool:
        """Whether the guest has shut down."""
        return self.inner.shut_down

    def step(self, event: Event, now: float) -> Step:
        """Step the guest; answers reach the oracle before it, its commands after it."""
        if type(event) is Answered:
            for result in event.results:
                self._oracle.answered(result)
        step = self.inner.step(event, now)
        if step.commands:
            self._oracle.issue(step.commands)
        return step

    def report(self) -> dict[str, int | str]:
        """Report the guest's figures, as `Guest.report` does."""
        return self.inner.report()

    def standing(self) -> Standing:
        """Say what others act on, as `Guest.standing` does."""
        return self.inner.standing()


class WatchedOracle(Oracle):
    """An oracle that is also told what the daemon executes.

    Attributes: *birth*: of the domain. *reboot_pending*: a hello is in transit that may reboot it. *executed*: how many
    of this session's calls the daemon has done; *results*: of those whose answers the guest has not got.
    """

    def __init__(self, domid: int, birth: int, gfn_count: int) -> None:
        super().__init__(domid, gfn_count)
        self.birth = birth
        self.reboot_pending = False
        self.executed = 0
        self.results: deque[Result] = deque()

    def boot(self, boot: BootInfo) -> None:
        """Reset to what a booting guest was told. Raises Violation: a page that is not in doubt has changed."""
        super().boot(boot)
        self.results.clear()
        self.executed = 0
        self.reboot_pending = False

    def next_to_execute(self) -> Command | None:
        """Return the command that the daemon must execute next; None: it has executed all that were sent."""
        return next(islice(self._issued, len(self.results), None), None)

    def answered(self, result: Result) -> None:
        """Check an answer and apply it. Raises Violation: it is not that of the execution, or does not fit."""
        if not self.results:
            name = type(self._issued[0]).__name__
            raise Violation(f"d{self.domid} got an answer to a {name} that was never executed")
        executed = self.results.popleft()
        if not same(executed, result):
            raise Violation(f"d{self.domid} was answered {result} where the result was {executed}")
        super().answered(result)

    def maybe_done(self) -> list[Command]:
        """List the commands that were executed and not yet answered."""
        return list(islice(self._issued, len(self.results)))


class Oracles:
    """The oracles of a host's domains, by domid: living domains, and dead ones whose domid has no new domain.

    Attributes: *tally*: how many commands were executed.
    """

    def __init__(self) -> None:
        self._oracles: dict[int, WatchedOracle] = {}
        self.tally: Counter[str] = Counter()

    def of(self, machine: Machine, domid: int) -> WatchedOracle:
        """Find a living domain's oracle; makes one for a new domain, also if it reuses a domid."""
        domain = machine.living(domid)
        oracle = self._oracles.get(domid)
        if oracle is None or oracle.birth != domain.birth:
            oracle = self._oracles[domid] = WatchedOracle(domid, domain.birth, domain.p2m.gfn_count)
        return oracle


@dataclass(frozen=True, slots=True)
class Bounds:
    """A domain's target and limit, as the toolstack last set them."""

    target_pages: int
    max_pages: int


class OrderedSet(set[Wake]):
    """A set that iterates in the order of insertion, which is the same in every process."""

    def __init__(self) -> None:
        super().__init__()
        self._order: dict[Wake, None] = {}

    def add(self, element: Wake, /) -> None:
        """Add an element."""
        super().add(element)
        self._order[element] = None

    def discard(self, element: object, /) -> None:
        """Remove an element, if it is in the set."""
        super().discard(element)
        self._order.pop(element, None)  # type: ignore[call-overload]  # any object may be asked for

    def __iter__(self) -> Iterator[Wake]:
        return iter(tuple(self._order))


class WatchedStep(control_step.Step):
    """A step of a `WatchedController`. Raises Crash instead of the commit if the daemon is to be killed here."""

    __slots__ = ("_watched",)

    def __init__(self, host: "WatchedController") -> None:
        super().__init__(host)
        self._watched = host

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Commit, and note what held then, or undo."""
        if error is None and self._watched.dies_at_commit:
            raise Crash
        super().__exit__(kind, error, traceback)
        if error is None:
            self._watched.uncommitted = None
            self._watched.limits_before = self._watched.limits


class WatchedController(Controller):
    """A controller that checks each command that it executes.

    Attributes: *oracles*: of its domains; *limits*: by domid, of all living domains; *limits_before*: the same, at the
    last commit; *uncommitted*: the domain whose call was executed since the last commit, if any, and how many results it had then;
    *dies_at_commit*: it is to be killed at the next commit, when everything has been written; *changed*: something that
    an audit checks has changed since this was reset; *shared*: so have grants or mappings.
    """

    oracles: Oracles
    changed = False
    shared = False
    limits: dict[int, Bounds]
    limits_before: dict[int, Bounds]
    uncommitted: tuple[int, int] | None = None
    dies_at_commit = False

    def _create(self, spec: DomainSpec, domid: int | None = None) -> dict[str, object]:
        """Create a domain, under the lowest number that is free: a daemon would come to it again only after all others."""
        free = (number for number in range(1, MAX_DOMAINS) if number not in self.machine.domain_table.domains)
        return super()._create(spec, next(free) if domid is None else domid)

    def execute_alone(self, record: DomainRecord, command: Command) -> tuple[int, Result]:
        """Execute the command of a call."""
        self._begin(record)
        return super().execute_alone(record, command)

    def execute_together(
        self, record: DomainRecord, commands: Sequence[Command | Refused]
    ) -> tuple[int, Sequence[Result]]:
        """Execute the commands of a multicall."""
        self._begin(record)
        self.oracles.tally["multicalls"] += 1
        return super().execute_together(record, commands)

    def _begin(self, record: DomainRecord) -> None:
        """Note that a call begins, which is not committed yet."""
        oracle = self.oracles.of(self.machine, record.domid)
        self.uncommitted = record.domid, len(oracle.results)
        oracle.executed += 1

    def put_off(self, record: DomainRecord, command: Command) -> Result:
        """Answer a command that has no place in its turn. Raises Violation: another one is due."""
        oracle = self._expect(record, command)
        oracle.results.append(super().put_off(record, command))
        return oracle.results[-1]

    def _expect(self, record: DomainRecord, command: Command) -> WatchedOracle:
        """Return the domain's oracle. Raises Violation: another command is due."""
        oracle = self.oracles.of(self.machine, record.domid)
        due = oracle.next_to_execute()
        if due is None or not same(due, command):
            raise Violation(f"d{record.domid}: the daemon executes {describe(command)}; due is {due and describe(due)}")
        return oracle

    def execute(self, record: DomainRecord, command: Command) -> Result:
        """Execute a command. Raises Violation: another one is due, or the domain exceeds its limit."""
        oracle = self._expect(record, command)
        before = self.machine.living(record.domid).node_pages
        result = super().execute(record, command)
        self._check_nodes(record.domid, command, before)
        self.oracles.tally["commands"] += 1
        oracle.results.append(result)
        name = type(command).__name__
        if name not in _NO_OWNERSHIP_CHANGE and not (isinstance(result, Refused) or result.done == 0):
            self.changed = True
            self.shared |= name in _SHARED or self.machine.living(record.domid).referenced > 0
        if isinstance(command, Populate) and not isinstance(result, Refused) and result.done:
            domain = self.machine.living(record.domid)
            if domain.tot_pages > domain.max_pages:
                raise Violation(f"d{record.domid} holds {domain.tot_pages} pages, its limit is {domain.max_pages}")
        return result

    def _check_nodes(self, domid: int, command: Command, before: list[int]) -> None:
        """See that what a command got came from where it had to. Raises Violation."""
        now = self.machine.living(domid).node_pages
        moves = isinstance(command, Exchange | PopulateDepopulate) and getattr(command, "node", None) is None
        if moves and before != now and not _of_blocks(command):
            raise Violation(f"d{domid}: {describe(command)} moved pages between nodes, from {before} to {now}")
        if isinstance(command, Populate | Exchange) and command.exact:
            got = [node for node, (were, are) in enumerate(zip(before, now, strict=True)) if are > were]
            if got not in ([], [command.node]):
                raise Violation(f"d{domid}: {describe(command)} got pages of nodes {got}, not of {command.node} alone")

    def open_session(self, record: DomainRecord, msgid: int, session: str, last_seen: int | None) -> Reboot | None:
        """Open an agent's session; a new one zeroes the domain's memory."""
        self.changed = self.shared = True
        reboot = super().open_session(record, msgid, session, last_seen)
        if reboot is not None:
            self.oracles.of(self.machine, record.domid).reboot_pending = True
        return reboot

    def call(self, method: str, untrusted_params: object, client: str = ANY_CLIENT) -> dict[str, object]:
        """Do a toolstack's call, and record the limits that it sets."""
        if method not in _NOT_AUDITED:
            self.changed = self.shared = True
        answer = super().call(method, untrusted_params, client)
        if method in _SET_LIMITS:
            assert isinstance(untrusted_params, list), "simulated toolstacks send their parameters as a list of one map"
            self._record_limits(method, dict(untrusted_params[0]), answer)
        return answer

    def _record_limits(self, method: str, asked: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        limits = dict(self.limits)
        match method:
            case "create":
                limits[answer["domid"]] = Bounds(asked["target_pages"], asked["max_pages"])
            case "destroy":
                del limits[asked["domid"]]
            case "set_target":
                limits[asked["domid"]] = replace(limits[asked["domid"]], target_pages=asked["pages"])
            case _:
                limits[asked["domid"]] = replace(limits[asked["domid"]], max_pages=asked["pages"])
        self.limits = limits

    def tick(self, now: float) -> float | None:
        """Detect dead agents; domains that are destroyed on a crash lose their recorded limits."""
        doomed = {domid for domid in self.limits if self.record(domid).on_crash == "destroy"}
        deadline = super().tick(now)
        gone = doomed.difference(self.machine.living_domains())
        if gone:
            self.changed = self.shared = True
            self.limits = {domid: limits for domid, limits in self.limits.items() if domid not in gone}
        return deadline

    def step(self) -> control_step.Step:
        """Make a step at whose end the daemon may be killed."""
        return WatchedStep(self)


_SET_LIMITS = frozenset({"create", "destroy", "set_target", "set_max"})
_SHARED = frozenset({"Grant", "EndGrant", "MapGrant", "UnmapGrant"})
_NOT_AUDITED = frozenset({"list", "info", "host", "frames", "audit", "set_target", "guest_mode"})


def _of_blocks(command: Command) -> bool:
    """Tell whether a command moves blocks, which lie on one node afterwards, wherever their pages were."""
    return any(getattr(command, name, 0) for name in ("order", "gives_order", "gets_order"))


def describe(command: Command) -> str:
    """Format a command's name and fields; arrays as size and first element."""
    parts = []
    for name in command.__slots__:
        value = getattr(command, name)
        size = getattr(value, "size", None)
        parts.append(f"{name}={value if size is None else f'{size}@{int(value[0]):#x}' if size else 'none'}")
    return f"{type(command).__name__}({', '.join(parts)})"
