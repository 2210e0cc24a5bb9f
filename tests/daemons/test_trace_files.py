"""Files of traces that guests play: read once for all who play one, and refused in a sentence."""

import os
from pathlib import Path

import pytest
import trio

from xbd.daemons import trace_files
from xbd.daemons.trace_files import TraceFiles
from xbd.errors import TraceError, XbdError
from xbd.guest.workload import Trace, parse_trace

TRACE = "t_s,total_pages,free_pages,page_cache_pages\n0,8000,6000,500\n1,8000,4000,500\n"
GFNS = 16 * 512


def settings_of(path: Path) -> dict[str, object]:
    """Make the settings of a guest that plays a file."""
    return {"workload": {"trace": str(path)}}


def test_a_file_is_read_once_while_somebody_plays_it(tmp_path: Path) -> None:
    """All who play it have the same arrays; once it has changed, others get what it is now."""
    path = tmp_path / "web.csv"
    path.write_text(TRACE)
    traces = TraceFiles()
    first = traces.find(path)
    assert traces.find(path) is first
    path.write_text(TRACE + "2,8000,3000,500\n")
    assert traces.find(path).samples == 3
    assert first.samples == 2


def test_what_is_found_is_the_trace_that_was_read(tmp_path: Path) -> None:
    """And no other, which nobody has looked at; who plays none needs none."""
    path = tmp_path / "web.csv"
    path.write_text(TRACE)
    find = TraceFiles().finder(settings_of(path), GFNS)
    assert find(path).samples == 2
    for finder in (find, TraceFiles().finder({"workload": "idle"}, GFNS)):
        with pytest.raises(XbdError, match="was not read"):
            finder(tmp_path / "other.csv")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, r"web.csv: cannot be read: No such file or directory \(expected a trace"),
        ("", "web.csv: line 1: the file is empty"),
        (TRACE[:-9], "web.csv: line 3: is torn: the file ends in the middle of it"),
        (TRACE.replace("8000", "9000"), 'web.csv: it is of a guest of 9000 pages, .*"36m" plays; this one has "32m"'),
        (TRACE.replace("8000", "99999999999"), "web.csv: line 2: a number is out of range"),
    ],
)
def test_a_trace_that_cannot_be_played_is_refused(tmp_path: Path, text: str | None, said: str) -> None:
    """Missing, empty, torn, of another size, too large: in a sentence that names the file, and the line."""
    if text is not None:
        (tmp_path / "web.csv").write_text(text)
    with pytest.raises(TraceError, match=said):
        TraceFiles().finder(settings_of(tmp_path / "web.csv"), GFNS)


def test_what_is_no_file_holds_nobody_up(tmp_path: Path) -> None:
    """A pipe to which nobody writes, a device without an end, a folder."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(TraceError, match=f"{path}: cannot be read"):
            TraceFiles().finder(settings_of(path), GFNS)


async def test_guests_that_boot_together_have_one_file_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other, so that a process with many guests does not hold a file in its memory many times."""
    path = tmp_path / "web.csv"
    path.write_text(TRACE)
    read: list[Path] = []

    def counted(path: Path, *, may_wait: bool) -> Trace:
        read.append(path)
        return parse_trace(path.read_text(), str(may_wait))

    monkeypatch.setattr(trace_files, "_read", counted)
    traces, found = TraceFiles(), []

    async def load() -> None:
        found.append((await traces.load(settings_of(path), GFNS))(path))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(load)
    assert read == [path]
    assert len({id(trace) for trace in found}) == 1
