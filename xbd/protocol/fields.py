"""Checked reading of what a peer sent: from `untrusted_...` to bounded values, or a clear refusal.

A method's parameters are declared as a table of `Param`s (`xbd.protocol.methods`); `check_params` checks
a call against it. Everything that can be wrong becomes a `BadArgument` that names the parameter, what it
was and what was expected. Errors are written for the wire, and read from it, here too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from xbd import errors
from xbd.abi import MAX_EXTENTS, MAX_NAME_CHARS
from xbd.errors import BadArgument, HypercallError, RemoteProtocolError
from xbd.protocol.quoting import quote

if TYPE_CHECKING:
    from xbd.abi import Frames, Words

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

Check = Callable[[str, object], object]


@dataclass(frozen=True, slots=True)
class Required:
    """Stands where a parameter has no default."""


REQUIRED: Final = Required()


@dataclass(frozen=True, slots=True)
class Param:
    """A parameter of a method: how it is checked, what it means, and its default."""

    check: Check
    doc: str
    default: object = REQUIRED


def check_params(method: str, params: Mapping[str, Param], untrusted: object) -> dict[str, Any]:
    """Check a call's parameters against the method's table, and fill in defaults.

    Args:
        method: its name, for the message.
        params: name to `Param`.
        untrusted: what came: an array of one map, a map, or an empty array.

    Raises:
        BadArgument: no map, an unknown, missing or wrong parameter.
    """
    untrusted_map = _only_map(method, untrusted)
    checked: dict[str, Any] = {}
    known = 0
    for name, param in params.items():
        if name in untrusted_map:
            known += 1
            checked[name] = param.check(name, untrusted_map[name])
        elif param.default is REQUIRED:
            raise BadArgument(f"{method}: {name} is missing", _names(params))
        else:
            checked[name] = param.default
    if known < len(untrusted_map):
        unknown = next(name for name in untrusted_map if name not in params)
        raise BadArgument(f"{method}: unknown parameter {quote(unknown)}", _names(params))
    return checked


def _only_map(method: str, untrusted: object) -> dict[object, object]:
    if type(untrusted) is list and len(untrusted) <= 1:
        untrusted = untrusted[0] if untrusted else {}
    if type(untrusted) is dict:
        return untrusted
    raise BadArgument(f"{method}: parameters of type {type(untrusted).__name__}", "an array of one map, name to value")


def _names(params: Mapping[str, Param]) -> str:
    return f"the parameters {', '.join(params)}" if params else "no parameters"


# -- checks: each takes a parameter's name and its untrusted value


def integer(low: int, high: int) -> Check:
    """Make a check for whole numbers from *low* to *high*."""

    def check(name: str, untrusted: object) -> int:
        if type(untrusted) is int and low <= untrusted <= high:
            return untrusted
        raise BadArgument(f"{name} is {quote(untrusted)}", f"a whole number from {low} to {high}")

    return check


def choice(choices: Sequence[str]) -> Check:
    """Make a check for one of *choices*."""

    def check(name: str, untrusted: object) -> str:
        if type(untrusted) is str and untrusted in choices:
            return untrusted
        raise BadArgument(f"{name} is {quote(untrusted)}", f"one of {', '.join(choices)}")

    return check


def flag(name: str, untrusted: object) -> bool:
    """Check for true or false."""
    if type(untrusted) is bool:
        return untrusted
    raise BadArgument(f"{name} is {quote(untrusted)}", "true or false")


def text(max_chars: int = MAX_TEXT_CHARS) -> Check:
    """Make a check for printable text of 1 to *max_chars* characters."""

    def check(name: str, untrusted: object) -> str:
        if type(untrusted) is str and 0 < len(untrusted) <= max_chars and untrusted.isprintable():
            return untrusted
        raise BadArgument(f"{name} is {quote(untrusted)}", f"printable text of 1 to {max_chars} characters")

    return check


def optional(check: Check) -> Check:
    """Make a check that also lets nil through."""
    return lambda name, untrusted: None if untrusted is None else check(name, untrusted)


def domain(name: str, untrusted: object) -> int | str:
    """Check for a domain's name or its number."""
    if type(untrusted) is int and untrusted >= 0:
        return untrusted
    if type(untrusted) is str and 0 < len(untrusted) <= MAX_NAME_CHARS and untrusted.isprintable():
        return untrusted
    raise BadArgument(f"{name} is {quote(untrusted)}", "a domain's name or number")


