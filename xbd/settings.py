"""Typed settings: a dataclass whose fields say what may be written for them.

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Guest:
        max_pages: Annotated[int, size("what it can never hold more than", MAX_DOMAIN_PAGES, key="maximum")]
        verify: Annotated[bool, flag("whether every content word is checked")] = False

`read(Guest, {"maximum": "2g"}, "guest[1]")` makes one of what somebody wrote: a table of a file, a map that came over
the wire. Whatever cannot be used is a `BadSetting` with the whole path of its key, unknown keys first.
A field without a note of its kind is no key: only code sets it.
"""

import difflib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cache
from typing import Any, Final, TypeVar, get_type_hints

from xbd.errors import BadArgument, BadSetting, BadSize
from xbd.text import printable, quote
from xbd.units import format_pages, parse_superpages

_T = TypeVar("_T")
# As much as a message may hold of one text: a line to be shown to a person.
_MOST_CHARS: Final = 1024
_KEY_CHARS: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What may be written for a key: *expected* says it behind "is not", *accept* makes the value, or None of what is not that.

    *doc*: what it means. *key*: its name where it is written, if that is not the field's. *old_key*: what it was called
    before, which is still read. *missing*: the reason to refuse a section without it, instead of the usual one.
    """

    expected: str = ""
    accept: Callable[[Any], object] = str
    doc: str = ""
    key: str = ""
    old_key: str = ""
    missing: str = ""

    def check(self, at: str, raw: object) -> object:
        """Make the value of what was written; *at* is its path. Raises BadSetting."""
        try:
            accepted = self.accept(raw)
        except BadSize as error:
            raise BadSetting(at, str(error)) from error
        if accepted is None:
            written = str(raw).lower() if isinstance(raw, bool) else quote(raw)
            raise BadSetting(at, f"{written} is not {self.expected}")
        return accepted


class Size(Setting):
    """Pages, which people write as a size."""


def flag(doc: str, **names: str) -> Setting:
    """Make a setting of true or false."""
    return Setting(expected="true or false", accept=lambda raw: raw if type(raw) is bool else None, doc=doc, **names)


def text(doc: str, *, lines: bool = False, **names: str) -> Setting:
    """Make a setting of text that is not empty and can be printed; with *lines* of several lines."""
    expected = f"text in quotes, of 1 to {_MOST_CHARS} {'' if lines else 'printable '}characters"

    def accept(raw: object) -> str | None:
        fits = isinstance(raw, str) and 0 < len(raw) <= _MOST_CHARS and (lines or raw.isprintable())
        return printable(str(raw), lines=lines) if fits else None

    return Setting(expected=expected, accept=accept, doc=doc, **names)


def whole(doc: str, least: int, most: int, unit: str = "", **names: str) -> Setting:
    """Make a setting of a whole number from *least* to *most*."""
    expected = f"a whole number {unit and f'of {unit} '}from {least} to {most}"
    # A boolean is no number here, though Python's is.
    return Setting(
        expected=expected,
        accept=lambda raw: raw if type(raw) is int and least <= raw <= most else None,
        doc=doc,
        **names,
    )


def number(doc: str, least: float, most: float, unit: str = "", **names: str) -> Setting:
    """Make a setting of a number from *least* to *most*, as a float; NaN lies in no range."""
    expected = f"a number {unit and f'of {unit} '}from {least:g} to {most:.10g}"
    return Setting(
        expected=expected,
        accept=lambda raw: float(raw) if type(raw) in (int, float) and least <= raw <= most else None,
        doc=doc,
        **names,
    )


def choice(doc: str, choices: Collection[str], make: Callable[[str], object] = str, **names: str) -> Setting:
    """Make a setting of one of *choices*; *make*: what the word becomes, such as an enumeration's member."""
    expected = "one of " + ", ".join(f'"{word}"' for word in choices)
    return Setting(
        expected=expected,
        accept=lambda raw: make(raw) if type(raw) is str and raw in choices else None,
        doc=doc,
        **names,
    )


