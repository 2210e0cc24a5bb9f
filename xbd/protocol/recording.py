"""The format of a recording: every operation on a machine as a line of JSON, written and read.

The first line describes the machine; then comes a line for each operation, numbered, in order:

    {"format": 1, "xbd": "...", "superframes": 2048, "settings": {"home_fill": "always", ...}}
    {"n": 1, "do": "create", "domain": 1, "name": "web", "max_pages": 65536, ...}
    {"n": 2, "do": "reboot", "domain": 1}
    {"n": 3, "do": "claim_set", "domain": 1, "claims": [{"pages": 512, "node": 0}]}
    {"n": 4, "domain": 1, "operation": "decrease", "gfns": [[511, 512, -1]], "order": 0, "answer": [512, null]}
    {"end": {"free_frames": ..., "free_superframes": ..., "leaves": {"1": 127}}}

Lists of numbers are written as runs `[first, count, step]` and single numbers, which is short for most lists.
Answers are those of the wire: `[done, stop]`, with what was read, received or granted behind it, or an
error's `{errno, message, expected}`. A daemon that was killed leaves no last line.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, cast

import numpy as np

from xbd.abi import MAX_EXTENTS, Command, Frames, GrantResult, LoadResult, Refused, Result, Words
from xbd.errors import BadArgument
from xbd.protocol.commands import command_from_params, command_to_wire
from xbd.protocol.guest_methods import DOMAIN_METHODS
from xbd.text import quote

FORMAT: Final = 1
# As many as a host file may say (64 TiB).
MAX_SUPERFRAMES: Final = 32 << 20
# What a list of numbers is made of: 64 bits, signed or not.
_HALF: Final = 1 << 63
# A run of fewer numbers is shorter when it is written number by number.
_RUN_LEAST: Final = 3
_LISTS: Final = ("gfns", "gives", "gets", "populate", "depopulate", "refs", "words")
# Operations on a machine that are no hypercalls have lines that name the domain, and the parameters by their names;
# but for those that are about no domain, whose lines name none.
HOST_OPERATIONS: Final = ("go_offline", "come_online")
Line = dict[str, Any]


class BadRecording(BadArgument):
    """A line that no recording has."""


def numbers_to_runs(numbers: Frames | Words) -> list[int | list[int]]:
    """Write (n,) numbers as runs and single numbers; differences are taken modulo 2**64."""
    if numbers.size < _RUN_LEAST:
        return [int(number) for number in numbers.tolist()]
    steps = numbers[1:].astype(np.int64) - numbers[:-1].astype(np.int64)
    edges = (np.flatnonzero(steps[1:] != steps[:-1]) + 1).tolist()
    runs: list[int | list[int]] = []
    values: list[int] = numbers.tolist()
    at = 0
    for edge in [*edges, steps.size]:
        # Numbers `at` to `edge` have one step; the next run begins behind them.
        count = edge + 1 - at
        if count >= _RUN_LEAST:
            runs.append([values[at], count, int(steps[at])])
            at = edge + 1
        else:
            runs += values[at:edge]
            at = max(at, edge)
    return runs + values[at:]


def runs_to_numbers(runs: object, *, words: bool = False) -> Frames | Words:
    """Read what `numbers_to_runs` wrote. Raises BadRecording."""
    parts: list[np.ndarray] = []
    if not isinstance(runs, list):
        raise BadRecording(f"numbers {quote(runs)}", "a list of numbers and of runs [first, count, step]")
    left = MAX_EXTENTS
    for run in runs:
        match run:
            case int(number) if -_HALF <= number < 2 * _HALF and left:
                left -= 1
                parts.append(np.array([number], dtype=np.uint64 if number >= 1 << 63 else np.int64).astype(np.int64))
            case [int(first), int(count), int(step)] if (
                0 < count <= left and -_HALF <= first < 2 * _HALF and abs(step) < _HALF
            ):
                left -= count
                begin = np.array([first], dtype=np.uint64 if first >= 1 << 63 else np.int64).astype(np.int64)
                parts.append(begin + np.arange(count, dtype=np.int64) * step)
            case _:
                expected = f"a number, or a run [first, count, step], at most {MAX_EXTENTS} numbers in all"
                raise BadRecording(f"numbers {quote(run)}", expected)
    numbers = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
    return cast(Words, numbers.view(np.uint64)) if words else cast(Frames, numbers)


def command_to_line(domid: int, command: Command) -> Line:
    """Write a hypercall, without its number and answer."""
    method, params = command_to_wire(command)
    written = {
        name: numbers_to_runs(getattr(command, name)) if isinstance(param, bytes) else param
        for name, param in params.items()
    }
    return {"domain": domid, "operation": method, **written}


def command_from_line(line: Mapping[str, Any]) -> Command:
    """Read a hypercall. Raises BadRecording."""
    operation = line.get("operation")
    if not isinstance(operation, str) or operation not in DOMAIN_METHODS or operation == "hello":
        raise BadRecording(f"operation {quote(operation)}", f"one of {', '.join(DOMAIN_METHODS)}")
    params = {
        name: runs_to_numbers(param, words=name == "words").tobytes() if name in _LISTS else param
        for name, param in line.items()
        if name in DOMAIN_METHODS[operation].params
    }
    try:
        return command_from_params(operation, [params])
    except BadArgument as error:
        raise BadRecording(error.message, error.expected) from error


def answer_to_line(result: Result) -> object:
    """Write an answer."""
    match result:
        case Refused(errno, message, expected):
            return {"errno": errno, "message": message, "expected": expected}
        case LoadResult(done, stop, words):
            return [done, stop and stop.value, numbers_to_runs(words)]
        case GrantResult(done, stop, refs):
            return [done, stop and stop.value, numbers_to_runs(refs)]
        case _:
            return [result.done, result.stop and result.stop.value]


@dataclass(frozen=True, slots=True)
class Header:
    """What a recording says of its machine."""

    superframes: int
    settings: Mapping[str, object]
    xbd: str
    nodes: Mapping[str, Any] | None = None

    def line(self) -> Line:
        """Write it; of a host of one node without these."""
        return {"format": FORMAT, **{name: part for name, part in asdict(self).items() if part is not None}}


def read_line(text: str) -> Line:
    """Read a line: a map. Raises BadRecording."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRecording(f"not JSON: {error}", "a map") from error
    if not isinstance(line, dict):
        raise BadRecording(f"a {type(line).__name__}", "a map")
    return line


