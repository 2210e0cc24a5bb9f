"""What `xbd top` shows, from two looks at a host."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.views import MIB, domain
from xbd.cli.top_view import COLUMNS, Sample, ViewOptions, fitting, row_map, rows_of, screen, sort_rows

HOST = {"name": "small", "frames": 2048 * MIB, "free_frames": 512 * MIB, "free_in_whole_superframes": 0.5}


def sample(at_s: float, calls: int = 0, count: int = 2) -> Sample:
    """Make a sample of a host of *count* domains, each of which has made *calls* more calls than the one before it."""
    domains = [
        domain(
            domid=number,
            name=f"web{number}",
            tot_pages=(512 - number) * MIB,
            hypercalls={"decrease:done": calls * number, "populate:ENOMEM": 5},
            report={"balloon_2m_pages": 1024, "balloon_4k_pages": 3, "slots": "many"},
        )
        for number in range(1, count + 1)
    ]
    return Sample(at_s, HOST, domains)


def test_rates_are_of_one_domain() -> None:
    """What a domain's number and name belonged to before is not counted against it."""
    before, now = (
        Sample(at_s, HOST, [domain(uuid=uuid, hypercalls={"decrease:done": calls})])
        for at_s, uuid, calls in ((0.0, "one", 100), (1.0, "other", 300))
    )
    assert [row.calls_s for row in rows_of(before, now)] == [0.0]
    assert [row.calls_s for row in rows_of(now, replace(now, at_s=2.0))] == [0.0]


def test_a_wide_terminal_shows_every_column() -> None:
    """Host, header, domains by memory, keys; rates are of the time between the looks."""
    lines = screen(sample(0.0), sample(2.0, calls=100), ViewOptions(), width=140, height=24)

    assert lines == [
        "xbd small: 2 domains (2 running), 2 not at target",
        "mem 2,048 MiB, 512 free, 50.0% of that in whole superframes",
        "",
        "NAME                ID STATE     MEM(M)  TARGET  SUPER%   CALLS/S  2M-QUEUE  4K-PAGES  FOREIGN   LIMIT  MIN(M) MODE        ",
        "web1                 1 running      511     512  100.0%        50         4         3        0     512       0 normal      ",
        "web2                 2 running      510     512  100.0%       100         4         3        0     512       0 normal      ",
        "q quit  s sort  r reverse  p pause  arrows scroll  (by mem)",
    ]


def test_a_narrow_terminal_shows_what_matters_most() -> None:
    """Columns go from the right, and no line is longer than the terminal."""
    lines = screen(sample(0.0), sample(1.0), ViewOptions(by="name", reverse=True, paused=True), width=40, height=24)

    assert lines[3] == "NAME                ID STATE     MEM(M)"
    assert [line[:4] for line in lines[4:6]] == ["web2", "web1"]
    assert lines[-1].startswith("q quit  s sort")
    assert max(map(len, lines)) <= 40


@given(st.integers(1, 200), st.integers(1, 60), st.integers(0, 40), st.integers(0, 50))
def test_every_screen_is_filled_and_none_overflows(width: int, height: int, count: int, offset: int) -> None:
    """Whatever the terminal's size, the number of domains and how far one has scrolled."""
    lines = screen(None, sample(1.0, count=count), ViewOptions(offset=offset), width=width, height=height)

    assert len(lines) <= height
    assert all(len(line) <= width for line in lines)
    shown = [line for line in lines if line.startswith("web")]
    assert len(shown) == (min(count, max(height - 5, 1)) if height > 4 and width > 3 else len(shown))


@pytest.mark.parametrize("by", list(COLUMNS))
def test_every_column_sorts_both_ways(by: str) -> None:
    """Numbers from the largest down, words from A up, and the other way round."""
    rows = rows_of(sample(0.0, count=7), sample(1.0, calls=3, count=7))
    keys = [COLUMNS[by].key(row) for row in sort_rows(rows, by, reverse=False)]
    turned = [COLUMNS[by].key(row) for row in sort_rows(rows, by, reverse=True)]

    assert keys == sorted(keys, reverse=by not in {"name", "id", "state", "mode"})
    assert turned == sorted(turned, reverse=by in {"name", "id", "state", "mode"})


def test_a_rate_is_of_one_domain() -> None:
    """A number that was given to another domain since, or that is new, has none; no count runs backwards."""
    earlier, later = sample(0.0, calls=9), sample(1.0, calls=1)
    renamed = Sample(0.0, HOST, [domain(domid=1, name="other")])

    assert [row.calls_s for row in rows_of(earlier, later)] == [0.0, 0.0]
    assert [row.calls_s for row in rows_of(renamed, later)] == [0.0, 0.0]
    assert [row.calls_s for row in rows_of(None, later)] == [0.0, 0.0]


def test_what_scrolled_away_is_counted() -> None:
    """Above and below; nobody scrolls beyond the last row."""
    lines = screen(None, sample(1.0, count=20), ViewOptions(offset=4), width=100, height=15)
    end = screen(None, sample(1.0, count=20), ViewOptions(offset=400), width=100, height=15)

    assert (lines[4][:5], "4 above" in lines[-1], "6 below" in lines[-1]) == ("web5 ", True, True)
    assert (end[-2][:5], "10 above" in end[-1], "below" in end[-1]) == ("web20", True, False)


def test_the_widest_table_has_all_columns() -> None:
    """And the narrowest still has names."""
    assert len(fitting(200, has_nodes=True)) == len(COLUMNS)
    assert [column.title for column in COLUMNS.values() if column not in fitting(200)] == ["LOCAL%"]
    assert [column.title for column in fitting(1)] == ["NAME"]


def test_json_has_the_names_that_scripts_rely_on() -> None:
    """Pages, not MiB; what a guest says that is no number counts as 0."""
    (first, *_) = rows_of(sample(0.0), sample(2.0, calls=100))

    assert row_map(first) == {
        "domid": 1,
        "name": "web1",
        "state": "running",
        "tot_pages": 511 * MIB,
        "target_pages": 512 * MIB,
        "superpage_coverage": 1.0,
        "locality": 1.0,
        "calls_s": 50.0,
        "balloon_2m_pages": 1024,
        "balloon_4k_pages": 3,
        "slots": 0,
        "report_age_s": None,
    }
