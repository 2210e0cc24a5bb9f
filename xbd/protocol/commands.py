"""Commands and results to and from the wire, checked and bounded on the way in.

Lists of gfns are not copied on the way in (`np.frombuffer` over the received bytes). What depends
on the domain (range, alignment, repetition) is checked by the machine; here a command is checked to be
well-formed and of bounded size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields as dataclass_fields
from typing import Final, cast

import numpy as np

from xbd import abi
from xbd.abi import (
    MAX_DOMAIN_PAGES,
    MAX_DOMAINS,
    BootInfo,
    Command,
    DomainType,
    Features,
    Frames,
    GrantResult,
    LoadResult,
    MemopResult,
    PopulateDepopulate,
    Refused,
    Result,
    Stop,
    Store,
)
from xbd.errors import BadArgument, RemoteProtocolError
from xbd.protocol import fields
from xbd.protocol.codec import Response, encode_error, encode_response
from xbd.protocol.guest_methods import DOMAIN_METHODS, MULTICALL
from xbd.text import quote

# Each method's command, whose fields are the method's parameters, and the field that says how much it asks for.
_COMMANDS: Final[dict[str, tuple[type[Command], str]]] = {
    "populate": (abi.Populate, "gfns"),
    "decrease": (abi.Decrease, "gfns"),
    "exchange": (abi.Exchange, "gives"),
    "populate_depopulate": (abi.PopulateDepopulate, "populate"),
    "load": (abi.Load, "gfns"),
    "store": (abi.Store, "gfns"),
    "deflate": (abi.Deflate, "gfns"),
    "inflate": (abi.Inflate, "gfns"),
    "grant": (abi.Grant, "gfns"),
    "end_grant": (abi.EndGrant, "refs"),
    "map_grant": (abi.MapGrant, "refs"),
    "unmap_grant": (abi.UnmapGrant, "gfns"),
    "send": (abi.Send, "words"),
    "receive": (abi.Receive, "most"),
}
_ON_NODE: Final = ("node", "exact")
_METHODS: Final = {
    kind: (method, tuple(field.name for field in dataclass_fields(kind) if field.name not in _ON_NODE))
    for method, (kind, _) in _COMMANDS.items()
}
_ASKED: Final = dict(_COMMANDS.values())
# Their answers carry what was read, received or granted.
_WITH_NUMBERS: Final = (abi.Load, abi.Receive, abi.Grant)
_STOPS: Final = {stop.value: stop for stop in Stop}
_TYPES: Final = {kind.value: kind for kind in DomainType}


def command_from_params(method: str, untrusted_params: object) -> Command:
    """Read a memory operation from a call's method and raw parameters.

    Raises:
        BadArgument: an unknown method, or parameters that are not the method's.
    """
    if method not in _COMMANDS:
        raise BadArgument(f"unknown method {quote(method)}", f"one of {', '.join(DOMAIN_METHODS)}")
    command = _COMMANDS[method][0](**fields.check_params(method, DOMAIN_METHODS[method].params, untrusted_params))
    if isinstance(command, PopulateDepopulate) and command.populate.size != command.depopulate.size:
        raise BadArgument(
            f"populate_depopulate: {command.populate.size} gfns to populate, {command.depopulate.size} to depopulate",
            "as many of the one as of the other",
        )
    if isinstance(command, Store) and command.gfns.size != command.words.size:
        raise BadArgument(f"store: {command.gfns.size} gfns, {command.words.size} words", "one word for each gfn")
    return command


def commands_from_multicall(untrusted_params: object) -> list[Command | Refused]:
    """Read the memory operations of a multicall; what is wrong with one is its refusal.

    Raises:
        BadArgument: it is no list of calls.
    """
    params = fields.check_params(MULTICALL, DOMAIN_METHODS[MULTICALL].params, untrusted_params)
    return [_command_or_refusal(method, untrusted) for method, untrusted in params["calls"]]


def _command_or_refusal(method: str, untrusted_params: object) -> Command | Refused:
    if method == MULTICALL:
        return Refused("EINVAL", "a multicall in a multicall", f"one of {', '.join(_COMMANDS)}")
    try:
        return command_from_params(method, untrusted_params)
    except BadArgument as error:
        return Refused(error.errno, error.message, error.expected)


def extents_of(command: Command) -> int:
    """Count what a command names (extents, pairs, references, words): at most so much of a turn it costs."""
    asked = getattr(command, _ASKED[type(command)])
    return asked if type(asked) is int else int(asked.size)


def command_to_wire(command: Command) -> tuple[str, dict[str, object]]:
    """Write a command as method and parameters."""
    method, names = _METHODS[type(command)]
    params = {name: _to_wire(getattr(command, name)) for name in names}
    if getattr(command, "node", None) is not None:
        # Only where one is asked for: a daemon of an earlier version knows of none.
        params |= {name: getattr(command, name) for name in _ON_NODE}
    return method, params


def _to_wire(parameter: object) -> object:
    """Write an array as little-endian bin; all else is as it is."""
    if isinstance(parameter, np.ndarray):
        return parameter.astype(parameter.dtype.newbyteorder("<"), copy=False).tobytes()
    return parameter


def calls_to_wire(commands: Sequence[Command]) -> tuple[str, dict[str, object]]:
    """Write one command as its method and parameters, several as a multicall."""
    if len(commands) == 1:
        return command_to_wire(commands[0])
    return MULTICALL, {"calls": [command_to_wire(command) for command in commands]}


def encode_result(msgid: int, result: Result) -> bytes:
    """Pack the answer to an operation: `[done, stop]`, `[done, stop, words or references]`, or its refusal."""
    if type(result) is MemopResult:  # the usual case, without a match, for speed
        return encode_response(msgid, (result.done, result.stop and result.stop.value))
    error, told = _result_to_wire(result)
    return encode_response(msgid, told) if error is None else encode_error(msgid, error)


def encode_results(msgid: int, results: Sequence[Result]) -> bytes:
    """Pack the answer to a multicall: `[error, result]` for each operation."""
    return encode_response(msgid, [_result_to_wire(result) for result in results])


def _result_to_wire(result: Result) -> tuple[dict[str, str] | None, object]:
    """Write a result as error and result, of which one is None."""
    match result:
        case MemopResult(done, stop):
            return None, (done, stop and stop.value)
        case LoadResult(done, stop, words):
            return None, (done, stop and stop.value, _to_wire(words))
        case GrantResult(done, stop, refs):
            return None, (done, stop and stop.value, _to_wire(refs))
        case Refused(errno, message, expected):
            return {"errno": errno, "message": message, "expected": expected}, None


def not_begun(command: Command) -> Result:
    """Make the answer to an operation of which the turn had no place for anything: it is to be called again."""
    if isinstance(command, abi.Grant):
        return GrantResult(0, Stop.BUDGET, np.zeros(0, dtype=np.int64))
    if isinstance(command, _WITH_NUMBERS):
        return LoadResult(0, Stop.BUDGET, np.zeros(0, dtype=np.uint64))
    return MemopResult(0, Stop.BUDGET)


def results_from_response(commands: Sequence[Command], response: Response) -> list[Result]:
    """Read the answer to *commands*, called as `calls_to_wire` writes them.

    Raises:
        RemoteProtocolError: it is none, or more is done than was asked.
    """
    if len(commands) == 1 or response.untrusted_error is not None:
        return [result_from_response(command, response) for command in commands]
    match response.untrusted_result:
        case [*answers] if len(answers) == len(commands):
            return [_result_of(*both, response.msgid) for both in zip(commands, answers, strict=True)]
        case untrusted:
            raise RemoteProtocolError(
                f"an answer {quote(untrusted)} to a multicall of {len(commands)}", "[error, result] for each"
            )


def _result_of(command: Command, untrusted: object, msgid: int) -> Result:
    match untrusted:
        case [error, result]:
            return result_from_response(command, Response(msgid, error, result))
        case _:
            raise RemoteProtocolError(f"an answer {quote(untrusted)} in that to a multicall", "[error, result]")


def result_from_response(command: Command, response: Response) -> Result:
    """Read the answer to *command*.

    Raises:
        RemoteProtocolError: it is none, or more is done than was asked.
    """
    if response.untrusted_error is not None:
        error = fields.error_from_map(response.untrusted_error)
        return Refused(error.errno, error.message, error.expected)
    asked = extents_of(command)
    match response.untrusted_result:
        case [int(done), stop] if 0 <= done <= asked and not isinstance(command, _WITH_NUMBERS):
            return MemopResult(done, _stop(stop))
        case [int(done), stop, bytes(numbers)] if (
            isinstance(command, _WITH_NUMBERS) and len(numbers) == 8 * done <= 8 * asked
        ):
            if isinstance(command, abi.Grant):
                return GrantResult(done, _stop(stop), cast(Frames, np.frombuffer(numbers, dtype="<i8")))
            return LoadResult(done, _stop(stop), np.frombuffer(numbers, dtype="<u8"))
        case _:
            raise RemoteProtocolError(
                f"an answer {quote(response.untrusted_result)} to {type(command).__name__} of {asked}",
                "[done, stop], for load, receive and grant [done, stop, numbers], done at most what was asked",
            )


def _stop(untrusted: object) -> Stop | None:
    if untrusted is None:
        return None
    if type(untrusted) is str and untrusted in _STOPS:
        return _STOPS[untrusted]
    raise RemoteProtocolError(f"a stop reason {quote(untrusted)}", f"nil or one of {', '.join(_STOPS)}")


def boot_to_wire(boot: BootInfo) -> dict[str, object]:
    """Write the boot map, hello's answer to a guest (the daemon adds `resumed`, `guest`, `mode`, `shutdown`)."""
    return {
        "domid": boot.domid,
        "name": boot.name,
        "gfn_count": boot.gfn_count,
        "runs": boot.runs.astype("<i8", copy=False).tobytes(),
        "target_pages": boot.target_pages,
        "max_pages": boot.max_pages,
        "features": {
            "populate_depopulate": boot.features.populate_depopulate,
            "exchange": boot.features.exchange,
            "grants": boot.features.grants,
        },
        "type": boot.domain_type.value,
    }


