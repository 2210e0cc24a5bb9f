"""What the tools of Xen are told of a host: the calls of its client that this takes, and where its words differ."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol
from uuid import UUID

from xbd.abi import POWEROFF
from xbd.domain import CRASHED, DOM0, SHUTDOWN, ZOMBIE, DomainInfo
from xbd.errors import NoSuchDomain
from xbd.hypercalls.layout import Release

# For so long what was told of a domain answers questions about its vcpus, and a list which number comes after a gap:
# tools ask for one domain after the other.
KEPT_S: Final = 0.05
# A list that took long is kept for longer, or it would be asked for most of the time; never for longer than this.
_KEPT_TIMES: Final = 5
_KEPT_MOST_S: Final = 1.0
# Who asks about more domains than these, one after the other, asks about all: then one list is quicker.
_ASKED_ALONE: Final = 4
# Xen tells a domain's shared page by its frame; nobody can map one here.
_NO_FRAME: Final = (1 << 64) - 1
_ADDRESS_BITS: Final = 39
# A node's distance from itself, as firmware has it.
_LOCAL: Final = 10
# A guest may report any number.
_MAX_CPU_TIME_NS: Final = (1 << 63) - 1


class Calls(Protocol):
    """The calls of a host's client (`xbd.client.blocking`) that are made for tools; each raises HypercallError."""

    def list(self) -> Sequence[DomainInfo]:
        """Describe all domains."""

    def info(self, domain: str | int) -> DomainInfo:
        """Describe one domain."""

    def host(self) -> dict[str, Any]:
        """Describe the host."""

    def set_max(self, domain: str | int, pages: int) -> None:
        """Set a domain's limit."""

    def claim(self, domain: str | int, pages: int) -> int:
        """Promise a domain memory."""

    def pause(self, domain: str | int) -> int:
        """Let a domain's guest do nothing."""

    def unpause(self, domain: str | int) -> int:
        """Take a pause back."""

    def destroy(self, domain: str | int) -> int:
        """End a domain."""

    def console(self) -> tuple[str, int]:
        """Return the last lines of the daemon's log, and how many characters lay before them."""


class OnSeen(Protocol):
    """Hears of domains before a tool does."""

    def __call__(self, domains: Sequence[DomainInfo], *, are_all: bool) -> None:
        """Take what a tool is about to be told of."""


@dataclass(frozen=True, slots=True)
class Processors:
    """The processors of the machine that the host runs on: how many, and their clock in kHz (0: not known)."""

    count: int
    khz: int


class HostView:
    """A host as its tools see it.

    Attributes: *calls* are its client's.

    Args:
        clock: tells the time in seconds, from any beginning.
        on_seen: is called with the domains that a tool is about to be told of, and whether they are all that there are.
    """

    def __init__(
        self, calls: Calls, processors: Processors, clock: Callable[[], float], on_seen: OnSeen | None = None
    ) -> None:
        self.calls = calls
        self.processors = processors
        self._on_seen = on_seen
        self._clock = clock
        self._listed: Sequence[DomainInfo] = ()
        self._listed_at_s = float("-inf")
        # By number, what was told of it last, and when.
        self._asked: dict[int, tuple[float, DomainInfo]] = {}
        self._asked_alone = 0
        self._kept_s = KEPT_S

    def all(self) -> Sequence[DomainInfo]:
        """List all domains, by number."""
        asked_at_s = self._clock()
        self._listed = self.calls.list()
        self._listed_at_s = self._clock()
        self._kept_s = min(max(KEPT_S, (self._listed_at_s - asked_at_s) * _KEPT_TIMES), _KEPT_MOST_S)
        self._asked_alone = 0
        self._asked = {one.domid: (self._listed_at_s, one) for one in self._listed}
        if self._on_seen is not None:
            self._on_seen(self._listed, are_all=True)
        return self._listed

    def domain(self, domid: int) -> DomainInfo:
        """Describe a domain as it is now. Raises NoSuchDomain."""
        self._asked.pop(domid, None)
        found = self.calls.info(domid)
        self._asked[domid] = (self._clock(), found)
        if self._on_seen is not None:
            self._on_seen([found], are_all=False)
        return found

    def recent(self, domid: int) -> DomainInfo:
        """Describe a domain as it was a moment ago, for what hardly changes. Raises NoSuchDomain."""
        if self._is_old(domid) and self._asked_alone >= _ASKED_ALONE:
            self.all()
        if not self._is_old(domid):
            return self._asked[domid][1]
        self._asked_alone += 1
        return self.domain(domid)

    def _is_old(self, domid: int) -> bool:
        return domid not in self._asked or self._clock() - self._asked[domid][0] > self._kept_s

    def destroy(self, domid: int) -> None:
        """End a domain. Raises NoSuchDomain."""
        self._asked.pop(domid, None)
        self.calls.destroy(domid)

    def first_from(self, domid: int) -> Sequence[DomainInfo]:
        """Describe the first domain whose number is at least *domid*, if there is one."""
        try:
            return [self.domain(domid)]
        except NoSuchDomain:
            is_old = self._clock() - self._listed_at_s > KEPT_S
            return [one for one in (self.all() if is_old else self._listed) if one.domid > domid][:1]


def nodes_of(host: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """List the nodes of a host; a daemon of an earlier version tells none: then all its memory is one node's."""
    one = {"frames": host["frames"], "free_frames": host["free_frames"], "distances": [_LOCAL]}
    return host.get("nodes") or [one]


def handle_of(domain: DomainInfo) -> bytes:
    """Tell a domain's handle, its UUID; a daemon of an earlier version tells none, then it is of zeros."""
    return UUID(domain.uuid).bytes if domain.uuid else bytes(16)


def cpu_time_ns(domain: DomainInfo) -> int:
    """Tell the processor time that a domain's guest reports; one that reports none has used none."""
    told_ms = domain.reported.get("cpu_ms")
    return min(max(told_ms, 0) * 1_000_000, _MAX_CPU_TIME_NS) if type(told_ms) is int else 0


def flags_of(domain: DomainInfo, release: Release) -> int:
    """Tell a domain's state as Xen's flags: what has no state of its own waits for an event."""
    constant = release.constants
    flags = 0 if domain.type == "pv" else constant["XEN_DOMINF_hvm_guest"] | constant["XEN_DOMINF_hap"]
    match domain.state:
        case _ if domain.state == ZOMBIE:
            return flags | constant["XEN_DOMINF_dying"]
        case _ if domain.state in (SHUTDOWN, CRASHED):
            reason = constant[f"SHUTDOWN_{domain.shutdown_reason or POWEROFF}"]
            return flags | constant["XEN_DOMINF_shutdown"] | reason << constant["XEN_DOMINF_shutdownshift"]
    if domain.pauses:
        return flags | constant["XEN_DOMINF_paused"]
    if domain.domid == DOM0:
        # It is the one that asks.
        return flags | constant["XEN_DOMINF_running"]
    return flags | constant["XEN_DOMINF_blocked"]


def pack_domain(domain: DomainInfo, release: Release) -> bytes:
    """Describe a domain as Xen does."""
    return release.layouts["getdomaininfo"].pack(
        domain=domain.domid,
        flags=flags_of(domain, release),
        tot_pages=domain.tot_pages,
        max_pages=domain.max_pages,
        outstanding_pages=domain.claimed_pages,
        shared_info_frame=_NO_FRAME,
        cpu_time=cpu_time_ns(domain),
        nr_online_vcpus=domain.vcpus,
        max_vcpu_id=domain.vcpus - 1,
        handle=handle_of(domain),
        gpaddr_bits=_ADDRESS_BITS,
    )
