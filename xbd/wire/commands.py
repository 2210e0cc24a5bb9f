"""Commands and results to and from the wire, checked and bounded on the way in.

Lists of gfns are not copied on the way in (`np.frombuffer` over the received bytes). What depends
on the domain (range, alignment, repetition) is the machine's to judge; what is decided here is that
a command is well-formed and of bounded size.
"""

from collections.abc import Callable, Mapping
from typing import Final, cast

import numpy as np

from xbd.abi import (
    BootInfo,
    Command,
    Decrease,
    Exchange,
    Features,
    Frames,
    Load,
    LoadResult,
    MemopResult,
    Populate,
    PopulateDepopulate,
    Refused,
    Result,
    Stop,
    Store,
    Words,
)
from xbd.errors import BadArgument, RemoteProtocolError
from xbd.wire import fields
from xbd.wire.codec import Response, encode_error, encode_response
from xbd.wire.protocol import DOMAIN_METHODS

_COMMANDS: Final[dict[str, Callable[..., Command]]] = {
    "populate": Populate,
    "decrease": Decrease,
    "exchange": Exchange,
    "populate_depopulate": PopulateDepopulate,
    "load": Load,
    "store": Store,
}
_STOPS: Final = {stop.value: stop for stop in Stop}


def command_from_params(method: str, untrusted_params: object) -> Command:
    """Read a memory operation as it came.

    Raises:
        BadArgument: an unknown method, or parameters that are not the method's.
    """
    make = _COMMANDS.get(method)
    if make is None:
        raise BadArgument(f"unknown method {method!r:.80}", f"one of {', '.join(DOMAIN_METHODS)}")
    command = make(**fields.check_params(method, DOMAIN_METHODS[method].params, untrusted_params))
    if isinstance(command, PopulateDepopulate) and command.populate.size != command.depopulate.size:
        raise BadArgument(
            f"populate_depopulate: {command.populate.size} gfns to populate, {command.depopulate.size} to depopulate",
            "as many of the one as of the other",
        )
    if isinstance(command, Store) and command.gfns.size != command.words.size:
        raise BadArgument(f"store: {command.gfns.size} gfns, {command.words.size} words", "one word for each gfn")
    return command


def extents_of(command: Command) -> int:
    """Count the extents that a command names: what it may cost of a turn."""
    match command:
        case Exchange():
            return int(command.gives.size)
        case PopulateDepopulate():
            return int(command.populate.size)
        case _:
            return int(command.gfns.size)


def command_to_wire(command: Command) -> tuple[str, dict[str, object]]:
    """Write a command as method and parameters."""
    match command:
        case Populate(gfns, order):
            return "populate", {"gfns": _frames_to_wire(gfns), "order": order}
        case Decrease(gfns, order):
            return "decrease", {"gfns": _frames_to_wire(gfns), "order": order}
        case PopulateDepopulate(populate, depopulate, order):
            pairs = {"populate": _frames_to_wire(populate), "depopulate": _frames_to_wire(depopulate)}
            return "populate_depopulate", {**pairs, "order": order}
        case Exchange(gives, gets, gives_order, gets_order):
            lists = {"gives": _frames_to_wire(gives), "gets": _frames_to_wire(gets)}
            return "exchange", {**lists, "gives_order": gives_order, "gets_order": gets_order}
        case Load(gfns):
            return "load", {"gfns": _frames_to_wire(gfns)}
        case Store(gfns, words):
            return "store", {"gfns": _frames_to_wire(gfns), "words": _words_to_wire(words)}


def _frames_to_wire(gfns: Frames) -> bytes:
    return gfns.astype("<i8", copy=False).tobytes()


def _words_to_wire(words: Words) -> bytes:
    return words.astype("<u8", copy=False).tobytes()


def encode_result(msgid: int, result: Result) -> bytes:
    """Pack the answer to a memory operation: `[done, stop]`, `[done, stop, words]`, or its refusal."""
    match result:
        case MemopResult(done, stop):
            return encode_response(msgid, (done, stop and stop.value))
        case LoadResult(done, stop, words):
            return encode_response(msgid, (done, stop and stop.value, _words_to_wire(words)))
        case Refused(errno, message, expected):
            return encode_error(msgid, {"errno": errno, "message": message, "expected": expected})


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
        case [int(done), stop] if 0 <= done <= asked and not isinstance(command, Load):
            return MemopResult(done, _stop(stop))
        case [int(done), stop, bytes(content)] if isinstance(command, Load) and len(content) == 8 * done <= 8 * asked:
            return LoadResult(done, _stop(stop), np.frombuffer(content, dtype="<u8"))
        case _:
            raise RemoteProtocolError(
                f"an answer {response.untrusted_result!r:.80} to {type(command).__name__} of {asked} extents",
                "[done, stop], for load [done, stop, words], done at most what was asked",
            )


def _stop(untrusted: object) -> Stop | None:
    if untrusted is None:
        return None
    if type(untrusted) is str and untrusted in _STOPS:
        return _STOPS[untrusted]
    raise RemoteProtocolError(f"a stop reason {untrusted!r:.80}", f"nil or one of {', '.join(_STOPS)}")


def boot_to_wire(boot: BootInfo) -> dict[str, object]:
    """Write what a booting guest is told (the daemon adds `resumed`, `guest`, `mode`, `shutdown`)."""
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
        },
    }


def boot_from_wire(untrusted: Mapping[str, object]) -> BootInfo:
    """Read what a booting guest is told; the daemon is believed about values, not about types.

    Raises:
        RemoteProtocolError: something is missing or of another type.
    """
    match untrusted:
        case {
            "domid": int(domid),
            "name": str(name),
            "gfn_count": int(gfn_count),
            "runs": bytes(runs),
            "target_pages": int(target_pages),
            "max_pages": int(max_pages),
            "features": {"populate_depopulate": bool(populate_depopulate), "exchange": bool(exchange)},
        } if len(runs) % 16 == 0:
            pairs = cast(Frames, np.frombuffer(runs, dtype="<i8").reshape(-1, 2))
            features = Features(populate_depopulate=populate_depopulate, exchange=exchange)
            return BootInfo(domid, name, gfn_count, pairs, target_pages, max_pages, features)
        case _:
            raise RemoteProtocolError(
                "an answer to hello that is not what a booting guest is told", "see xbd.wire.protocol"
            )
