"""A domain's two shapes: what it is made with (`DomainSpec`) and what is told of it (`DomainInfo`).

Each part is declared once, here, with its bounds and its meaning. What the wire checks and documents, what a client
gets, what the policy looks at and what the XenStore shows is made from these. What the machine and the daemon keep for
themselves is theirs (`xbd.machine.domain`, `xbd.control.domain_record`).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Final

from xbd.abi import (
    MAX_DOMAIN_PAGES,
    MAX_DOMAINS,
    MAX_NAME_CHARS,
    MAX_NODES,
    MAX_VCPUS,
    ON_CRASH,
    SHUTDOWN_REASONS,
    DomainType,
)
from xbd.errors import BadArgument, RemoteProtocolError
from xbd.shapes import (
    COUNTS,
    FLAG,
    REQUIRED,
    SECONDS,
    SETTINGS,
    SHARE,
    STATISTICS,
    Part,
    Shape,
    choice,
    integer,
    integers,
    member,
    optional,
    parts_of,
    text,
)
from xbd.target_rules import static_max_pages, used_pages
from xbd.text import quote

# The control domain's number.
DOM0: Final = 0
# What Xen's tools call it, whatever name it has here.
DOM0_OF_XEN: Final = "Domain-0"
# A domain's number as people write it; a domain that is called so is meant first.
_NUMBER: Final = re.compile(r"d?(0|[1-9][0-9]{0,8})")
# A mode's longest text, as `guest_mode` takes it.
MAX_MODE_CHARS: Final = 64
# Enough for any count that a host can have, and a whole number in every JSON reader.
_MANY: Final = 1 << 53


# Where a domain stands: its agent is connected; it is, and the domain is paused; it is, but has stopped to answer; it has none; its agent is gone, and may come
# back; its agent died, and it is kept as it is; it has stopped, as asked; it was destroyed, but others map pages of it.
RUNNING: Final = "running"
PAUSED: Final = "paused"
SILENT: Final = "silent"
WAITING: Final = "waiting"
LOST: Final = "lost"
CRASHED: Final = "crashed"
SHUTDOWN: Final = "shutdown"
ZOMBIE: Final = "zombie"
# Why a guest has stopped whose agent has died; else one of `SHUTDOWN_REASONS`.
CRASH: Final = "crash"
STATES: Final = (RUNNING, PAUSED, SILENT, WAITING, LOST, CRASHED, SHUTDOWN, ZOMBIE)


def number_of(written: str) -> int | None:
    """Read a domain's number: `7`, `d7`, or `Domain-0`, as Xen's tools call dom0; None: it is something else."""
    if written == DOM0_OF_XEN:
        return DOM0
    match = _NUMBER.fullmatch(written)
    return int(match[1]) if match else None


def _domain(name: str, untrusted: object) -> int | str:
    if type(untrusted) is int and untrusted >= 0:
        return untrusted
    if type(untrusted) is str and 0 < len(untrusted) <= MAX_NAME_CHARS and untrusted.isprintable():
        return untrusted
    raise BadArgument(f"{name} is {quote(untrusted)}", "a domain's name or number")


DOMID: Final = integer(0, MAX_DOMAINS - 1)
NAME: Final = text(MAX_NAME_CHARS)
MODE: Final = text(MAX_MODE_CHARS)
PAGES: Final = integer(1, MAX_DOMAIN_PAGES)
# A domain's or a host's UUID, as it is written.
UUID_TEXT: Final = text(36)
PAGES_OR_NONE: Final = integer(0, MAX_DOMAIN_PAGES)
# The number of a node; several; pages by node.
NODE: Final = integer(0, MAX_NODES - 1)
NODES: Final = integers(0, MAX_NODES - 1, MAX_NODES)
PAGES_BY_NODE: Final = integers(0, MAX_DOMAIN_PAGES, MAX_NODES)
# How much an affinity to nodes binds.
SOFT: Final = "soft"
HARD: Final = "hard"
AFFINITIES: Final = (SOFT, HARD)
COUNT: Final = integer(0, _MANY)
# Xen counts no more pauses of a domain by toolstacks.
MAX_PAUSES: Final = 255
VCPUS: Final = integer(1, MAX_VCPUS)
PAUSES: Final = integer(0, MAX_PAUSES)
# A domain's number or its name.
DOMAIN: Final = Shape(
    _domain,
    {"type": ["integer", "string"], "minimum": 0, "minLength": 1, "maxLength": MAX_NAME_CHARS, "format": "printable"},
    (int, str),
)
_OPTIONAL_REPORT: Final = optional(STATISTICS)


@dataclass(frozen=True, slots=True)
class DomainSpec:
    """What a domain is made with: the parameters of `create`, and a host file's guest."""

    name: Annotated[str, Part(NAME, "unique; not all digits")]
    max_pages: Annotated[
        int, Part(PAGES, "its maximum, and its limit at first, in whole superpages (multiples of 512)")
    ]
    target_pages: Annotated[
        int, Part(PAGES, "its target: what it holds at first, in whole superpages, at most max_pages")
    ]
    min_pages: Annotated[
        int, Part(PAGES_OR_NONE, "its minimum: no target is set below it, in whole superpages, at most target_pages")
    ] = 0
    type: Annotated[DomainType, Part(member(DomainType), "how its guest talks to the hypervisor")] = DomainType.PVH
    autostart: Annotated[bool, Part(FLAG, "whether the agent host starts an agent for it")] = True
    guest: Annotated[Mapping[str, object], Part(SETTINGS, "settings of its guest, kept and handed to its agent")] = (
        field(default_factory=dict)
    )
    on_crash: Annotated[
        str,
        Part(
            choice(ON_CRASH), "what becomes of it when its agent dies: another boots it, it ends, it is kept as it is"
        ),
    ] = "restart"
    vcpus: Annotated[int, Part(VCPUS, "its virtual processors, as Xen's tools show them; nothing depends on them")] = 1
    nodes: Annotated[Sequence[int], Part(NODES, "the nodes that its memory should lie on; none: any")] = field(
        default_factory=list
    )
    affinity: Annotated[
        str,
        Part(
            choice(AFFINITIES), "hard: its memory lies on these nodes alone; soft: on others, too, where they are full"
        ),
    ] = SOFT

    def as_params(self) -> dict[str, object]:
        """Write it as the parameters of a `create` call; without vcpus and nodes where there is no need: an earlier daemon knows of none."""
        params = {one.name: getattr(self, one.name) for one in fields(self)} | {
            "type": self.type.value,
            "guest": dict(self.guest),
            "nodes": list(self.nodes),
        }
        if self.vcpus == 1:
            del params["vcpus"]
        if not self.nodes and self.affinity == SOFT:
            del params["nodes"], params["affinity"]
        return params


