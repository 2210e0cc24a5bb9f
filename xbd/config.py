"""Strategies, and the host file that `xbd up` and `xbd hypervisor` read.

A *strategy* is how host and guests go about memory together: `stock` is today's Xen and Linux,
`full` (the default) is what xbd is about. It spans both sides, which otherwise never meet.

A *host file* is TOML: one `[host]` and any number of `[[guest]]`; `configs/small.toml` describes
every key. Whatever in it cannot be used is a `ConfigError` that names file, key and reason. Sizes
are written as everywhere (`512`, `"512m"`, `"2g"`; a bare number is MiB), in multiples of 2 MiB.
"""

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from xbd.abi import MAX_DOMAIN_PAGES, MAX_DOMAINS, MAX_NAME_CHARS
from xbd.errors import BadArgument, BadSize, ConfigError
from xbd.guest import DRIVERS, DriverSettings, override_driver
from xbd.guest.workload import make_workload
from xbd.machine.settings import HOME_FILLS, TODAYS_XEN, HostSettings
from xbd.units import GIB_PAGES, SUPER_PAGES, format_pages, parse_size_pages

# A 4 TiB host has 2 Mi superframes; 64 TiB is what the tables of one process can hold with room.
MAX_HOST_PAGES: Final = 64 * 1024 * GIB_PAGES
_MAX_SEED: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Strategy:
    """How a host and the balloon drivers of its guests go about memory."""

    name: str
    host: HostSettings
    driver: DriverSettings


STRATEGIES: Final[Mapping[str, Strategy]] = {
    "full": Strategy("full", HostSettings(), DRIVERS["full"]),
    "stock": Strategy("stock", TODAYS_XEN, DRIVERS["stock"]),
}
DEFAULT_STRATEGY: Final = "full"


@dataclass(frozen=True, slots=True)
class GuestConfig:
    """One guest: its domain, and *guest*, the settings that its agent is started with, as they travel."""

    name: str
    max_pages: int
    target_pages: int
    autostart: bool = True
    guest: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HostConfig:
    """A host: *memory_pages* of it, its settings, its guests; *runtime_dir* and *group* None where not given."""

    memory_pages: int
    name: str = "host"
    settings: HostSettings = field(default_factory=HostSettings)
    runtime_dir: Path | None = None
    group: str | None = None
    guests: tuple[GuestConfig, ...] = ()

    @property
    def superframes(self) -> int:
        """The host's memory in superframes."""
        return self.memory_pages // SUPER_PAGES


def load_host_config(path: Path) -> HostConfig:
    """Read a host file. Raises ConfigError: it cannot be read, is no TOML, or says what cannot be."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(path, "", f"cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(path, "", f"is not UTF-8 text (byte {error.start})") from error
    return parse_host_config(text, path)


def parse_host_config(text: str, path: Path | str) -> HostConfig:
    """Read the text of a host file; *path* is what errors call it, and what its relative paths are relative to.

    Raises:
        ConfigError: naming the key and the reason.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(path, "", f"is not TOML: {error}") from error
    top = _Table(path, "", document)
    host = top.table("host")
    if host is None:
        raise ConfigError(path, "host", "there is no [host] section; it must at least say `memory`")
    strategy = STRATEGIES[host.choice("strategy", STRATEGIES, DEFAULT_STRATEGY)]
    directory = host.text("runtime_dir", None)
    config = HostConfig(
        memory_pages=host.size("memory", MAX_HOST_PAGES),
        name=host.text("name", None) or "host",
        settings=_host_settings(host, strategy.host),
        runtime_dir=None if directory is None else Path(path).parent / Path(directory).expanduser(),
        group=host.text("group", None),
    )
    host.finish()
    guests = tuple(guest for table in top.tables("guest") for guest in _guests(table, strategy.name))
    top.finish()
    _check_together(path, config, guests)
    return replace(config, guests=guests)


def _host_settings(host: "_Table", preset: HostSettings) -> HostSettings:
    """Read what the host file sets, over what its strategy does."""
    features = host.table("features") or _Table(host.path, "host.features", {})
    p2m = host.table("p2m") or _Table(host.path, "host.p2m", {})
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


def _guests(table: "_Table", host_strategy: str) -> Iterator[GuestConfig]:
    """Read one [[guest]] and spell out its `count`."""
    pattern = table.text("name", None)
    if pattern is None:
        raise table.error("name", "is missing; every guest has one")
    count = table.whole("count", 1, MAX_DOMAINS, None) or 1
    if count > 1 and "{n}" not in pattern:
        raise table.error("name", f"{pattern!r} for {count} guests; put {{n}} where the number goes, as in 'web{{n}}'")
    max_pages = table.size("memory", MAX_DOMAIN_PAGES)
    target_pages = table.size("target", MAX_DOMAIN_PAGES, max_pages)
    if target_pages > max_pages:
        raise table.error(
            "target",
            f"{format_pages(target_pages)} is more than memory, the static maximum ({format_pages(max_pages)})",
        )
    autostart = table.flag("autostart", default=True)
    seed = table.whole("seed", 0, _MAX_SEED - count, None)
    settings = _guest_settings(table, host_strategy)
    table.finish()
    for number in range(1, count + 1):
        name = pattern.replace("{n}", str(number))
        if len(name) > MAX_NAME_CHARS or not name.isprintable() or name.isdecimal():
            raise table.error("name", f"{name!r} must be 1 to {MAX_NAME_CHARS} printable characters, not all digits")
        own_seed = {} if seed is None else {"seed": seed + number - 1}
        yield GuestConfig(name, max_pages, target_pages, autostart, {**settings, **own_seed})