def boot_from_wire(untrusted: Mapping[str, object]) -> BootInfo:
    """Read the answer to hello that boots a guest, and check that its numbers are within bounds.

    Raises:
        RemoteProtocolError: something is missing, of another type, or out of all bounds.
    """
    match untrusted:
        case {
            "domid": int(domid),
            "name": str(name),
            "gfn_count": int(gfn_count),
            "runs": bytes(runs),
            "target_pages": int(target_pages),
            "max_pages": int(max_pages),
            "features": {
                "populate_depopulate": bool(populate_depopulate),
                "exchange": bool(exchange),
                "grants": bool(grants),
            },
            "type": str(kind),
        } if len(runs) % 16 == 0 and kind in _TYPES and _within_bounds(domid, gfn_count, target_pages, max_pages):
            pairs = cast(Frames, np.frombuffer(runs, dtype="<i8").reshape(-1, 2))
            if not _ascend_within(pairs.ravel(), gfn_count):
                raise RemoteProtocolError("runs of populated gfns out of order", f"ascending, from 0 to {gfn_count}")
            features = Features(populate_depopulate=populate_depopulate, exchange=exchange, grants=grants)
            return BootInfo(domid, name, gfn_count, pairs, target_pages, max_pages, features, _TYPES[kind])
        case _:
            raise RemoteProtocolError(
                "an answer to hello that is not what a booting guest is told", "see xbd.protocol.methods"
            )


def _within_bounds(domid: int, *pages: int) -> bool:
    """Tell whether these numbers are within the bounds of all domains."""
    return 0 <= domid < MAX_DOMAINS and all(0 <= count <= MAX_DOMAIN_PAGES for count in pages)


def _ascend_within(ends: Frames, gfn_count: int) -> bool:
    """Tell whether the ends of runs rise from 0 to *gfn_count* at most."""
    return ends.size == 0 or bool(ends[0] >= 0 and ends[-1] <= gfn_count and np.all(ends[1:] >= ends[:-1]))