@dataclass(frozen=True, slots=True)
class DomainInfo:
    """What is told of a domain; parts with defaults are the daemon's word, which the machine alone does not know.

    *more* has what a daemon of another version tells beside it.
    """

    domid: Annotated[int, Part(DOMID, "its number")]
    name: Annotated[str, Part(NAME, "its name")]
    type: Annotated[str, Part(choice(tuple(DomainType)), "how its guest talks to the hypervisor")]
    state: Annotated[
        str,
        Part(
            choice(STATES),
            "silent: its agent does not answer; waiting: it has none; lost: its agent may come back; zombie: destroyed, others map pages of it",
        ),
    ]
    gfn_count: Annotated[int, Part(PAGES, "its guest frame numbers: its static maximum in pages")]
    tot_pages: Annotated[int, Part(PAGES_OR_NONE, "what it holds")]
    target_pages: Annotated[int, Part(PAGES, "what it should hold")]
    min_pages: Annotated[int, Part(PAGES_OR_NONE, "no target is set below it")]
    max_pages: Annotated[int, Part(PAGES, "its limit: what it cannot exceed")]
    leaves: Annotated[int, Part(COUNT, "superpages: leaves of 2 MiB")]
    superpage_coverage: Annotated[float, Part(SHARE, "share of what it holds that lies in leaves")]
    grants: Annotated[int, Part(COUNT, "entries of its grant table in use")] = 0
    mapped_grants: Annotated[int, Part(COUNT, "pages of others that it maps")] = 0
    referenced_pages: Annotated[int, Part(COUNT, "own pages that others map")] = 0
    claimed_pages: Annotated[int, Part(PAGES_OR_NONE, "what is outstanding of its claims")] = 0
    node_claims: Annotated[Sequence[int], Part(PAGES_BY_NODE, "of these, what is outstanding on each node")] = field(
        default_factory=list
    )
    node_pages: Annotated[Sequence[int], Part(PAGES_BY_NODE, "what it holds on each node of the host")] = field(
        default_factory=list
    )
    nodes: Annotated[Sequence[int], Part(NODES, "the nodes that its memory should lie on; none: any")] = field(
        default_factory=list
    )
    affinity: Annotated[str, Part(choice(AFFINITIES), "hard: its memory lies there alone")] = SOFT
    locality: Annotated[
        float, Part(SHARE, "share of what it holds that lies on these nodes; without any, on that which has most of it")
    ] = 1.0
    uuid: Annotated[str, Part(UUID_TEXT, "its UUID: no other domain has it, under whatever number or name")] = ""
    birth: Annotated[int, Part(COUNT, "how many domains its host had made when it was made, itself included")] = 0
    hypercalls: Annotated[Mapping[str, int], Part(COUNTS, "calls by operation:stop")] = field(default_factory=dict)
    extents: Annotated[Mapping[str, int], Part(COUNTS, "extents done by operation")] = field(default_factory=dict)
    on_crash: Annotated[str, Part(choice(ON_CRASH), "what becomes of it when its agent dies")] = "destroy"
    agent: Annotated[bool, Part(FLAG, "whether an agent is connected")] = False
    autostart: Annotated[bool, Part(FLAG, "whether the agent host starts an agent for it")] = False
    pauses: Annotated[int, Part(PAUSES, "how often it was paused, and not unpaused again; 0: it may run")] = 0
    mode: Annotated[str, Part(MODE, "how its guest behaves")] = "normal"
    target_set_by: Annotated[
        str | None, Part(optional(NAME), "who set its target last; nil: not known since the daemon was started")
    ] = None
    vcpus: Annotated[int, Part(VCPUS, "its virtual processors")] = 1
    started_at_s: Annotated[
        float | None,
        Part(optional(SECONDS), "when it was created, or another guest booted, in seconds since the epoch, or nil"),
    ] = None
    shutdown_reason: Annotated[
        str | None, Part(optional(choice((*SHUTDOWN_REASONS, CRASH))), "why its guest has stopped, or nil: it has not")
    ] = None
    guest: Annotated[Mapping[str, object], Part(SETTINGS, "settings of its guest")] = field(default_factory=dict)
    report: Annotated[
        Mapping[str, Any] | None, Part(_OPTIONAL_REPORT, "what its agent last reported, not to be trusted, or nil")
    ] = None
    report_age_s: Annotated[
        float | None, Part(optional(SECONDS), "how long ago it reported this, or said that it still holds, or nil")
    ] = None
    more: Mapping[str, object] = field(default_factory=dict)

    @property
    def life(self) -> str:
        """Tell it from all other domains, also from a later one of its number and name.

        A daemon of an earlier version tells no UUID: then number and name have to do.
        """
        return self.uuid or f"{self.domid} {self.name}"

    @property
    def static_max_pages(self) -> int:
        """Its maximum, in whole superframes (xl's static-max)."""
        return static_max_pages(self.gfn_count)

    @property
    def reported(self) -> Mapping[str, Any]:
        """The last statistics that its guest reported, untrusted; empty when there were none."""
        return self.report or {}

    @property
    def used_pages(self) -> int | None:
        """What its guest reports that it uses, without its page cache, untrusted; None: it does not say."""
        return used_pages(self.reported)

    def as_map(self) -> dict[str, object]:
        """Write it for the wire, without asdict's deep copies: `list` needs a thousand of them."""
        told = {name: getattr(self, name) for name in INFO_PARTS}
        return {**told, **self.more} if self.more else told


