"""The host file that `xbd up` and `xbd hypervisor` read.

A *host file* is TOML: one `[host]`, perhaps a `[dom0]`, and any number of `[[guest]]`; `configs/small.toml` describes
every key. Whatever in it cannot be used is a `ConfigError` that names file, key and reason. Sizes
are written as everywhere (`512`, `"512m"`, `"2g"`; a bare number is MiB), in multiples of 2 MiB.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Final

from xbd.abi import MAX_DOMAIN_PAGES, MAX_DOMAINS, MAX_NODES, MAX_VCPUS, ON_CRASH, DomainType
from xbd.config.guest import MAX_SEED, OwnChoices, PlaysTrace
from xbd.config.strategies import DEFAULT_STRATEGY, STRATEGIES
from xbd.config.toml import load_toml, read_file
from xbd.domain import AFFINITIES, HARD, SOFT, DomainSpec
from xbd.errors import BadArgument, BadSetting, ConfigError
from xbd.machine.nodes import FARTHEST, LOCAL, REMOTE, Nodes
from xbd.machine.settings import HostSettings
from xbd.settings import ListOf, Section, choice, flag, settings_of, size, text, whole
from xbd.text import DOMAIN_NAME, is_domain_name, quote
from xbd.units import GIB_PAGES, MIB_PAGES, SUPER_PAGES, counted, format_pages

# A 4 TiB host has 2 Mi superframes; 64 TiB is what the tables of one process can hold with room.
MAX_HOST_PAGES: Final = 64 * 1024 * GIB_PAGES
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
DOM0_NAME: Final = "dom0"
# xl's own: below 128 MiB a dom0 is of little use.
DOM0_MIN_PAGES: Final = 128 * MIB_PAGES
# What a domain's `maximum` was called before; read for one more release.
_OLD_MAXIMUM: Final = "memory"
_NEEDS_GRANTS: Final = 'block I/O needs grants, which type "virtio" has not; "pvh" or "pv"'


# What a domain's settings have as it is written in its table.
_AS_WRITTEN: Final = ("workload", "driver", "seed", "wear", "huge_pages")


@dataclass(frozen=True, slots=True)
class _OfHost:
    """What the domains of a file need of it: the host's strategy, and the directory that their files are relative to."""

    strategy: str
    directory: Path


@dataclass(frozen=True, slots=True)
class HostConfig:
    """A host: *memory_pages* of it, its settings, its domains; the others are None where they are not given."""

    memory_pages: int
    name: str = "host"
    settings: HostSettings = field(default_factory=HostSettings)
    runtime_dir: Path | None = None
    state_dir: Path | None = None
    group: str | None = None
    log_level: str | None = None
    nodes: Nodes | None = None
    dom0: DomainSpec | None = None
    guests: tuple[DomainSpec, ...] = ()
    # What its author should know though it is used as it is, such as that a key has another name now.
    remarks: tuple[str, ...] = field(default=(), compare=False)

    @property
    def superframes(self) -> int:
        """The host's memory in superframes."""
        return self.memory_pages // SUPER_PAGES


@dataclass(frozen=True, kw_only=True)
class HostTable:
    """The section [host]."""

    memory_pages: Annotated[int, size("how much memory the machine has", MAX_HOST_PAGES, key="memory")]
    name: Annotated[str, text("its name, as `xbd info` shows it")] = "host"
    runtime_dir: Annotated[
        str | None, text("where the sockets lie, relative to the file; left out: as $XDG_RUNTIME_DIR says")
    ] = None
    state_dir: Annotated[
        str | None, text("where the host's state is saved, relative to the file; left out: nowhere")
    ] = None
    group: Annotated[str | None, text("whose members may use the toolstack's socket, beside this user and root")] = None
    log_level: Annotated[str | None, choice("what is logged from; left out: info", LOG_LEVELS)] = None
    strategy: Annotated[str, choice("how host and drivers go about memory; what is set beside it wins", STRATEGIES)] = (
        DEFAULT_STRATEGY
    )
    home_fill: Annotated[str | None, settings_of(HostSettings)["home_fill"]] = None
    keep_holes: Annotated[bool | None, settings_of(HostSettings)["keep_holes"]] = None
    high_first: Annotated[bool | None, settings_of(HostSettings)["high_first"]] = None
    p2m: Annotated[Mapping[str, Any], Section(of=HostSettings, only=("coalesce",))] = field(default_factory=dict)
    features: Annotated[
        Mapping[str, Any], Section(of=HostSettings, only=("populate_depopulate", "exchange_translated"))
    ] = field(default_factory=dict)

    def settings(self) -> HostSettings:
        """Make the host's settings: those of its strategy, and what the file overrides."""
        heap = {"home_fill": self.home_fill, "keep_holes": self.keep_holes, "high_first": self.high_first}
        own = {**heap, **self.p2m, **self.features}
        given = {key: setting for key, setting in own.items() if setting is not None}
        return replace(STRATEGIES[self.strategy].host, **given)


