"""People at the toolstack's socket: they create, destroy and set all the time, and know what they were answered."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final, TypeVar

import trio

from xbd.client.client import Client, open_client
from xbd.client.discovery import NoHypervisor
from xbd.errors import Busy, HypercallError, PeerLost, ProtocolError
from xbd.lab.simulation.daemons.ledger import Ledger, Promise
from xbd.lab.simulation.daemons.trace import Trace
from xbd.lab.simulation.rng import Rng
from xbd.testing.oracle import Violation
from xbd.units import SUPER_PAGES

_T = TypeVar("_T")
_NAMES: Final = 3
# Whose domains the policy moves; operators' own are theirs alone.
MINDED: Final = "auto"
_LEAST_SUPERFRAMES: Final = 2
_MOST_SUPERFRAMES: Final = 5
_PAUSE_S: Final = 0.3
# In what share of their looks operators claim memory instead, on a host of several nodes.
_CLAIMS_SHARE: Final = 0.8
# An operator begins a new session after so many calls, on average.
_CALLS_OF_A_SESSION: Final = 30
# Of a host that is up and has been for that long, every call is answered within it, whatever else goes wrong: the
# longest waits of a client are for its place among others at hello and for a full pause of accepting.
ANSWERED_WITHIN_S: Final = 12.0
LOST = (PeerLost, NoHypervisor, ProtocolError, Busy)


def refuse_beyond_bounds(domid: int, pages: int) -> None:
    """See that what a policy sets is possible for some guest of an operator's. Raises Violation."""
    if not SUPER_PAGES <= pages <= _MOST_SUPERFRAMES * SUPER_PAGES or pages % SUPER_PAGES:
        raise Violation(f"the policy set d{domid} to {pages} pages, beyond all bounds")