def plays_trace(settings: Mapping[str, object]) -> bool:
    """Tell whether a guest of these settings, which were checked before, plays a trace."""
    workload = settings.get("workload")
    return isinstance(workload, Mapping) and "trace" in workload


def is_about(event: Mapping[str, object], domain: DomainInfo) -> bool:
    """Tell whether an event is about a domain, which may be called otherwise by now, and not about another one of its number.

    A daemon of an earlier version tells no UUID: then the name has to do.
    """
    if "uuid" in event and domain.uuid:
        return event["uuid"] == domain.uuid
    return (event.get("domid"), event.get("name")) == (domain.domid, domain.name)


SPEC_PARTS: Final = parts_of(DomainSpec)
INFO_PARTS: Final = parts_of(DomainInfo)
# Of each part the types that are read, and whether it must be there.
_READ: Final = {name: (part.shape.types, part.default is REQUIRED) for name, part in INFO_PARTS.items()}


def read_domain(raw: object) -> DomainInfo:
    """Read what a daemon tells of a domain.

    A client trusts its daemon, which may be of another version: what is not known here is kept in `more`, and only
    types are looked at.

    Raises:
        RemoteProtocolError: it is no map, or a part is missing or of another type.
    """
    if not isinstance(raw, dict):
        raise RemoteProtocolError(f"a domain of type {type(raw).__name__}", "a map")
    known: dict[str, Any] = {}
    for name, (types, is_required) in _READ.items():
        part = raw.get(name, REQUIRED)
        if isinstance(part, types):
            known[name] = part
        elif is_required or part is not REQUIRED:
            expected = " or ".join(kind.__name__ for kind in types)
            raise RemoteProtocolError(f"a domain whose {name} is {raw.get(name)!r:.80}", f"of type {expected}")
    more = {} if len(known) == len(raw) else {name: raw[name] for name in raw if name not in _READ}
    return DomainInfo(**known, more=more)