@dataclass(frozen=True, kw_only=True)
class NodeTable:
    """A section [[node]]: a part of the host's memory."""

    memory_pages: Annotated[int, size("how much of the host's memory is the node's", MAX_HOST_PAGES, key="memory")]
    distances: Annotated[
        tuple[int, ...] | None,
        ListOf(
            item=whole("", LOCAL, FARTHEST),
            doc="how far it is to each node, in the order of the file: 10 to itself, and as far there as back; left out: 20",
        ),
    ] = None


def _nodes(host: HostTable, tables: tuple[NodeTable, ...]) -> Nodes | None:
    """Make the nodes of a file; None: it has none, and the host is one. Raises BadSetting."""
    if not tables:
        return None
    together = sum(table.memory_pages for table in tables)
    if together != host.memory_pages:
        raise BadSetting(
            "node.memory", f"{format_pages(together)} together, host.memory is {format_pages(host.memory_pages)}"
        )
    rows = tuple(
        table.distances or tuple(LOCAL if one == nth else REMOTE for one in range(len(tables)))
        for nth, table in enumerate(tables)
    )
    try:
        return Nodes(tuple(table.memory_pages // SUPER_PAGES for table in tables), rows)
    except BadArgument as error:
        raise BadSetting("node", f"{error.message}; expected {error.expected}") from error


@dataclass(frozen=True, kw_only=True)
class DomainTable(OwnChoices):
    """What [dom0] and [[guest]] have in common. Raises BadSetting: sizes contradict each other, or type and workload do."""

    max_pages: Annotated[
        int,
        size("what it can never hold more than", MAX_DOMAIN_PAGES, key="maximum", old_key=_OLD_MAXIMUM),
    ]
    target_pages: Annotated[
        int | None, size("what it holds at first; left out: the maximum", MAX_DOMAIN_PAGES, key="target")
    ] = None
    min_pages: Annotated[
        int | None,
        size("no target is below it; left out: 128 MiB for dom0, else none", MAX_DOMAIN_PAGES, key="minimum"),
    ] = None
    autostart: Annotated[bool, flag("whether an agent is started for it")] = True
    domain_type: Annotated[
        DomainType | None,
        choice(
            "how it talks to the hypervisor; left out: pvh, or its strategy's",
            tuple(DomainType),
            DomainType,
            key="type",
        ),
    ] = None
    on_crash: Annotated[str, choice("what becomes of it when its agent dies", ON_CRASH)] = "restart"
    vcpus: Annotated[int, whole("its virtual processors, as Xen's tools show them", 1, MAX_VCPUS)] = 1
    nodes: Annotated[
        tuple[int, ...],
        ListOf(
            item=whole("", 0, MAX_NODES - 1),
            or_one=True,
            distinct=True,
            doc="the nodes that its memory should lie on, counted from 0; left out: any",
        ),
    ] = ()
    affinity: Annotated[
        str, choice("hard: its memory lies on these nodes alone; soft: on others, too, where they are full", AFFINITIES)
    ] = SOFT

    def __post_init__(self) -> None:
        for key, pages, bound, most_pages in (
            ("target", self.first_pages, "maximum", self.max_pages),
            ("minimum", self.min_pages or 0, "target", self.first_pages),
        ):
            if pages > most_pages:
                raise BadSetting(key, f"{format_pages(pages)} is more than the {bound} ({format_pages(most_pages)})")

    @property
    def first_pages(self) -> int:
        """What it holds at first."""
        return self.max_pages if self.target_pages is None else self.target_pages

    def domain(self, name: str, raw: Mapping[str, Any], of_host: _OfHost) -> DomainSpec:
        """Make the domain of this table, of which *raw* is as it was written. Raises BadSetting."""
        strategy = self.strategy or of_host.strategy
        guest = {key: raw[key] for key in _AS_WRITTEN if raw.get(key) not in (None, {})}
        if isinstance(self.workload, PlaysTrace):
            guest["workload"] = {
                **raw["workload"],
                "trace": str(of_host.directory / Path(self.workload.trace).expanduser()),
            }
        domain_type = self.domain_type or STRATEGIES[strategy].domain_type
        if self.workload.io_pages_s and domain_type is DomainType.VIRTIO:
            raise BadSetting("workload.io_pages_s", _NEEDS_GRANTS)
        return DomainSpec(
            name,
            max_pages=self.max_pages,
            target_pages=self.first_pages,
            min_pages=self.min_pages or 0,
            type=domain_type,
            autostart=self.autostart,
            guest={"workload": "idle", **guest, "strategy": strategy, "verify": self.verify},
            on_crash=self.on_crash,
            vcpus=self.vcpus,
            nodes=self.nodes,
            affinity=self.affinity,
        )


@dataclass(frozen=True, kw_only=True)
class GuestTable(DomainTable):
    """A section [[guest]]: as many guests as *count* says. Raises BadSetting."""

    name: Annotated[str, text("with a count, {n} stands for 1, 2, 3, ...", missing="is missing; every guest has one")]
    count: Annotated[int, whole("how many of them; number n gets seed + n - 1", 1, MAX_DOMAINS)] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.count > 1 and "{n}" not in self.name:
            reason = f"{self.name!r} for {self.count} guests; put {{n}} where the number goes, as in 'web{{n}}'"
            raise BadSetting("name", reason)
        if self.seed is not None and self.seed > MAX_SEED - self.count:
            raise BadSetting(
                "seed", f"{self.seed} is more than {MAX_SEED - self.count}, the most with a count of {self.count}"
            )
        for number in (1, self.count):
            if not is_domain_name(self._name(number)):
                raise BadSetting("name", f"{quote(self._name(number))} is not a name of {DOMAIN_NAME}")

    def _name(self, number: int) -> str:
        return self.name.replace("{n}", str(number))

    def guests(self, raw: Mapping[str, Any], of_host: _OfHost) -> Iterator[DomainSpec]:
        """Make the guests of this table, of which *raw* is as it was written. Raises BadSetting."""
        template = self.domain("", raw, of_host)
        for number in range(1, self.count + 1):
            own_seed = {} if self.seed is None else {"seed": self.seed + number - 1}
            yield replace(template, name=self._name(number), guest={**template.guest, **own_seed})


@dataclass(frozen=True, kw_only=True)
class Dom0Table(DomainTable):
    """The section [dom0]: a domain like any other, whose guest serves the others' disks. Raises BadSetting."""

    persistent_grants: Annotated[bool, flag("whether what a guest granted once stays granted and mapped")] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.domain_type is DomainType.VIRTIO:
            raise BadSetting("type", '"virtio" has no grants, and dom0 maps those of its guests; "pvh" or "pv"')
        if self.workload.io_pages_s:
            raise BadSetting("workload.io_pages_s", "is for guests; dom0 serves their disks and has none of its own")
        if self.on_crash != "restart":
            raise BadSetting("on_crash", f"{self.on_crash!r}; dom0 is always restarted: leave it out")

    def dom0(self, raw: Mapping[str, Any], of_host: _OfHost) -> DomainSpec:
        """Make dom0 of this table, of which *raw* is as it was written; its type is not its strategy's."""
        own = replace(self, domain_type=self.domain_type or DomainType.PVH)
        dom0 = own.domain(DOM0_NAME, raw, of_host)
        min_pages = min(DOM0_MIN_PAGES, dom0.target_pages) if self.min_pages is None else self.min_pages
        return replace(
            dom0, min_pages=min_pages, guest={**dom0.guest, "block_back_end": {"persistent": self.persistent_grants}}
        )


@dataclass(frozen=True, kw_only=True)
class HostFile:
    """A whole host file."""

    host: Annotated[
        HostTable, Section(of=HostTable, missing="there is no [host] section; it must at least say `memory`")
    ]
    dom0: Annotated[Dom0Table | None, Section(of=Dom0Table)] = None
    node: Annotated[tuple[NodeTable, ...], Section(of=NodeTable, many=True)] = ()
    guest: Annotated[tuple[GuestTable, ...], Section(of=GuestTable, many=True)] = ()


def parse_host_config(text: str, path: Path | str, directory: Path | None = None) -> HostConfig:
    """Read the text of a host file; *path* is what errors call it, and what its relative paths are relative to.

    Args:
        text: of the file.
        path: of the file.
        directory: where traces that guests play are relative to; None: as other paths.

    Raises:
        ConfigError: naming the key and the reason.
    """
    raw = load_toml(text, path)
    file = read_file(HostFile, raw, path)
    host, raw_guests = file.host, raw.get("guest", [])
    of_host = _OfHost(host.strategy, Path(path).parent if directory is None else directory)
    guests: list[DomainSpec] = []
    for nth, table in enumerate(file.guest, start=1):
        try:
            guests += table.guests(raw_guests[nth - 1], of_host)
        except BadSetting as error:
            raise ConfigError(path, f"guest[{nth}].{error.key}", error.reason) from error
    try:
        nodes = _nodes(host, file.node)
    except BadSetting as error:
        raise ConfigError(path, error.key, error.reason) from error
    tables = [("dom0", raw.get("dom0", {})), *((f"guest[{nth}]", table) for nth, table in enumerate(raw_guests, 1))]
    config = HostConfig(
        memory_pages=host.memory_pages,
        name=host.name,
        settings=host.settings(),
        runtime_dir=_directory(path, host.runtime_dir),
        state_dir=_directory(path, host.state_dir),
        group=host.group,
        log_level=host.log_level,
        nodes=nodes,
        dom0=None if file.dom0 is None else file.dom0.dom0(raw["dom0"], of_host),
        guests=tuple(guests),
        remarks=_remarks([name for name, table in tables if _OLD_MAXIMUM in table]),
    )
    _check_consistency(path, config)
    return config


def _remarks(old: list[str]) -> tuple[str, ...]:
    """Say that the maximum of domains is given by its old name, once for the whole file; *old*: the sections."""
    if not old:
        return ()
    more = f" and {counted(len(old) - 1, 'other section')}" if len(old) > 1 else ""
    return (
        f"{old[0]}.{_OLD_MAXIMUM}{more}: the key is called 'maximum' now; its old name is read until the next release",
    )


def _directory(path: Path | str, named: str | None) -> Path | None:
    """Resolve a directory that a file names, relative to the file."""
    return None if named is None else Path(path).parent / Path(named).expanduser()


def _io_pages_s(domain: DomainSpec) -> float:
    """Tell the rate of block I/O of a domain's workload, in pages per second."""
    workload = domain.guest.get("workload")
    return float(workload.get("io_pages_s", 0)) if isinstance(workload, dict) else 0.0


def _check_affinities(path: Path | str, config: HostConfig) -> None:
    """Refuse domains that are to lie on nodes that there are not, or nowhere else than on none."""
    count = 1 if config.nodes is None else config.nodes.count
    for key, domain in (
        *(("guest", guest) for guest in config.guests),
        *([("dom0", config.dom0)] if config.dom0 else []),
    ):
        if domain.nodes and max(domain.nodes) >= count:
            reason = f"{domain.name!r} is to lie on node {max(domain.nodes)}; the host has {counted(count, 'node')}, from 0 on"
            raise ConfigError(path, f"{key}.nodes", reason)
        if domain.affinity == HARD and not domain.nodes:
            raise ConfigError(path, f"{key}.nodes", f"is missing; {domain.name!r} has a hard affinity to none")


def _check_consistency(path: Path | str, config: HostConfig) -> None:
    """Refuse contradictions between sections: equal names, too many guests, more memory than the host has, disks without dom0."""
    guests = config.guests
    _check_affinities(path, config)
    # One number is dom0's, whether there is one or not.
    if len(guests) > MAX_DOMAINS - 1:
        raise ConfigError(path, "guest", f"{len(guests)} guests; a host has at most {MAX_DOMAINS - 1}")
    seen: set[str] = set()
    for guest in guests:
        if guest.name == DOM0_NAME:
            raise ConfigError(path, "guest.name", f"{DOM0_NAME!r} is the control domain's; describe it in [dom0]")
        if guest.name in seen:
            raise ConfigError(path, "guest.name", f"two guests are called {guest.name!r}")
        seen.add(guest.name)
        if config.dom0 is None and _io_pages_s(guest):
            raise ConfigError(
                path, "guest.workload.io_pages_s", f"{guest.name!r} does block I/O, but there is no [dom0] to serve it"
            )
    needed = sum(domain.target_pages for domain in (*guests, *([config.dom0] if config.dom0 else [])))
    if needed > config.memory_pages:
        raise ConfigError(
            path,
            "guest.target",
            f"the domains' targets are {format_pages(needed)} together, the host has {format_pages(config.memory_pages)}; "
            f"lower some targets or raise host.memory",
        )
