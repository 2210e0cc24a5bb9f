"""What can be asked of a hypervisor: each method once, as the call that it makes and what it reads from the answer.

The client of tasks (`client`) and the blocking one (`blocking`) have these methods alike; `remote` makes of each what
the client that has it needs.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Concatenate, Final, Generic, ParamSpec, Self, TypeVar, overload

from xbd.abi import POWEROFF, DomainType
from xbd.domain import SOFT, DomainInfo, DomainSpec, read_domain
from xbd.errors import RemoteProtocolError, XbdError
from xbd.protocol.toolstack_session import ANSWER_TIMEOUT_S, Outcome, Params

# `audit` recomputes everything.
AUDIT_TIMEOUT_S: Final = 3600.0

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request(Generic[T]):
    """A call to make, and how its answer is read. An answer that has not come after *timeout_s* is not waited for."""

    method: str
    params: Params = field(default_factory=dict)
    read: Callable[[dict[str, Any]], T] = lambda answer: answer  # type: ignore[assignment,return-value]  # T is a map then
    timeout_s: float = ANSWER_TIMEOUT_S

    def result(self, outcome: Outcome) -> T:
        """Read what the call came to. Raises XbdError: it was refused, lost, or answered with something else."""
        if isinstance(outcome, XbdError):
            raise outcome
        return self.read(outcome)


@dataclass(frozen=True, slots=True)
class Changes:
    """What has changed of a host's domains: these are otherwise now, those numbers no domain has any more.

    *since* is to be asked with next; *is_whole*: these are all domains that there are.
    """

    domains: Sequence[DomainInfo]
    gone: Sequence[int]
    since: str
    is_whole: bool


class KnownDomains:
    """A host's domains, as far as was told: ask for the `changes(known.since)`, and take the answer.

    *domains* are known at first, as they were when event *since* was the next one.

    Attributes: *by_domid*: each as it was told last. So is the age of its report, which is no change.
    """

    def __init__(self, domains: Sequence[DomainInfo] = (), since: int = 0) -> None:
        self.by_domid = {domain.domid: domain for domain in domains}
        self.since: int | str = since

    def take(self, changes: Changes) -> None:
        """Take what the host said has changed since."""
        self.since = changes.since
        if changes.is_whole:
            self.by_domid = {}
        for domid in changes.gone:
            self.by_domid.pop(domid, None)
        self.by_domid |= {domain.domid: domain for domain in changes.domains}

    @property
    def domains(self) -> Sequence[DomainInfo]:
        """List the domains, in the order of their domids."""
        return [self.by_domid[domid] for domid in sorted(self.by_domid)]


class Awaiting(ABC):
    """A client whose methods are awaited."""

    @abstractmethod
    async def ask(self, request: Request[T]) -> T:
        """Make a call, and return what its answer says."""


class Blocking(ABC):
    """A client whose methods return when they are answered."""

    @abstractmethod
    def ask(self, request: Request[T]) -> T:
        """Make a call, and return what its answer says."""


class remote(Generic[P, T]):  # noqa: N801 - a decorator, used as `property` is
    """A method whose body says what to ask; it is asked by the client that has it."""

    def __init__(self, make: Callable[Concatenate[Any, P], Request[T]]) -> None:
        self._make = make
        self.__doc__ = make.__doc__

    @overload
    def __get__(self, client: None, owner: object) -> Self: ...
    @overload
    def __get__(self, client: Awaiting, owner: object) -> Callable[P, Coroutine[Any, Any, T]]: ...
    @overload
    def __get__(self, client: Blocking, owner: object) -> Callable[P, T]: ...
    def __get__(self, client: Awaiting | Blocking | None, owner: object) -> object:
        """Make the method of a client."""
        if client is None:
            return self

        @wraps(self._make)
        def method(*args: P.args, **kwargs: P.kwargs) -> object:
            return client.ask(self._make(client, *args, **kwargs))

        return method


def number_in(name: str) -> Callable[[dict[str, Any]], int]:
    """Make what reads the number *name* from an answer; RemoteProtocolError: it is none."""

    def read(answer: dict[str, Any]) -> int:
        found = answer.get(name)
        if type(found) is not int:
            raise RemoteProtocolError(f"an answer with {name} {found!r:.80}", "a number")
        return found

    return read


def _listed(name: str) -> Callable[[dict[str, Any]], list[object]]:
    """Make what reads the list *name* from an answer; RemoteProtocolError: it is none."""

    def read(answer: dict[str, Any]) -> list[object]:
        found = answer.get(name)
        if not isinstance(found, list):
            raise RemoteProtocolError(f"an answer without {name}", f"{{{name}: [...]}}")
        return found

    return read


def _changes(answer: dict[str, Any]) -> Changes:
    """Read what has changed of the domains. Raises RemoteProtocolError."""
    match answer:
        case {"domains": [*domains], "gone": [*gone], "next": str(since), "is_whole": bool(is_whole)}:
            return Changes(
                [read_domain(raw) for raw in domains], [one for one in gone if type(one) is int], since, is_whole
            )
    raise RemoteProtocolError(f"an answer with {', '.join(answer)}", "domains, gone, next and is_whole")


def _nothing(_answer: Mapping[str, Any]) -> None:
    """Read nothing from an answer: that there is one says it."""


class HypervisorMethods:
    """The methods of a hypervisor; each raises HypercallError, PeerLost and RemoteProtocolError as `call` does."""

    @remote
    def list(self) -> Request[Sequence[DomainInfo]]:
        """Describe all domains, in the order of their domids."""
        read = _listed("domains")
        return Request("list", read=lambda answer: [read_domain(raw) for raw in read(answer)])

    @remote
    def changes(self, since: int | str = 0) -> Request[Changes]:
        """Describe the domains that have changed *since*: what an earlier answer said, or an event's number; 0: all."""
        return Request("list", {"since": since}, _changes)

    @remote
    def info(self, domain: str | int) -> Request[DomainInfo]:
        """Describe one domain."""
        return Request("info", {"domain": domain}, read_domain)

    @remote
    def host(self) -> Request[dict[str, Any]]:
        """Describe the host: its frames and settings, as the wire has them."""
        return Request("host")

    @remote
    def create(
        self,
        name: str,
        *,
        max_pages: int,
        target_pages: int,
        min_pages: int = 0,
        domain_type: DomainType = DomainType.PVH,
        autostart: bool = True,
        on_crash: str = "restart",
        guest: Params | None = None,
        vcpus: int = 1,
        nodes: Sequence[int] = (),
        affinity: str = SOFT,
    ) -> Request[int]:
        """Create a domain, and return its domid.

        Args:
            name: unique, and not all digits.
            max_pages: its maximum, and its limit at first; in whole superpages, as all three sizes are.
            target_pages: its target, at most *max_pages*.
            min_pages: its minimum, at most *target_pages*; 0: none.
            domain_type: how its guest talks to the hypervisor.
            autostart: whether an agent is started for it.
            on_crash: what happens when its agent dies: "restart", "destroy" or "preserve".
            vcpus: its virtual processors, as Xen's tools show them.
            nodes: those that its memory should lie on; none: any.
            affinity: "hard": its memory lies there alone; "soft": elsewhere, too, where these are full.
            guest: the settings of its guest, as host files have them: strategy, workload, driver, seed, verify.
        """
        spec = DomainSpec(
            name,
            max_pages,
            target_pages,
            min_pages,
            domain_type,
            autostart=autostart,
            guest=guest or {},
            on_crash=on_crash,
            vcpus=vcpus,
            nodes=nodes,
            affinity=affinity,
        )
        return Request("create", spec.as_params(), number_in("domid"))

    @remote
    def destroy(self, domain: str | int) -> Request[int]:
        """End a domain at once; its memory goes back to the host.

        Returns how many of its pages others still map; while there are any it stays, as a zombie.
        """
        return Request("destroy", {"domid": domain}, number_in("zombie_pages"))

    @remote
    def shutdown(self, domain: str | int, reason: str = POWEROFF) -> Request[None]:
        """Ask a domain's guest to stop; with *reason* "reboot" another one boots then."""
        # A daemon of an earlier version knows no reasons.
        more = {} if reason == POWEROFF else {"reason": reason}
        return Request("shutdown", {"domid": domain, **more}, _nothing)

    @remote
    def start(self, domain: str | int) -> Request[None]:
        """Have a domain booted whose guest has stopped or crashed, or that was created without autostart."""
        return Request("start", {"domid": domain}, _nothing)

    @remote
    def rename(self, domain: str | int, name: str) -> Request[None]:
        """Call a guest otherwise; no other domain may be called so."""
        return Request("rename", {"domid": domain, "name": name}, _nothing)

    @remote
    def pause(self, domain: str | int) -> Request[int]:
        """Let a domain's guest do nothing until it is unpaused as often; returns how often that is."""
        return Request("pause", {"domid": domain}, number_in("pauses"))

    @remote
    def unpause(self, domain: str | int) -> Request[int]:
        """Take a pause of a domain back; returns how many there still are."""
        return Request("unpause", {"domid": domain}, number_in("pauses"))

    @remote
    def set_target(self, domain: str | int, pages: int, reason: str = "") -> Request[None]:
        """Set a domain's target; its guest gets there at its own pace. *reason*: for those who follow events."""
        why = {"reason": reason} if reason else {}
        return Request("set_target", {"domid": domain, "pages": pages, **why}, _nothing)

    @remote
    def set_max(self, domain: str | int, pages: int) -> Request[None]:
        """Set a domain's limit; if that is below what it holds, it gets nothing more until it has given enough back."""
        return Request("set_max", {"domid": domain, "pages": pages}, _nothing)

    @remote
    def claim(self, domain: str | int, pages: int) -> Request[int]:
        """Promise a domain that it can come to hold *pages*, or nothing (0); returns what of it is outstanding."""
        return Request("claim", {"domid": domain, "pages": pages}, number_in("claimed_pages"))

    @remote
    def claim_set(self, domain: str | int, claims: Sequence[tuple[int, int | None]]) -> Request[int]:
        """Promise a domain (pages, node) each beside what it holds, None: of the whole host; returns what is outstanding.

        It replaces all that the domain claimed; with no claims there are none any more.
        """
        entries = [{"pages": pages, "node": node} for pages, node in claims]
        return Request("claim_set", {"domid": domain, "claims": entries}, number_in("claimed_pages"))

    @remote
    def offline(self, node: int, pages: int) -> Request[dict[int, int]]:
        """Take free superframes of a node out of use; returns how many claimed pages each domain lost by that."""

        def read(answer: dict[str, Any]) -> dict[int, int]:
            match answer:
                case {"recalled": dict(recalled)}:
                    return {int(domid): int(pages) for domid, pages in recalled.items()}
            raise RemoteProtocolError("an answer without recalled", "{recalled: {...}}")

        return Request("offline", {"node": node, "pages": pages}, read)

    @remote
    def online(self, node: int, pages: int) -> Request[None]:
        """Take superframes of a node into use again."""
        return Request("online", {"node": node, "pages": pages}, _nothing)

    @remote
    def guest_mode(self, domain: str | int, mode: str) -> Request[None]:
        """Change how a guest behaves: `normal`, `stuck`, `slow 10MiB/s`, `floor 1G`, `ceiling 4G`, `lies`."""
        return Request("guest_mode", {"domid": domain, "mode": mode}, _nothing)

    @remote
    def console(self) -> Request[tuple[str, int]]:
        """Return the last lines of the daemon's log, and how many characters lay before them."""
        first = number_in("first")
        return Request("console", read=lambda answer: (str(answer.get("text", "")), first(answer)))

    @remote
    def audit(self) -> Request[Sequence[str]]:
        """Recompute everything; returns what does not hold, nothing when all does."""
        read = _listed("violations")
        return Request("audit", read=lambda answer: [str(one) for one in read(answer)], timeout_s=AUDIT_TIMEOUT_S)

    @remote
    def call(
        self, method: str, params: Params | None = None, *, timeout_s: float = ANSWER_TIMEOUT_S
    ) -> Request[dict[str, Any]]:
        """Call any method; returns its answer, a map.

        Raises:
            HypercallError: the daemon refused; nothing was changed.
            PeerLost: the connection ended, or no answer came in *timeout_s*.
            RemoteProtocolError: the answer makes no sense.
        """
        return Request(method, params or {}, timeout_s=timeout_s)