def size(doc: str, most_pages: int, **names: str) -> Setting:
    """Make a setting of an amount of memory in whole superpages, as pages."""

    def accept(raw: object) -> int | None:
        pages = parse_superpages(raw) if type(raw) in (int, str) else most_pages + 1
        return pages if pages <= most_pages else None

    expected = f'a size up to {format_pages(most_pages)}, such as 512 (MiB), "512m" or "2g"'
    return Size(expected=expected, accept=accept, doc=doc, **names)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListOf(Setting):
    """A list of at least one *item*, as a tuple without repetitions where *distinct*; *or_one*: or the item alone.

    *accept* and *expected*, where they are given, are about all of the items together.
    """

    item: Setting
    or_one: bool = False
    distinct: bool = False

    def check(self, at: str, raw: object) -> tuple[object, ...]:
        """Check it, item by item."""
        if self.or_one and not isinstance(raw, list):
            return (self.item.check(at, raw),)
        if not isinstance(raw, list | tuple) or not raw:
            raise BadSetting(at, f"{quote(raw)} is not a list of at least one; each is {self.item.expected}")
        items = tuple(self.item.check(f"{at}[{nth}]", item) for nth, item in enumerate(raw, start=1))
        if self.accept(items) is None:
            raise BadSetting(at, f"{quote(raw)} is not {self.expected}")
        return tuple(dict.fromkeys(items)) if self.distinct else items