def _guest_settings(table: "_Table", host_strategy: str) -> dict[str, object]:
    """Read what a guest's agent is to be told, as it travels; checked here, so that a mistake shows before anything starts."""
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


def _check_together(path: Path | str, config: HostConfig, guests: tuple[GuestConfig, ...]) -> None:
    """Refuse what no single key is to blame for: equal names, too many guests, more than the host has."""
    if len(guests) > MAX_DOMAINS:
        raise ConfigError(path, "guest", f"{len(guests)} guests; a host has at most {MAX_DOMAINS}")
    seen: set[str] = set()
    for guest in guests:
        if guest.name in seen:
            raise ConfigError(path, "guest.name", f"two guests are called {guest.name!r}")
        seen.add(guest.name)
    needed = sum(guest.target_pages for guest in guests)
    if needed > config.memory_pages:
        raise ConfigError(
            path,
            "guest.target",
            f"the guests' targets are {format_pages(needed)} together, the host has {format_pages(config.memory_pages)}; "
            f"lower some targets or raise host.memory",
        )


class _Table:
    """A TOML table that is read key by key; `finish` refuses what nobody asked for."""

    def __init__(self, path: Path | str, where: str, entries: Mapping[str, Any]) -> None:
        self.path = path
        self._where = where
        self._entries = entries
        self._known: list[str] = []

    def error(self, key: str, reason: str) -> ConfigError:
        """Make the error for one of this table's keys."""
        return ConfigError(self.path, f"{self._where}.{key}" if self._where else key, reason)

    def _take(self, key: str, kinds: type | tuple[type, ...], expected: str) -> Any:  # noqa: ANN401 - of *kinds*, or None
        self._known.append(key)
        entry = self._entries.get(key)
        # A TOML boolean is no number, though Python's is.
        if entry is None or (isinstance(entry, kinds) and (kinds is bool or not isinstance(entry, bool))):
            return entry
        raise self.error(key, f"{entry!r:.80} is not {expected}")

    def text(self, key: str, default: str | None) -> str | None:
        """Read a string that is not empty."""
        entry = self._take(key, str, "text in quotes")
        if entry == "":
            raise self.error(key, "is empty")
        return default if entry is None else str(entry)

    def flag(self, key: str, *, default: bool) -> bool:
        """Read true or false."""
        entry = self._take(key, bool, "true or false")
        return default if entry is None else bool(entry)

    def whole(self, key: str, least: int, most: int, default: int | None) -> int | None:
        """Read a whole number from *least* to *most*."""
        entry = self._take(key, int, f"a whole number from {least} to {most}")
        if entry is not None and not least <= entry <= most:
            raise self.error(key, f"{entry} is not from {least} to {most}")
        return default if entry is None else int(entry)

    def choice(self, key: str, choices: Mapping[str, object] | tuple[str, ...], default: str) -> str:
        """Read one of *choices*."""
        expected = "one of " + ", ".join(f'"{choice}"' for choice in choices)
        entry = self._take(key, str, expected)
        if entry is not None and entry not in choices:
            raise self.error(key, f"{entry!r:.80} is not {expected}")
        return default if entry is None else str(entry)

    def size(self, key: str, most_pages: int, default: int | None = None) -> int:
        """Read a size as pages, in whole superpages; required when there is no *default*."""
        entry = self._take(key, (str, int), 'a size, such as 512 (MiB), "512m" or "2g"')
        if entry is None:
            if default is None:
                raise self.error(key, 'is missing; it is a size, such as "512m" or "2g"')
            return default
        try:
            pages = parse_size_pages(str(entry))
        except BadSize as error:
            raise self.error(key, str(error)) from error
        if pages % SUPER_PAGES:
            down = pages // SUPER_PAGES * 2
            raise self.error(key, f'{entry!r} is not a multiple of 2 MiB; "{down}m" and "{down + 2}m" are')
        if pages > most_pages:
            raise self.error(key, f"{entry!r} is more than {format_pages(most_pages)}, the most that is possible")
        return pages

    def plain(self, key: str) -> dict[str, Any]:
        """Read a table whose entries somebody else checks; empty when it is not there."""
        entry = self._take(key, dict, "a table")
        return {} if entry is None else dict(entry)

    def name_and_options(self, key: str, name_key: str, default: str) -> tuple[str, dict[str, Any]]:
        """Read `key = "name"` or `key = { name_key = "name", option = ... }`."""
        entry = self._take(key, (str, dict), f'a name in quotes, or a table {{ {name_key} = "...", ... }}')
        if entry is None:
            return default, {}
        if isinstance(entry, str):
            return entry, {}
        options = dict(entry)
        name = options.pop(name_key, None)
        if not isinstance(name, str):
            raise self.error(f"{key}.{name_key}", "is missing; it is a name in quotes")
        return name, options

    def table(self, key: str) -> "_Table | None":
        """Read a table within this one; None when it is not there."""
        entry = self._take(key, dict, "a table")
        return None if entry is None else _Table(self.path, f"{self._where}.{key}" if self._where else key, entry)

    def tables(self, key: str) -> "list[_Table]":
        """Read an array of tables."""
        entry = self._take(key, list, f"an array of tables; begin each with [[{key}]]")
        for number, table in enumerate(entry or (), start=1):
            if not isinstance(table, dict):
                raise self.error(f"{key}[{number}]", f"is not a table; begin each with [[{key}]]")
        return [_Table(self.path, f"{key}[{number}]", table) for number, table in enumerate(entry or (), start=1)]

    def finish(self) -> None:
        """Refuse keys that nobody has asked for."""
        for key in self._entries:
            if key not in self._known:
                close = difflib.get_close_matches(key, self._known, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(self._known)}"
                raise self.error(key, f"is not a key of this section; {hint}")
