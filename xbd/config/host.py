"""The host file that `xbd up` and `xbd hypervisor` read.

A *host file* is TOML: one `[host]`, perhaps a `[dom0]`, and any number of `[[guest]]`; `configs/small.toml` describes
every key. Whatever in it cannot be used is a `ConfigError` that names file, key and reason. Sizes
are written as everywhere (`512`, `"512m"`, `"2g"`; a bare number is MiB), in multiples of 2 MiB.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from xbd.abi import MAX_DOMAIN_PAGES, MAX_DOMAINS, MAX_NAME_CHARS, ON_CRASH, DomainType
from xbd.config.strategies import DEFAULT_STRATEGY, STRATEGIES
from xbd.config.toml_table import Table, top_table
from xbd.errors import BadArgument, ConfigError
from xbd.guest import override_driver
from xbd.guest.workload import make_workload
from xbd.machine.settings import HOME_FILLS, HostSettings
from xbd.units import GIB_PAGES, MIB_PAGES, SUPER_PAGES, counted, format_pages

# A 4 TiB host has 2 Mi superframes; 64 TiB is what the tables of one process can hold with room.
MAX_HOST_PAGES: Final = 64 * 1024 * GIB_PAGES
_MAX_SEED: Final = (1 << 63) - 1
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
DOM0_NAME: Final = "dom0"
# xl's own: below 128 MiB a dom0 is of little use.
DOM0_MIN_PAGES: Final = 128 * MIB_PAGES
# What a domain's `maximum` was called before; read for one more release.
_OLD_MAXIMUM: Final = "memory"


@dataclass(frozen=True, slots=True)
class GuestConfig:
    """One guest, or dom0: its domain, and *guest*, the settings of its agent as `create` takes them."""

    name: str
    max_pages: int
    target_pages: int
    autostart: bool = True
    guest: Mapping[str, object] = field(default_factory=dict)
    min_pages: int = 0
    domain_type: DomainType = DomainType.PVH
    on_crash: str = "restart"

    def as_create(self) -> dict[str, object]:
        """Make the parameters of the `create` call for this domain."""
        return {
            "name": self.name,
            "type": self.domain_type.value,
            "max_pages": self.max_pages,
            "target_pages": self.target_pages,
            "min_pages": self.min_pages,
            "autostart": self.autostart,
            "guest": dict(self.guest),
            "on_crash": self.on_crash,
        }


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
    dom0: GuestConfig | None = None
    guests: tuple[GuestConfig, ...] = ()
    # What its author should know though it is used as it is, such as that a key has another name now.
    remarks: tuple[str, ...] = field(default=(), compare=False)

    @property
    def superframes(self) -> int:
        """The host's memory in superframes."""
        return self.memory_pages // SUPER_PAGES


def parse_host_config(text: str, path: Path | str) -> HostConfig:
    """Read the text of a host file; *path* is what errors call it, and what its relative paths are relative to.

    Raises:
        ConfigError: naming the key and the reason.
    """
    top = top_table(text, path)
    host = top.table("host")
    if host is None:
        raise ConfigError(path, "host", "there is no [host] section; it must at least say `memory`")
    strategy = STRATEGIES[host.choice("strategy", STRATEGIES, DEFAULT_STRATEGY)]
    directories = {key: host.text(key, None) for key in ("runtime_dir", "state_dir")}
    config = HostConfig(
        memory_pages=host.size("memory", MAX_HOST_PAGES),
        name=host.text("name", None) or "host",
        settings=_host_settings(host, strategy.host),
        runtime_dir=_directory(path, directories["runtime_dir"]),
        state_dir=_directory(path, directories["state_dir"]),
        group=host.text("group", None),
        log_level=host.choice("log_level", LOG_LEVELS, "") or None,
    )
    host.finish()
    dom0_table = top.table("dom0")
    dom0 = None if dom0_table is None else _dom0(dom0_table, strategy.name)
    guest_tables = top.tables("guest")
    guests = tuple(guest for table in guest_tables for guest in _guests(table, strategy.name))
    top.finish()
    domain_tables = [*([] if dom0_table is None else [dom0_table]), *guest_tables]
    config = replace(config, dom0=dom0, guests=guests, remarks=_remarks(domain_tables))
    _check_consistency(path, config)
    return config


def _remarks(domain_tables: Sequence[Table]) -> tuple[str, ...]:
    """Say that the maximum of domains is given by its old name, once for the whole file."""
    old = [table.name for table in domain_tables if table.spelling("maximum", _OLD_MAXIMUM) == _OLD_MAXIMUM]
    if not old:
        return ()
    more = f" and {counted(len(old) - 1, 'other section')}" if len(old) > 1 else ""
    return (
        f"{old[0]}.{_OLD_MAXIMUM}{more}: the key is called 'maximum' now; its old name is read until the next release",
    )


def _directory(path: Path | str, named: str | None) -> Path | None:
    """Resolve a directory that a file names, relative to the file."""
    return None if named is None else Path(path).parent / Path(named).expanduser()


def _host_settings(host: Table, preset: HostSettings) -> HostSettings:
    """Read the host's settings: those of its strategy, and what the file overrides."""
    features = host.table("features") or Table(host.path, "host.features", {})
    p2m = host.table("p2m") or Table(host.path, "host.p2m", {})
    settings = HostSettings(
        populate_depopulate=features.flag("populate_depopulate", default=preset.populate_depopulate),
        exchange_translated=features.flag("exchange_translated", default=preset.exchange_translated),
        home_fill=host.choice("home_fill", HOME_FILLS, preset.home_fill),  # type: ignore[arg-type]  # one of them
        coalesce=p2m.flag("coalesce", default=preset.coalesce),
        keep_holes=host.flag("keep_holes", default=preset.keep_holes),
    )
    features.finish()
    p2m.finish()
    return settings