class Operator:
    """One who works on domains of their own.

    Args:
        name: theirs; their domains' names begin with it.
        socket: the toolstack's.
        rng, trace: of the run.
        up_since_s: tells since when the hypervisor is up; None: it is not.
        names: how many domains they may have.
        calm: how many times as long as in a short run they pause; and of so much fewer guests is anything wanted.
        nodes: of the host: where there are several, they also claim memory on them.
        sets_targets: whether they do, or leave that to the policy.
    """

    def __init__(
        self,
        name: str,
        socket: Path,
        rng: Rng,
        trace: Trace,
        up_since_s: Callable[[], float | None],
        *,
        sets_targets: bool = True,
        names: int = _NAMES,
        calm: float = 1.0,
        nodes: int = 1,
    ) -> None:
        self.name = name
        self._nodes = nodes
        self._pause_s = _PAUSE_S * calm
        # A guest that works takes most of what a long run takes.
        self._workloads = (*["idle"] * round(2 * calm - 1), "steady")
        self.ledger = Ledger(name, keeps_sizes=sets_targets)
        self._names = names
        self._socket = socket
        self._rng = rng
        self._trace = trace
        self._up_since_s = up_since_s
        self._just_destroyed = ""

    async def work(self) -> None:
        """Work for ever, in one session after the other. Raises Violation."""
        while True:
            try:
                async with open_client(self._socket, resume=True) as client:
                    await self.look(client)
                    for _ in range(1 + self._rng.below(2 * _CALLS_OF_A_SESSION)):
                        await trio.sleep(self._rng.exponential(self._pause_s))
                        await self._act(client)
            except* HypercallError as group:
                # A session, too, takes what a host may lack.
                for error in group.exceptions:
                    assert isinstance(error, HypercallError), "a session has no nursery of its own"
                    self.ledger.refused("", "a session", error)
            except* LOST as group:
                self._trace.line(self.name, f"session over: {_first(group)}")
                self._trace.sometimes("a session was lost for good")
            await trio.sleep(self._rng.exponential(self._pause_s))

    async def look(self, client: Client) -> None:
        """Hold the host's domains against the ledger. Raises Violation, PeerLost."""
        listed = await self._timed(client.list, "list")
        self.ledger.compare(listed)

    async def clear(self, client: Client) -> None:
        """Destroy all that is theirs. Raises Violation, PeerLost."""
        for name in sorted(self.ledger.promises):
            await self._destroy(client, name)

    async def _act(self, client: Client) -> None:
        name = f"{self.name}-{self._rng.below(self._names)}"
        if self._just_destroyed and self._rng.bernoulli(0.5):
            name = self._just_destroyed
        promise = self.ledger.promises.get(name)
        if promise is None:
            if name == self._just_destroyed:
                self._trace.sometimes("a name was used again at once")
            await self._create(client, name)
            return
        choice = self._rng.below(11)
        if choice < 4:
            await self._destroy(client, name)
        elif choice < 6 and self.ledger.keeps_sizes:
            await self._set_target(client, name, promise)
        elif choice < 7:
            await self._shut_down(client, name)
        elif choice < 8:
            violations = await self._timed(client.audit, "audit")
            if violations:
                raise Violation(f"{self.name}: the audit finds {violations[0]}")
        elif choice < 9 and self.ledger.keeps_sizes:
            await self._overreach(client, name, promise)
        else:
            await self._look_or_claim(client, name, promise)

    async def _look_or_claim(self, client: Client, name: str, promise: Promise) -> None:
        if self._nodes > 1 and self.ledger.keeps_sizes and self._rng.bernoulli(_CLAIMS_SHARE):
            await self._grow_by_claim(client, name, promise)
        else:
            await self.look(client)

    async def _create(self, client: Client, name: str) -> None:
        most = (_LEAST_SUPERFRAMES + self._rng.below(_MOST_SUPERFRAMES - _LEAST_SUPERFRAMES)) * SUPER_PAGES
        target = most - self._rng.below(2) * SUPER_PAGES
        new = self.ledger.promise(-1, target, most)
        guest = {"verify": True, "workload": self._rng.choice(self._workloads)}
        try:
            domid = await self._timed(
                lambda: client.create(name, max_pages=most, target_pages=target, guest=guest), f"create {name}"
            )
        except HypercallError as error:
            self._trace.sometimes("a create was refused")
            self.ledger.refused(name, "create", error)
        except LOST:
            self._no_answer(name, new)
            raise
        else:
            self.ledger.created(name, self.ledger.promise(domid, target, most))

    async def _destroy(self, client: Client, name: str) -> None:
        try:
            await self._timed(lambda: client.destroy(name), f"destroy {name}")
        except HypercallError as error:
            self._trace.sometimes("a destroy was refused")
            self.ledger.refused(name, "destroy", error)
        except LOST:
            self._no_answer(name, None)
            raise
        else:
            self.ledger.destroyed(name)
            self._just_destroyed = name

    async def _set_target(self, client: Client, name: str, promise: Promise) -> None:
        pages = (1 + self._rng.below(promise.max_pages // SUPER_PAGES)) * SUPER_PAGES
        await self._set_target_to(client, name, promise, pages)

    async def _set_target_to(self, client: Client, name: str, promise: Promise, pages: int) -> None:
        new = Promise(promise.domid, pages, promise.max_pages)
        try:
            await self._timed(lambda: client.set_target(name, pages), f"set_target {name} {pages}")
        except HypercallError as error:
            self.ledger.refused(name, "set_target", error)
        except LOST:
            self._no_answer(name, new)
            raise
        else:
            self.ledger.changed(name, new)

    async def _grow_by_claim(self, client: Client, name: str, promise: Promise) -> None:
        """Claim what a domain lacks, on nodes and of the host, let it grow, and take back what it has not got.

        Raises Violation: the audit finds anything.
        """
        lacking = promise.max_pages - promise.target_pages
        sizes = [(lacking // 2, self._rng.below(self._nodes)), (lacking - lacking // 2, None)]
        claims = [(pages, node) for pages, node in sizes if pages]
        try:
            await self._timed(lambda: client.claim_set(name, claims), f"claim_set {name} {claims}")
            self._trace.sometimes("a claim set was made")
            await self._set_target_to(client, name, promise, promise.max_pages)
            await trio.sleep(self._pause_s)
            violations = await self._timed(client.audit, "audit")
            if violations:
                raise Violation(f"{self.name}: the audit finds {violations[0]}")
            await self._timed(lambda: client.claim_set(name, []), f"claim_set {name} []")
        except HypercallError as error:
            # What it holds, or what is free, has changed meanwhile.
            if error.errno not in ("EINVAL", "ENOMEM"):
                self.ledger.refused(name, "claim_set", error)

    async def _overreach(self, client: Client, name: str, promise: Promise) -> None:
        """Ask for more than a domain's limit. Raises Violation: that is not refused."""
        pages = promise.max_pages + SUPER_PAGES
        try:
            await self._timed(lambda: client.set_target(name, pages), f"set_target {name} {pages}")
        except HypercallError as error:
            if error.errno != "EINVAL":
                self.ledger.refused(name, "set_target", error)
            self._trace.sometimes("a target beyond the limit was refused")
        else:
            raise Violation(f"{self.name}: {name} was given a target of {pages}, beyond its limit {promise.max_pages}")

    async def _shut_down(self, client: Client, name: str) -> None:
        try:
            await self._timed(lambda: client.shutdown(name), f"shutdown {name}")
        except HypercallError as error:
            self.ledger.refused(name, "shutdown", error)

    def _no_answer(self, name: str, may_be: Promise | None) -> None:
        self._trace.sometimes("a call had no answer")
        self.ledger.unsure(name, may_be)

    async def _timed(self, call: Callable[[], Awaitable[_T]], what: str) -> _T:
        """Make a call. Raises Violation: it was not answered in time, though the host was up all that time."""
        began_s = trio.current_time()
        try:
            answer = await call()
        except (HypercallError, PeerLost, ProtocolError) as error:
            self._trace.line(self.name, f"{what}: {error}")
            raise
        else:
            self._trace.line(self.name, f"{what}: {len(answer) if isinstance(answer, tuple | list) else answer}")
            return answer
        finally:
            up_since_s = self._up_since_s()
            waited_s = trio.current_time() - began_s
            if up_since_s is not None and up_since_s <= began_s and waited_s > ANSWERED_WITHIN_S:
                raise Violation(f"{self.name}: {what} took {waited_s:.1f} s, of a hypervisor that was up all the time")


class Follower:
    """One who follows the events: no number comes twice, and none is lower than one before."""

    def __init__(self, socket: Path, trace: Trace) -> None:
        self._socket = socket
        self._trace = trace
        self._last = 0

    async def follow(self) -> None:
        """Follow for ever, through the hypervisor's restarts. Raises Violation."""
        while True:
            try:
                async with (
                    open_client(self._socket, resume=True) as client,
                    aclosing(client.events(self._last + 1)) as events,
                ):
                    async for event in events:
                        self._take(event["number"])
                        self._note(event)
            except* (*LOST, HypercallError) as group:
                self._trace.line("follower", f"lost: {_first(group)}")
            await trio.sleep(_PAUSE_S)

    def _take(self, number: int) -> None:
        if number <= self._last:
            raise Violation(f"event {number} came after event {self._last}")
        self._last = number

    def _note(self, event: Mapping[str, Any]) -> None:
        match event:
            case {"event": "agent_connected", "resumed": bool(resumed)}:
                self._trace.sometimes("an agent resumed its session" if resumed else "a guest booted")
            case {"event": "shutdown"}:
                self._trace.sometimes("a guest stopped as it was asked")
            case {"event": "settled"}:
                self._trace.sometimes("a guest reached its target")
            case {"event": "target", "name": str(name)} if name.startswith(f"{MINDED}-"):
                self._trace.sometimes("the policy moved a target")


def _first(group: BaseExceptionGroup[Exception]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
