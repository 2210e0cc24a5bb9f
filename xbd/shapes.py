"""Shapes of values that cross a socket: each is declared once, as a check and as the JSON Schema that says the same.

A map's parts (the parameters of a call, the keys of an answer) are `Part`s, by name. A dataclass declares its own with
`Annotated`; `parts_of` reads them. Whatever fails a check is a `BadArgument` that names what was wrong and what was
expected. What JSON has no words for is said by `format`: `printable` (text of one line, no control characters) and
`bin` (MessagePack's bin: `x-items` says of what, and `x-maxItems` how many of them at most).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, Final, get_type_hints

from xbd.errors import BadArgument
from xbd.text import quote

# What a message may hold of one text: a line to be shown to a person.
MAX_TEXT_CHARS: Final = 1024
# Settings and statistics have some thirty names; twice that, and some.
MAX_MAP_ENTRIES: Final = 100
# All of one report, packed: those of xbd's own guests have some 1.5 KB. `list` answers those of all domains at once.
MAX_REPORT_BYTES: Final = 4096
# A packed number takes at most 8 bytes and one for its type.
_NUMBER_BYTES: Final = 9
# The longest list in settings is that of a workload's phases; no settings file comes near this.
MAX_LIST_ITEMS: Final = 256

Check = Callable[[str, object], Any]
Schema = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Shape:
    """What a value must be.

    Attributes:
        check: takes the value's name and the untrusted value; returns the value, bounded, or raises BadArgument.
        schema: the same as a JSON Schema.
        types: the Python types that such a value can have when it comes from a peer of another version.
    """

    check: Check
    schema: Schema
    types: tuple[type, ...]


@dataclass(frozen=True, slots=True)
class Required:
    """Stands where a part has no default."""


REQUIRED: Final = Required()


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a map: its shape, what it means, and its default; *check* is its shape's."""

    shape: Shape
    doc: str
    default: object = REQUIRED
    check: Check = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Found without a detour: it is called for each parameter of each call.
        object.__setattr__(self, "check", self.shape.check)

    @property
    def schema(self) -> dict[str, object]:
        """Return its shape's schema with what it means, and its default."""
        default = {} if self.default is REQUIRED else {"default": self.default}
        return {**self.shape.schema, "description": self.doc, **default}


def parts_of(declared: type) -> dict[str, Part]:
    """List the parts that a dataclass declares, in order; fields that are not annotated with a `Part` are none."""
    hints = get_type_hints(declared, include_extras=True)
    parts = {}
    for one in fields(declared):
        part = next((note for note in getattr(hints[one.name], "__metadata__", ()) if isinstance(note, Part)), None)
        if part is not None:
            made = one.default_factory() if one.default_factory is not MISSING else one.default
            parts[one.name] = part if made is MISSING else replace(part, default=made)
    return parts


def record(parts: Mapping[str, Part | Schema], *, closed: bool = False) -> Schema:
    """Make the schema of a map of *parts*; those given as mere schemas must be there; *closed*: and nothing else."""
    required = [name for name, part in parts.items() if not isinstance(part, Part) or part.default is REQUIRED]
    properties = {name: part.schema if isinstance(part, Part) else part for name, part in parts.items()}
    more = {"additionalProperties": False} if closed else {}
    return {"type": "object", "properties": properties, "required": required, **more}


def array_of(items: Schema) -> Schema:
    """Make the schema of an array of any length."""
    return {"type": "array", "items": items}


# -- shapes


def integer(low: int, high: int) -> Shape:
    """Make the shape of whole numbers from *low* to *high*."""

    def check(name: str, untrusted: object) -> int:
        if type(untrusted) is int and low <= untrusted <= high:
            return untrusted
        raise BadArgument(f"{name} is {quote(untrusted)}", f"a whole number from {low} to {high}")

    return Shape(check, {"type": "integer", "minimum": low, "maximum": high}, (int,))


def integers(low: int, high: int, most: int) -> Shape:
    """Make the shape of at most *most* whole numbers from *low* to *high*; the check returns a list."""
    each = integer(low, high)

    def check(name: str, untrusted: object) -> list[int]:
        if type(untrusted) is not list or len(untrusted) > most:
            raise BadArgument(f"{name} is {quote(untrusted)}", f"a list of at most {most} whole numbers")
        return [each.check(name, item) for item in untrusted]

    return Shape(check, {"type": "array", "items": each.schema, "maxItems": most}, (list,))


def _share(name: str, untrusted: object) -> float:
    if type(untrusted) is float and 0 <= untrusted <= 1:
        return untrusted
    raise BadArgument(f"{name} is {quote(untrusted)}", "a share, from 0.0 to 1.0")


SHARE: Final = Shape(_share, {"type": "number", "minimum": 0, "maximum": 1}, (float,))


def _seconds(name: str, untrusted: object) -> float:
    if type(untrusted) is float and math.isfinite(untrusted):
        return untrusted
    raise BadArgument(f"{name} is {quote(untrusted)}", "seconds, as a float")


SECONDS: Final = Shape(_seconds, {"type": "number"}, (float,))


def choice(choices: Sequence[str]) -> Shape:
    """Make the shape of one of *choices*."""

    def check(name: str, untrusted: object) -> str:
        if type(untrusted) is str and untrusted in choices:
            return untrusted
        raise BadArgument(f"{name} is {quote(untrusted)}", f"one of {', '.join(choices)}")

    return Shape(check, {"type": "string", "enum": [str(one) for one in choices]}, (str,))


