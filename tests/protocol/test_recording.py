"""Recordings: whatever was done is written as it was, and read back."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from xbd import abi
from xbd.protocol.recording import (
    BadRecording,
    command_from_line,
    command_to_line,
    numbers_to_runs,
    read_header,
    read_line,
    runs_to_numbers,
)

RUNS = st.lists(
    st.builds(
        lambda first, count, step: np.abs(first + step * np.arange(count, dtype=np.int64)),
        st.integers(0, 1 << 40),
        st.integers(1, 600),
        st.integers(-3, 3),
    ),
    max_size=6,
).map(lambda parts: np.concatenate([np.zeros(0, dtype=np.int64), *parts]))
GFNS = RUNS | hnp.arrays(np.int64, st.integers(0, 40), elements=st.integers(0, (1 << 62) - 1))
WORDS = hnp.arrays(np.uint64, st.integers(0, 40), elements=st.integers(0, (1 << 64) - 1)) | RUNS.map(
    lambda runs: runs.view(np.uint64)
)


@given(GFNS)
def test_numbers_survive_as_runs(numbers: np.ndarray) -> None:
    """Any list of numbers is read back as it was, and what is mostly runs is short."""
    runs = json.loads(json.dumps(numbers_to_runs(numbers)))
    assert (runs_to_numbers(runs) == numbers).all()


@given(WORDS)
def test_words_survive_as_runs(words: np.ndarray) -> None:
    """So do content words, all 64 bits of them."""
    runs = json.loads(json.dumps(numbers_to_runs(words)))
    assert (runs_to_numbers(runs, words=True) == words).all()


def test_a_batch_is_one_run() -> None:
    """What a driver asks for is written in a few characters."""
    assert numbers_to_runs(np.arange(1023, 511, -1, dtype=np.int64)) == [[1023, 512, -1]]
    assert numbers_to_runs(np.array([5, 9, 10, 11, 40], dtype=np.int64)) == [5, [9, 3, 1], 40]


ORDERS = st.sampled_from((0, 9))
COMMANDS: st.SearchStrategy[abi.Command] = st.one_of(
    st.builds(abi.Populate, GFNS, ORDERS),
    st.builds(abi.Decrease, GFNS, ORDERS),
    st.builds(lambda gfns, order: abi.Exchange(gfns, gfns[::-1].copy(), order, order), GFNS, ORDERS),
    st.builds(lambda gfns, order: abi.PopulateDepopulate(gfns, gfns[::-1].copy(), order), GFNS, ORDERS),
    st.builds(abi.Load, GFNS),
    GFNS.map(lambda gfns: abi.Store(gfns, gfns.view(np.uint64))),
    st.builds(abi.Inflate, GFNS),
    st.builds(abi.Grant, GFNS, st.integers(0, 9), st.booleans()),
    st.builds(abi.EndGrant, GFNS),
    st.builds(lambda gfns, owner: abi.MapGrant(owner, gfns, gfns[::-1].copy()), GFNS, st.integers(0, 9)),
    st.builds(abi.UnmapGrant, GFNS),
    st.builds(abi.Send, st.integers(0, 9), WORDS),
    st.builds(abi.Receive, st.integers(1, abi.MAX_WORDS)),
)


@given(COMMANDS)
def test_commands_survive(command: abi.Command) -> None:
    """Any command is read back field by field."""
    line = json.loads(json.dumps(command_to_line(3, command)))
    read = command_from_line(line)
    assert type(read) is type(command)
    for name in type(command).__dataclass_fields__:
        assert np.array_equal(getattr(read, name), getattr(command, name))


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"operation": "hello"}, "operation 'hello'"),
    ({"operation": 5}, "operation 5"),
    ({"operation": "populate"}, "gfns is missing"),
    ({"operation": "populate", "gfns": 7}, "numbers 7"),
    ({"operation": "populate", "gfns": [[1, 0, 1]]}, "numbers"),
    ({"operation": "populate", "gfns": [[1, 1 << 40, 1]]}, "numbers"),
    ({"operation": "populate", "gfns": ["a"]}, "numbers 'a'"),
    ({"operation": "populate", "gfns": [1], "order": "x"}, "order is 'x'"),
]


@pytest.mark.parametrize(("line", "said"), WRONG)
def test_what_is_no_hypercall_says_why(line: dict[str, Any], said: str) -> None:
    """A line that somebody has edited is refused with what was wrong."""
    with pytest.raises(BadRecording, match=said):
        command_from_line(line)


@pytest.mark.parametrize("text", ["", "[]", "{", '"a"'])
def test_what_is_no_line_says_why(text: str) -> None:
    """Neither is anything that is not a map in JSON."""
    with pytest.raises(BadRecording, match=r"JSON|a list|a str"):
        read_line(text)


@pytest.mark.parametrize("line", [{}, {"format": 2}, {"format": 1, "superframes": 0, "settings": {}, "xbd": "1"}])
def test_what_is_no_header_says_why(line: dict[str, Any]) -> None:
    """A recording says first what machine it was."""
    with pytest.raises(BadRecording, match=r"format 2|does not describe a host"):
        read_header(line)