def settings(name: str, untrusted: object) -> dict[str, object]:
    """Check for a map of plain values, lists of these, and maps of these, two levels down."""
    return _plain_map(name, untrusted, levels=2)


def statistics(name: str, untrusted: object) -> dict[str, object]:
    """Check for a flat map of plain values, as agents report them, of at most `MAX_REPORT_BYTES`."""
    checked = _plain_map(name, untrusted, levels=0)
    written = sum(
        len(part.encode()) if isinstance(part, str) else _NUMBER_BYTES for row in checked.items() for part in row
    )
    if written > MAX_REPORT_BYTES:
        raise BadArgument(f"{name} of {written} bytes", f"at most {MAX_REPORT_BYTES}")
    return checked


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


def frames(name: str, untrusted: object) -> Frames:
    """Check for a list of extent bases: bin, little-endian uint64, each below 2**63; read in place, never copied.

    Returns:
        (n,) int64, read only, n at most `MAX_EXTENTS`. Range and alignment are checked by the machine.
    """
    if type(untrusted) is not bytes:
        raise BadArgument(f"{name} is of type {type(untrusted).__name__}", "bin, little-endian uint64")
    if len(untrusted) & 7 or len(untrusted) > 8 * MAX_EXTENTS:
        raise BadArgument(f"{name} has {len(untrusted)} bytes", f"8 for each gfn, at most {MAX_EXTENTS} gfns")
    import numpy as np  # noqa: PLC0415 - clients read the tables that name this check, and do not wait for it

    if not untrusted:
        return np.zeros(0, dtype=np.int64)
    gfns: Frames = np.frombuffer(untrusted, dtype="<i8")
    # As int64 what is 2**63 or more is negative; one reduction finds all of it.
    if np.minimum.reduce(gfns) < 0:
        index = int((gfns < 0).argmax())
        raise BadArgument(f"{name}: gfn {int(gfns[index]) + (1 << 64):#x} at index {index}", "gfns below 2**63")
    return gfns


def words(name: str, untrusted: object) -> Words:
    """Check for content words: bin, little-endian uint64, at most `MAX_EXTENTS` of them."""
    if type(untrusted) is not bytes:
        raise BadArgument(f"{name} is of type {type(untrusted).__name__}", "bin, little-endian uint64")
    if len(untrusted) & 7 or len(untrusted) > 8 * MAX_EXTENTS:
        raise BadArgument(f"{name} has {len(untrusted)} bytes", f"8 for each word, at most {MAX_EXTENTS} words")
    import numpy as np  # noqa: PLC0415 - as above

    content: Words = np.frombuffer(untrusted, dtype="<u8")
    return content


# -- errors as they travel

_ERRORS_BY_ERRNO: Final[dict[str, type[HypercallError]]] = {
    kind.errno: kind
    for kind in (
        errors.BadArgument,
        errors.NoSuchDomain,
        errors.NotPermitted,
        errors.OutOfFrames,
        errors.NotSupported,
        errors.AlreadyExists,
        errors.Busy,
    )
}


def error_map(error: HypercallError) -> dict[str, str]:
    """Write a refusal for the wire: `{errno, message, expected}`."""
    return {"errno": error.errno, "message": error.message, "expected": error.expected}


def error_from_map(untrusted: object) -> HypercallError:
    """Read an answer's error map back into the exception that the server raised.

    Raises:
        RemoteProtocolError: it is no such map.
    """
    match untrusted:
        case {"errno": str(errno), "message": str(message), "expected": str(expected)}:
            kind = _ERRORS_BY_ERRNO.get(errno, HypercallError)
            return kind(_printable(message), _printable(expected), errno=_printable(errno))
        case _:
            raise RemoteProtocolError(f"an error {quote(untrusted)}", "a map of errno, message and expected")


def _printable(untrusted: str) -> str:
    """Make a peer's text safe to print: one line, no control characters, of bounded length."""
    return "".join(char if char.isprintable() else "?" for char in untrusted[:MAX_TEXT_CHARS])
