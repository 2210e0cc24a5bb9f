"""Checked reading of what a peer sent: from `untrusted_...` to bounded values, or a clear refusal.

A method's parameters are declared as a table of `Part`s (`xbd.protocol.methods`); `check_params` checks
a call against it. Everything that can be wrong becomes a `BadArgument` that names the parameter, what it
was and what was expected. Errors are written for the wire, and read from it, here too.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from xbd import errors
from xbd.abi import MAX_EXTENTS
from xbd.errors import BadArgument, HypercallError, RemoteProtocolError
from xbd.shapes import MAX_TEXT_CHARS, REQUIRED, Part, Schema, binary, record
from xbd.text import printable, quote

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

    from xbd.abi import Frames, Words


def check_params(method: str, params: Mapping[str, Part], untrusted: object) -> dict[str, Any]:
    """Check a call's parameters against the method's table, and fill in defaults.

    Args:
        method: its name, for the message.
        params: name to `Part`.
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


def _names(params: Mapping[str, Part]) -> str:
    return f"the parameters {', '.join(params)}" if params else "no parameters"


# -- lists of numbers


@cache
def _numpy() -> ModuleType:
    """Import numpy when the first list comes: clients read the tables that name these checks, and do not wait for it."""
    return import_module("numpy")


def _packed(name: str, untrusted: object, kind: str) -> Any:  # noqa: ANN401 - an array, of what the caller says
    """Check for a list of numbers: bin, 8 bytes for each, at most `MAX_EXTENTS` of them; read in place, never copied."""
    if type(untrusted) is not bytes:
        raise BadArgument(f"{name} is of type {type(untrusted).__name__}", "bin, little-endian uint64")
    if len(untrusted) & 7 or len(untrusted) > 8 * MAX_EXTENTS:
        raise BadArgument(f"{name} has {len(untrusted)} bytes", f"8 for each, at most {MAX_EXTENTS} of them")
    return _numpy().frombuffer(untrusted, kind)


def _words(name: str, untrusted: object) -> Words:
    """Check for content words, as (n,) uint64, read only."""
    words: Words = _packed(name, untrusted, "<u8")
    return words


def _frames(name: str, untrusted: object) -> Frames:
    """Check for a list of extent bases, each below 2**63, as (n,) int64, read only.

    Range and alignment are checked by the machine.
    """
    gfns: Frames = _packed(name, untrusted, "<i8")
    # As int64 what is 2**63 or more is negative; one reduction finds all of it.
    if gfns.size and _numpy().minimum.reduce(gfns) < 0:
        index = int((gfns < 0).argmax())
        raise BadArgument(f"{name}: gfn {int(gfns[index]) + (1 << 64):#x} at index {index}", "gfns below 2**63")
    return gfns


# Extent bases or references: checked to be below 2**63; range and alignment are checked by the machine.
FRAMES: Final = binary(_frames, "uint64, little-endian, below 2^63", MAX_EXTENTS)
WORDS: Final = binary(_words, "uint64, little-endian", MAX_EXTENTS)

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
# What an error's errno says.
ERROR_KINDS: Final[dict[str, str]] = {
    "EINVAL": "the request makes no sense, whatever the state",
    "ESRCH": "no domain has this number or name",
    "EPERM": "the caller may not do this",
    "ENOMEM": "the host lacks the frames, or the daemon the memory, for all of it",
    "EOPNOTSUPP": "this host has it switched off, or has not got it",
    "EEXIST": "the name or number is taken",
    "EBUSY": "another connection or domain holds it",
    "ENFILE": "the daemon has no open file left",
    "ENOSPC": "the disk of the state directory is full",
    "EOVERFLOW": "it was done as often as can be counted",
    "EIO": "the daemon's system refuses it",
}

ERROR: Final[Schema] = record(
    {
        "errno": {"type": "string", "description": "the name of a Xen errno"},
        "message": {"type": "string", "description": "what was wrong"},
        "expected": {"type": "string", "description": "what would have been taken"},
    }
)


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
            told = [printable(part[:MAX_TEXT_CHARS]) for part in (message, expected, errno)]
            return kind(told[0], told[1], errno=told[2])
        case _:
            raise RemoteProtocolError(f"an error {quote(untrusted)}", "a map of errno, message and expected")