@dataclass(frozen=True, slots=True, kw_only=True)
class Section(Setting):
    """A table of the keys of *of*, as one of these; with *many* any number of such tables, as a tuple.

    *other*: what a table is of that has the key *other_key*. *inline*: its keys are those of the section that it is in. *only*: it is a table of some of the keys of *of*, these if
    any are named, and becomes a map of those that are given, by the names of their fields.
    """

    of: type
    many: bool = False
    other: type | None = None
    other_key: str = ""
    inline: bool = False
    only: tuple[str, ...] | None = None

    def check(self, at: str, raw: object) -> object:
        """Check it, key by key."""
        if self.only is not None:
            return read_given(self.of, raw, at, self.only)
        if not self.many:
            has_other = self.other is not None and isinstance(raw, dict) and self.other_key in raw
            return read(self.other if has_other and self.other else self.of, raw, at)
        if not isinstance(raw, list):
            raise BadSetting(at, f"{quote(raw)} is not an array of tables; begin each with [[{at}]]")
        one = replace(self, many=False)
        return tuple(one.check(f"{at}[{nth}]", table) for nth, table in enumerate(raw, start=1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant(Setting):
    """One of *kinds* by its name, with its usual settings; or a table of its name, as `profile`, and settings of its own.

    *hints*: for names that are of another place, where that is. *implied*: for a key, whose table one without a name is.
    """

    kinds: Mapping[str, type]
    hints: Mapping[str, str] = field(default_factory=dict)
    implied: Mapping[str, str] = field(default_factory=dict)

    def check(self, at: str, raw: object) -> object:
        """Check it."""
        options = dict(raw) if isinstance(raw, dict) else {"profile": raw}
        implied = next((kind for key, kind in self.implied.items() if key in options), None)
        name = options.pop("profile", implied)
        if name is None:
            unknown = difflib.get_close_matches("profile", [str(key)[:_KEY_CHARS] for key in options], n=1)
            mistaken = f"; {unknown[0]!r} is not it" if unknown else ""
            raise BadSetting(f"{at}.profile", f"is missing; it is one of {', '.join(self.kinds)}{mistaken}")
        if isinstance(name, str) and name in self.hints:
            raise BadSetting(at, self.hints[name])
        if not isinstance(name, str) or name not in self.kinds:
            known = ", ".join(f'"{kind}"' for kind in self.kinds)
            table = "" if isinstance(name, str) else ', or a table { profile = "...", ... }'
            raise BadSetting(at, f"{quote(name)} is not one of {known}{table}")
        return read(self.kinds[name], options, at)


def read(kind: type[_T], raw: object, at: str) -> _T:
    """Make a *kind* of what somebody wrote.

    Args:
        kind: a dataclass whose fields are annotated with a `Setting` each.
        raw: what was written: a map; not modified.
        at: the path of it, for errors; empty for a whole file.

    Raises:
        BadSetting: it is no map, a key is unknown, missing, or written with what cannot be; or the class refuses it.
    """
    given = read_given(kind, raw, at)
    declared: type = kind
    required = {field.name for field in fields(declared) if MISSING is field.default is field.default_factory}
    for name, setting in settings_of(declared).items():
        if name in required and name not in given:
            reason = setting.missing or f"is missing; it is {setting.expected}"
            raise BadSetting(path_of(at, setting.key or name), reason)
    try:
        return kind(**given)
    except BadSetting as error:
        raise BadSetting(path_of(at, error.key), error.reason) from error
    except BadArgument as error:
        raise BadSetting(at, f"{error.message}; expected {error.expected}") from error


def read_given(kind: type, raw: object, at: str, only: tuple[str, ...] = ()) -> dict[str, Any]:
    """Check what is written of the settings of *kind*, or *only* of these; returns fields by name. Raises BadSetting."""
    if not isinstance(raw, Mapping):
        raise BadSetting(at, f"{quote(raw)} is not a table")
    known = {name: setting for name, setting in settings_of(kind).items() if not only or name in only}
    _refuse_unknown([key for key, _ in _keys(known)], [key for _, key in _keys(known) if key], raw, at)
    given: dict[str, Any] = {}
    usual = {field.name: field.default for field in fields(kind)}
    for name, setting in known.items():
        if isinstance(setting, Section) and setting.inline:
            own = {key for pair in _keys(settings_of(setting.of)) for key in pair}
            given[name] = setting.check(at, {key: entry for key, entry in raw.items() if key in own})
            continue
        key = setting.key or name
        if setting.old_key in raw:
            if key in raw:
                reason = f"is the old name of {key!r}, which is given too; leave {setting.old_key!r} out"
                raise BadSetting(path_of(at, setting.old_key), reason)
            key = setting.old_key
        # What may be left out for None may be given as nil, too.
        if key in raw and not (raw[key] is None and usual[name] is None):
            given[name] = setting.check(path_of(at, key), raw[key])
    return given


def _refuse_unknown(known: list[str], old: list[str], raw: Mapping[Any, object], at: str) -> None:
    """Refuse the first key that is not one. Raises BadSetting, naming one that is close, or all."""
    for key in raw:
        if key not in known and key not in old:
            close = difflib.get_close_matches(str(key)[:_KEY_CHARS], known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
            raise BadSetting(path_of(at, printable(str(key)[:_KEY_CHARS])), f"is not a key of this section; {hint}")


def _keys(known: Mapping[str, Setting]) -> Iterator[tuple[str, str]]:
    """List the keys of settings, each with its old name or nothing; those of an inline section are among them."""
    for name, setting in known.items():
        if isinstance(setting, Section) and setting.inline:
            yield from _keys(settings_of(setting.of))
        else:
            yield setting.key or name, setting.old_key


def path_of(at: str, key: str) -> str:
    """Join the path of a section and a key of it; either may be empty."""
    return f"{at}.{key}" if at and key else at or key


@cache
def settings_of(kind: type) -> dict[str, Setting]:
    """List the settings of a class by the names of its fields, in their order."""
    hints = get_type_hints(kind, include_extras=True)
    notes = {field.name: getattr(hints[field.name], "__metadata__", ()) for field in fields(kind)}
    return {name: note for name, of in notes.items() for note in of if isinstance(note, Setting)}
