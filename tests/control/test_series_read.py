"""A series is read as it was written; what is none is refused, with its line."""

import zlib

import pytest

from tests.cli.views import told
from xbd.control.series import header, lines_of
from xbd.control.series_read import runs_of
from xbd.domain import read_domain

HOST = {"frames": 4096, "free_frames": 1024, "claimed_frames": 0, "free_superframes": 2, "shattered_superframes": 1}


def test_what_is_written_is_read() -> None:
    """Two runs of two moments, with a domain whose name wants quoting; the text of each moment is that which was written."""
    domain = read_domain(told(name='a,"b"'))
    written = {(run, t_s): lines_of(run, t_s, HOST, [domain]) for t_s in (0.0, 1.5) for run in ("stock", "full")}
    runs = runs_of((header() + "".join(written.values())).splitlines(keepends=True))

    assert {run: [one.t_s for one in moments] for run, moments in runs.items()} == {"stock": [0, 1.5], "full": [0, 1.5]}
    for run, moments in runs.items():
        for one in moments:
            assert zlib.decompress(one.series).decode() == header() + written[run, one.t_s]
            assert (one.host["held_pages"], one.host["free_superframes"]) == (3072, 2)


def test_a_torn_last_line_is_left_out() -> None:
    """Its writer did not finish it, or goes on."""
    whole = header() + lines_of("r", 1.0, HOST, [])

    assert [one.t_s for one in runs_of([*whole.splitlines(keepends=True), "r,2.0,ho"])["r"]] == [1.0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no rows"),
        ("{}\n", "no column run"),
        ("time,x\n1,2\n", "no column run"),
        ("run,t_s,kind,held_pages\n", "no rows"),
        ("run,t_s,kind,held_pages\nr,1,host\n", "line 2 has 3 cells, the header 4"),
        ("run,t_s,kind,held_pages\nr,now,host,1\n", "line 2"),
        ("run,t_s,kind,held_pages\nr,1,host,nan\n", "line 2 has a number that is none"),
        ("run,t_s,kind,held_pages\nr,1,host,1\nr,2,host,1\nr,1,host,1\n", "the moment 1 s twice"),
    ],
)
def test_what_is_no_series_is_refused(text: str, words: str) -> None:
    """The sentence says where and why."""
    with pytest.raises(ValueError, match=words):
        runs_of(text.splitlines(keepends=True))