def _nodes(raw: object) -> Mapping[str, Any] | None:
    """Read what a first line says of nodes; whether they make sense is the machine's to say. Raises BadRecording."""
    match raw:
        case None:
            return None
        case {"superframes": [*superframes], "distances": [*distances], **others} if not others and all(
            type(number) is int
            for row in (superframes, *distances)
            for number in (row if isinstance(row, list) else [None])
        ):
            return {"superframes": tuple(superframes), "distances": tuple(map(tuple, distances))}
    raise BadRecording(f"nodes {quote(raw)}", "superframes of each, and distances, a row for each")


def read_header(line: Line) -> Header:
    """Read the first line. Raises BadRecording."""
    match line:
        case {"format": int(version), **_others} if version != FORMAT:
            raise BadRecording(f"format {version}", f"format {FORMAT}")
        case {"format": _, "superframes": int(superframes), "settings": dict(settings), "xbd": str(xbd)} if (
            0 < superframes <= MAX_SUPERFRAMES
        ):
            return Header(superframes, settings, xbd, _nodes(line.get("nodes")))
    raise BadRecording(
        f"a first line that does not describe a host of at most {MAX_SUPERFRAMES} superframes",
        '{"format": 1, "superframes": ..., "settings": ..., "xbd": ...}',
    )