def _guests(table: Table, host_strategy: str) -> Iterator[GuestConfig]:
    """Read one [[guest]], and make as many guests of it as its `count` says."""
    pattern = table.text("name", None)
    if pattern is None:
        raise table.error("name", "is missing; every guest has one")
    count = table.whole("count", 1, MAX_DOMAINS, None) or 1
    if count > 1 and "{n}" not in pattern:
        raise table.error("name", f"{pattern!r} for {count} guests; put {{n}} where the number goes, as in 'web{{n}}'")
    template = _domain(table, host_strategy, pattern, count, 0)
    table.finish()
    seed = template.guest.get("seed")
    for number in range(1, count + 1):
        name = pattern.replace("{n}", str(number))
        if len(name) > MAX_NAME_CHARS or not name.isprintable() or name.isdecimal():
            raise table.error("name", f"{name!r} must be 1 to {MAX_NAME_CHARS} printable characters, not all digits")
        own_seed = {"seed": seed + number - 1} if isinstance(seed, int) else {}
        yield replace(template, name=name, guest={**template.guest, **own_seed})


def _dom0(table: Table, host_strategy: str) -> GuestConfig:
    """Read [dom0]: a domain like any other, whose guest serves the others' disks."""
    dom0 = _domain(table, host_strategy, DOM0_NAME, 1, DOM0_MIN_PAGES)
    if dom0.domain_type is DomainType.VIRTIO:
        raise table.error("type", '"virtio" has no grants, and dom0 maps those of its guests; "pvh" or "pv"')
    if _io_pages_s(dom0):
        raise table.error("workload.io_pages_s", "is for guests; dom0 serves their disks and has none of its own")
    if dom0.on_crash != "restart":
        raise table.error("on_crash", f"{dom0.on_crash!r}; dom0 is always restarted: leave it out")
    persistent = table.flag("persistent_grants", default=False)
    table.finish()
    return replace(dom0, guest={**dom0.guest, "block_back_end": {"persistent": persistent}})


def _domain(table: Table, host_strategy: str, name: str, count: int, least_pages: int) -> GuestConfig:
    """Read the keys that dom0 and guests share; *least_pages*: the minimum where none is given."""
    max_pages = table.size(table.spelling("maximum", _OLD_MAXIMUM), MAX_DOMAIN_PAGES)
    target_pages = table.size("target", MAX_DOMAIN_PAGES, max_pages)
    if target_pages > max_pages:
        raise table.error(
            "target",
            f"{format_pages(target_pages)} is more than the maximum ({format_pages(max_pages)})",
        )
    min_pages = table.size("minimum", MAX_DOMAIN_PAGES, min(least_pages, target_pages))
    if min_pages > target_pages:
        raise table.error(
            "minimum", f"{format_pages(min_pages)} is more than the target ({format_pages(target_pages)})"
        )
    autostart = table.flag("autostart", default=True)
    seed = table.whole("seed", 0, _MAX_SEED - count, None)
    settings = _guest_settings(table, host_strategy) | ({} if seed is None else {"seed": seed})
    # dom0 maps what its guests grant, whatever their type.
    usual_type = DomainType.PVH if name == DOM0_NAME else STRATEGIES[str(settings["strategy"])].domain_type
    domain_type = DomainType(table.choice("type", tuple(DomainType), usual_type))
    on_crash = table.choice("on_crash", ON_CRASH, "restart")
    domain = GuestConfig(name, max_pages, target_pages, autostart, settings, min_pages, domain_type, on_crash)
    if _io_pages_s(domain) and domain_type is DomainType.VIRTIO:
        raise table.error("workload.io_pages_s", 'block I/O needs grants, which type "virtio" has not; "pvh" or "pv"')
    return domain


def _io_pages_s(domain: GuestConfig) -> float:
    """Tell the rate of block I/O of a domain's workload, in pages per second."""
    workload = domain.guest.get("workload")
    rate = workload.get("io_pages_s", 0) if isinstance(workload, dict) else 0
    return float(rate)


def _guest_settings(table: Table, host_strategy: str) -> dict[str, object]:
    """Read the settings of a guest's agent; checked here, so that a mistake shows before anything is started."""
    settings: dict[str, object] = {"strategy": table.choice("strategy", STRATEGIES, host_strategy)}
    settings["verify"] = table.flag("verify", default=False)
    workload, options = table.name_and_options("workload", "profile", "idle")
    if workload == "trace":
        raise table.error("workload", "a trace needs somebody who plays it: use `xbd replay TRACE.csv`")
    try:
        make_workload(workload, options)
    except BadArgument as error:
        raise table.error("workload", f"{error.message}; expected {error.expected}") from error
    settings["workload"] = {"profile": workload, **options} if options else workload
    driver = table.plain("driver")
    try:
        override_driver(STRATEGIES[str(settings["strategy"])].driver, driver)
    except BadArgument as error:
        raise table.error("driver", f"{error.message}; expected {error.expected}") from error
    if driver:
        settings["driver"] = driver
    return settings


def _check_consistency(path: Path | str, config: HostConfig) -> None:
    """Refuse contradictions between sections: equal names, too many guests, more memory than the host has, disks without dom0."""
    guests = config.guests
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
