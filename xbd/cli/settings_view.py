"""What may be written for each key, and the page of all of them, made from their declarations: `xbd/docs/settings.md`."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from itertools import groupby
from types import MappingProxyType
from typing import Final

from xbd.config.guest import GuestChoices, PlaysTrace
from xbd.config.strategies import DEFAULT_STRATEGY, STRATEGIES
from xbd.guest import DRIVERS, DriverSettings
from xbd.guest.workload import PROFILES
from xbd.machine.settings import HostSettings
from xbd.settings import ListOf, Section, Setting, Size, Variant, path_of, settings_of
from xbd.text import markdown_table
from xbd.units import MIB_PAGES, format_pages

_ABOUT: Final = (
    "What may be written for each key of xbd's files, and of a guest. Made by `xbd check --keys`;"
    " `xbd check FILE` says what is wrong with a file. Where there is no default, the meaning says what holds without the"
    " key, or its strategy does."
)
REQUIRED: Final = "required"
_NAMES: Final = ", ".join(f'"{name}"' for name in STRATEGIES)
_APART: Final[Mapping[type, str]] = {DriverSettings: "a table of keys of the [balloon driver](#balloon-driver)"}


@dataclass(frozen=True, slots=True)
class Row:
    """A key as people are told of it; *default*: as it would be written, empty where nothing stands for it."""

    key: str
    expected: str
    default: str
    doc: str


def describe(kind: type, at: str = "", apart: Mapping[type, str] = MappingProxyType({})) -> Iterator[Row]:
    """List the keys of a class with their paths, those of its sections after them.

    Sections of the classes in *apart* are a row each, which says by its text where their keys are; so is a `Variant`.
    """
    usual = {field.name: field.default for field in fields(kind)}
    for name, setting in settings_of(kind).items():
        path = path_of(at, setting.key or name)
        if isinstance(setting, Section) and setting.of not in apart:
            for of in (setting.of, setting.other):
                rows = describe(of, at if setting.inline else path + "[]" * setting.many, apart) if of else ()
                # What is left out of some keys of a class is as another part of the file says.
                bare = setting.only is not None
                yield from (replace(row, default="") if bare else row for row in rows if _is_of(row, setting))
            continue
        yield Row(path, _expected(setting, apart), _written(setting, usual[name]), setting.doc)


def _is_of(row: Row, section: Section) -> bool:
    return not section.only or row.key.rpartition(".")[2] in section.only


def _expected(setting: Setting, apart: Mapping[type, str]) -> str:
    match setting:
        case ListOf(item=item, or_one=or_one):
            return f"{item.expected}, or a list of them" if or_one else f"a list, each {item.expected}"
        case Section(of=of):
            return apart[of]
        case Variant(kinds=kinds):
            return f'one of {", ".join(kinds)}; or a table {{ profile = "...", ... }}'
    return setting.expected


def _written(setting: Setting, default: object) -> str:
    """Write a default as a file has it."""
    if default is None or default is MISSING:
        return REQUIRED if default is MISSING and not isinstance(setting, Section) else ""
    if isinstance(setting, Variant):
        default = next(name for name, kind in setting.kinds.items() if type(default) is kind)
    if isinstance(setting, Size) and isinstance(default, int):
        default = f"{default // MIB_PAGES}m"
    return json.dumps(default)


def settings_page(files: Mapping[str, type]) -> str:
    """Draw the page, as Markdown; *files*: the class that declares each kind, by what that is called."""
    lines = ["# Settings", "", _ABOUT, ""]
    for title, kind in files.items():
        lines += [f"## {title[0].upper()}{title[1:]}", ""]
        for section, rows in groupby(describe(kind, apart=_APART), key=lambda row: row.key.partition(".")[0]):
            name = section.removesuffix("[]")
            lines += [f"### `[[{name}]]`" if section.endswith("[]") else f"### `[{name}]`", ""]
            lines += _keys(rows, f"{section}.")
    lines += ["## The guest that `create` takes", "", "The parameter `guest`, and what a domain keeps.", ""]
    lines += _keys(describe(GuestChoices, apart=_APART))
    lines += ["## Balloon driver", "", f"The defaults are those of strategy `{DEFAULT_STRATEGY}`.", ""]
    lines += _keys(describe(DriverSettings))
    lines += ["## Workloads", "", "What is written beside `profile`, which a table that has `trace` need not name.", ""]
    for name, profile in (*PROFILES.items(), ("trace", PlaysTrace)):
        lines += [f"### {name}", "", *_keys(describe(profile))]
    lines += ["## Strategies", "", "What each sets that is not the default; the others are controls of one thing.", ""]
    lines += _strategies()
    return "\n".join(lines)


def _keys(rows: Iterable[Row], prefix: str = "") -> Iterator[str]:
    # What two kinds of a section have in common is there twice.
    cells = (
        (f"`{row.key.removeprefix(prefix)}`", row.expected, _default(row.default), row.doc)
        for row in dict.fromkeys(rows)
    )
    for line in markdown_table(("key", "takes", "default", "meaning"), cells):
        yield line.replace(_NAMES, "the [strategies](#strategies)")


def _default(written: str) -> str:
    return written if written in ("", REQUIRED) else "all" if written == f"[{_NAMES}]" else f"`{written}`"


def _strategies() -> Iterator[str]:
    yield from markdown_table(
        ("strategy", "is", "targets in", "host", "driver"),
        (
            (
                f"`{one.name}`",
                one.about,
                format_pages(one.granularity_pages),
                _other(asdict(one.host), asdict(HostSettings())),
                _other(asdict(one.driver), asdict(DRIVERS["full"])),
            )
            for one in STRATEGIES.values()
        ),
    )


def _other(chosen: Mapping[str, object], usual: Mapping[str, object]) -> str:
    """Write the settings that are not as usual."""
    return ", ".join(f"`{key}` {_plain(setting)}" for key, setting in chosen.items() if setting != usual[key])


def _plain(setting: object) -> str:
    if isinstance(setting, tuple):
        return ", ".join(setting)
    return str(setting).lower() if isinstance(setting, bool) else str(setting)
