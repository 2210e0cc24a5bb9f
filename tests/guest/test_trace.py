"""Reading traces: text to arrays, and errors that name the line."""

import pytest

from xbd.errors import TraceError
from xbd.guest.workload import parse_trace

HEADER = "t_s,total_pages,free_pages,free_superframes,page_cache_pages,host_resident_pages\n"
GOOD = HEADER + "0.0,1000,700,1,100,300\n0.7,1000,500,0,150,500\n"


def test_a_trace_says_what_programs_hold() -> None:
    """Used pages are split into page cache and the rest."""
    trace = parse_trace(GOOD, "t.csv")
    assert (trace.total_pages, trace.samples) == (1000, 2)
    assert trace.anon_pages.tolist() == [200, 350]
    assert trace.cache_pages.tolist() == [100, 150]
    assert trace.free_superframes.tolist() == [1, 0]
    assert trace.seconds.tolist() == [0.0, 0.7]
    assert trace.allocated_and_freed_pages == 350 + 150


def test_columns_that_replay_does_not_need_may_be_missing() -> None:
    """Order and extra columns do not matter either."""
    trace = parse_trace("free_pages,x,t_s,page_cache_pages,total_pages\r\n7,hello,1,2,10\r\n", "t.csv")
    assert trace.anon_pages.tolist() == [1]
    assert trace.free_superframes.size == 0


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("", 1, "empty"),
        ("t_s,free_pages\n", 1, "total_pages, page_cache_pages"),
        (HEADER, 2, "no samples"),
        (GOOD + "1.0,1000,700,1\n", 4, "4 columns"),
        (GOOD + "1.0,1000,many,1,100,300\n", 4, "not a number"),
        (GOOD + "1.0,1000,7.5,1,100,300\n", 4, "not a number"),
        (GOOD + "\n1.0,1000,700,1,100,300\n", 4, "1 columns"),
        (GOOD + "1.0,1000,-1,1,100,300\n", 4, "out of range"),
        (GOOD + "nan,1000,700,1,100,300\n", 4, "out of range"),
        (GOOD + "1.0,99999999999,700,1,100,300\n", 4, "out of range"),
        (GOOD + f"1.0,{1 << 29},700,1,100,300\n", 4, "and 67108864 pages"),
        (GOOD + "0.1,1000,700,1,100,300\n", 4, "backwards"),
        (GOOD + "1.0,1001,700,1,100,300\n", 4, "total_pages changes"),
        (GOOD + "1.0,1000,700,1,301,300\n", 4, "more than total_pages"),
    ],
)
def test_a_broken_line_is_named(text: str, line: int, reason: str) -> None:
    """Every error says which file, which line, and why."""
    with pytest.raises(TraceError, match=rf"t\.csv: line {line}: .*{reason}"):
        parse_trace(text, "t.csv")