def member(kind: type[StrEnum]) -> Shape:
    """Make the shape of the name of one of an enum's members; the check returns the member."""
    named = choice(tuple(kind))
    return replace(named, check=lambda name, untrusted: kind(str(named.check(name, untrusted))))


def _flag(name: str, untrusted: object) -> bool:
    if type(untrusted) is bool:
        return untrusted
    raise BadArgument(f"{name} is {quote(untrusted)}", "true or false")


FLAG: Final = Shape(_flag, {"type": "boolean"}, (bool,))


def text(max_chars: int = MAX_TEXT_CHARS) -> Shape:
    """Make the shape of printable text of 1 to *max_chars* characters."""

    def check(name: str, untrusted: object) -> str:
        if type(untrusted) is str and 0 < len(untrusted) <= max_chars and untrusted.isprintable():
            return untrusted
        raise BadArgument(f"{name} is {quote(untrusted)}", f"printable text of 1 to {max_chars} characters")

    return Shape(check, {"type": "string", "minLength": 1, "maxLength": max_chars, "format": "printable"}, (str,))


def optional(shape: Shape) -> Shape:
    """Make the shape of what may also be nil."""
    return Shape(
        lambda name, untrusted: None if untrusted is None else shape.check(name, untrusted),
        {"anyOf": [shape.schema, {"type": "null"}]},
        (*shape.types, type(None)),
    )


_PLAIN_SCHEMA: Final = {"type": ["string", "number", "integer", "boolean", "null"]}
_LIST_SCHEMA: Final = {"type": "array", "items": _PLAIN_SCHEMA, "maxItems": MAX_LIST_ITEMS}


def _map_schema(levels: int) -> dict[str, object]:
    within: Schema = {"anyOf": [_PLAIN_SCHEMA, _LIST_SCHEMA, _map_schema(levels - 1)]} if levels else _PLAIN_SCHEMA
    return {"type": "object", "maxProperties": MAX_MAP_ENTRIES, "additionalProperties": within}


def _settings(name: str, untrusted: object) -> dict[str, object]:
    return _plain_map(name, untrusted, levels=2)


# A map of plain values, lists of these, and maps of these, two levels down.
SETTINGS: Final = Shape(_settings, _map_schema(2), (dict,))


def _statistics(name: str, untrusted: object) -> dict[str, object]:
    checked = _plain_map(name, untrusted, levels=0)
    written = sum(
        len(part.encode()) if isinstance(part, str) else _NUMBER_BYTES for row in checked.items() for part in row
    )
    if written > MAX_REPORT_BYTES:
        raise BadArgument(f"{name} of {written} bytes", f"at most {MAX_REPORT_BYTES}")
    return checked


# A flat map of plain values, as agents report them, of at most `MAX_REPORT_BYTES`.
STATISTICS: Final = Shape(_statistics, _map_schema(0), (dict,))


def _counts(name: str, untrusted: object) -> dict[str, int]:
    if type(untrusted) is dict and all(type(key) is str and type(count) is int for key, count in untrusted.items()):
        return untrusted
    raise BadArgument(f"{name} is {quote(untrusted)}", "a map from names to whole numbers")


# A map from names to numbers of times.
COUNTS: Final = Shape(_counts, {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0}}, (dict,))


def _plain_map(name: str, untrusted: object, *, levels: int) -> dict[str, object]:
    if type(untrusted) is not dict or len(untrusted) > MAX_MAP_ENTRIES:
        raise BadArgument(f"{name} is {quote(untrusted)}", f"a map of at most {MAX_MAP_ENTRIES} entries")
    checked: dict[str, object] = {}
    for untrusted_key, untrusted_value in untrusted.items():
        key = _plain_text(name, untrusted_key)
        where = f"{name}.{key}"
        if levels and type(untrusted_value) is dict:
            checked[key] = _plain_map(where, untrusted_value, levels=levels - 1)
        elif levels and type(untrusted_value) is list:
            checked[key] = _plain_list(where, untrusted_value)
        else:
            checked[key] = _plain_value(where, untrusted_value)
    return checked


def _plain_list(name: str, untrusted: list[object]) -> list[object]:
    if len(untrusted) > MAX_LIST_ITEMS:
        raise BadArgument(f"{name} has {len(untrusted)} items", f"at most {MAX_LIST_ITEMS}")
    return [_plain_value(name, item) for item in untrusted]


def _plain_value(name: str, untrusted: object) -> object:
    if untrusted is None or type(untrusted) in (bool, int):
        return untrusted
    if type(untrusted) is float and math.isfinite(untrusted):
        return untrusted
    if type(untrusted) is str:
        return _plain_text(name, untrusted) if untrusted else ""
    raise BadArgument(f"{name} is {quote(untrusted)}", "text, a finite number, true, false or nil")


def _plain_text(name: str, untrusted: object) -> str:
    if type(untrusted) is str and 0 < len(untrusted) <= MAX_TEXT_CHARS and untrusted.isprintable():
        return untrusted
    raise BadArgument(f"{name}: {quote(untrusted)}", f"printable text of 1 to {MAX_TEXT_CHARS} characters")


def binary(check: Check, items: str, at_most: int | None) -> Shape:
    """Make the shape of a bin of *items*, checked by *check*; *at_most* so many of them, None: any number."""
    bound = {} if at_most is None else {"x-maxItems": at_most}
    return Shape(check, {"format": "bin", "x-items": items, **bound}, (bytes,))
