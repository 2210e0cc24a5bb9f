"""Recording: a file that can be read whatever ended its recorder, that grows no larger than it may, and goes on."""

import errno
import os
import signal
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from tests.lab.trace.test_proc import TEXTS
from tests.processes import running
from xbd.cli.common import Failure
from xbd.cli.main import main
from xbd.errors import TraceError
from xbd.guest.workload import parse_trace
from xbd.lab.trace.findings import findings
from xbd.lab.trace.proc import machine_row
from xbd.lab.trace.shell import record
from xbd.lab.trace.shell.bounded import BoundedFile, NoRoom
from xbd.lab.trace.shell.machine import read_clocks
from xbd.lab.trace.table import header_text, parse_table, row_text, table_text
from xbd.lab.trace.watch import Moment, remarks

ROW = machine_row(TEXTS)
UTC_S = 1_790_000_000.25


def recorded(rows: int) -> str:
    """Make the text that a recorder writes."""
    lines = [row_text(now, list(ROW.values()), UTC_S + now) + "\n" for now in range(rows)]
    return header_text(ROW) + "".join(lines)


TEXT = recorded(4)
HEADER_CHARS = len(header_text(ROW))


def trace(*arguments: str) -> Result:
    """Run the command."""
    return CliRunner().invoke(main, ["trace", *arguments])


@given(st.integers(0, len(TEXT)))
def test_a_file_that_ends_anywhere_is_read_as_far_as_it_is_whole(at: int) -> None:
    """Every row that was written whole is there, a torn one is told with its line, and nothing is made up."""
    text = TEXT[:at]
    whole = TEXT[HEADER_CHARS:at].count("\n") if at >= HEADER_CHARS else 0
    # The last row is whole without its end of line, too.
    is_complete = at >= HEADER_CHARS and TEXT[at : at + 1] == "\n"
    if whole + is_complete == 0:
        with pytest.raises(TraceError, match="cut: line "):
            parse_table(text, "cut")
        return
    table = parse_table(text, "cut")
    assert [row[-1] for row in table.cells] == [
        line.split(",")[-1] for line in TEXT.splitlines()[1:][: len(table.cells)]
    ]
    assert len(table.cells) == whole + is_complete
    is_torn = not text.endswith("\n") and not is_complete
    assert bool(table.torn) == is_torn
    if is_torn:
        assert table.torn.startswith(f"cut: line {whole + 2}: is torn")
        assert [one.line for one in findings(table) if one.is_fault] == [whole + 2]
        with pytest.raises(TraceError, match=f"cut: line {whole + 2}: is torn"):
            parse_trace(text, "cut")
    assert parse_trace(table_text(table), "cut").samples == len(table.cells)


def test_a_recorder_that_is_killed_leaves_a_trace(tmp_path: Path) -> None:
    """By SIGKILL, while it records: what is there is checked and played."""
    path = tmp_path / "here.csv"
    with running("trace", "record", str(path)) as recorder:
        while not path.exists() or path.read_bytes().count(b"\n") < 3:
            assert recorder.process.poll() is None
        assert recorder.end(signal.SIGKILL) == -signal.SIGKILL
    assert trace("check", str(path)).exit_code == 0
    assert parse_trace(path.read_text(), "here").samples >= 2


def test_a_recorder_ends_in_order_and_refuses_a_file_that_is_there(tmp_path: Path) -> None:
    """At its time it says how much it wrote; the same file again is refused, and gone on with where that is said."""
    path = tmp_path / "here.csv"
    first = trace("record", str(path), "--duration", "1s")
    assert (first.exit_code, first.stderr.splitlines()[-1]) == (0, f"{path}: 1 row written")
    refused = trace("record", str(path), "--duration", "1s")
    assert (refused.exit_code, refused.stderr) == (
        1,
        f"{path}: is there already; give another FILE, or --append to go on with this one\n",
    )
    path.write_bytes(path.read_bytes() + b"1.0,617")
    again = trace("record", str(path), "--duration", "1s", "--append")
    assert again.exit_code == 0
    assert f"{path}: line 3: is torn" in again.stderr
    assert "that line is removed" in again.stderr
    assert f"{path}: goes on behind 1 row, " in again.stderr
    table = parse_table(path.read_text(), "here")
    assert len(table.cells) == 2
    assert table.seconds[1] >= 1


def test_only_a_file_of_this_machine_is_gone_on_with(tmp_path: Path) -> None:
    """Other columns, and another size, are refused, and nothing is changed; so is what is no file."""
    path = tmp_path / "other.csv"
    here = Path("/proc/meminfo").read_text()
    assert "MemTotal" in here
    for text, said in (
        (TEXT, "another machine, or one of another size, was recorded"),
        ("t_s,total_pages,free_pages,page_cache_pages\n0,1000,700,100\n", "other columns than this machine's now"),
        ("hello\n", "the header has no (single) column t_s"),
    ):
        path.write_text(text)
        refused = trace("record", str(path), "--append")
        assert refused.exit_code == 1
        assert said in refused.stderr or "other columns" in refused.stderr
        assert path.read_text() == text
    os.mkfifo(tmp_path / "pipe")
    for strange, said in (("pipe", "cannot be written"), (".", "is a directory"), ("no/a.csv", "No such file")):
        refused = trace("record", str(tmp_path / strange), "--append")
        assert refused.exit_code != 0
        assert said in refused.stderr


def test_two_recorders_do_not_share_a_file(tmp_path: Path) -> None:
    """The second one is told of the first."""
    with BoundedFile(tmp_path / "a.csv", b"h\n", 1 << 20, append=False):
        refused = trace("record", str(tmp_path / "a.csv"), "--append")
    assert (refused.exit_code, refused.stderr.splitlines()[-1]) == (
        1,
        f"{tmp_path / 'a.csv'}: another recorder writes to it; give another FILE",
    )


def test_a_file_grows_no_larger_than_it_may(tmp_path: Path) -> None:
    """Every second row goes, again and again: the first stays, all are whole, evenly spread, and no other file is left."""
    path = tmp_path / "a.csv"
    number = 0
    with BoundedFile(path, b"head\n", 1000, append=False) as file:
        while number < 1000:
            file.add(b"%06d\n" % number)
            assert path.stat().st_size <= 1000
            # As a recorder does, which takes half as many then.
            number += 1 << file.halvings
        assert file.halvings == 3
        assert file.rows == path.read_bytes().count(b"\n") - 1
    rows = [int(row) for row in path.read_text().splitlines()[1:]]
    assert rows[0] == 0
    assert rows[-1] >= 992
    assert {later - earlier for earlier, later in pairwise(rows)} <= {8, 12, 16}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("error", "raised"), [(KeyboardInterrupt(), KeyboardInterrupt), (OSError(errno.EDQUOT, ""), NoRoom)]
)
def test_a_file_is_whole_whatever_ends_its_halving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, raised: type[BaseException]
) -> None:
    """It is as it was, and the next recorder removes what was begun, and goes on."""
    path = tmp_path / "a.csv"

    def fail(descriptor: int) -> None:
        del descriptor
        raise error

    with BoundedFile(path, b"head\n", 26, append=False) as file:
        for row in (b"111111\n", b"222222\n", b"333333\n"):
            file.add(row)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            with pytest.raises(raised):
                file.add(b"444444\n")
        assert path.read_bytes() == b"head\n111111\n222222\n333333\n"
    with BoundedFile(path, b"head\n", 26, append=True) as file:
        assert list(tmp_path.iterdir()) == [path]
        file.add(b"666666\n")
    assert path.read_bytes() == b"head\n111111\n333333\n666666\n"


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let a disk take so many bytes more, as [number]; what does not fit is written in part, then refused."""
    room, write = [1 << 30], os.write

    def limited(descriptor: int, line: bytes) -> int:
        taken = min(room[0], len(line))
        if not taken:
            raise OSError(errno.ENOSPC, "no space")
        room[0] -= taken
        return write(descriptor, line[:taken])

    monkeypatch.setattr(os, "write", limited)
    return room


def test_on_a_full_disk_no_row_is_torn(tmp_path: Path, full_disk: list[int]) -> None:
    """What found no room is as if it had not been tried; when there is room again it goes on behind the last whole row."""
    path = tmp_path / "a.csv"
    with BoundedFile(path, b"head\n", 1 << 20, append=False) as file:
        file.add(b"first\n")
        full_disk[0] = 3
        for _ in range(2):
            with pytest.raises(NoRoom):
                file.add(b"second\n")
        assert path.read_bytes() == b"head\nfirst\n"
        full_disk[0] = 1 << 20
        file.add(b"third\n")
    assert path.read_bytes() == b"head\nfirst\nthird\n"


def test_a_full_disk_is_said_once_and_counted(
    tmp_path: Path, full_disk: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Samples are lost until there is room; then it says how many."""
    recorder = record.Recorder(tmp_path / "a.csv", 1.0, 1 << 20, append=False)
    with recorder.file:
        recorder._sample(read_clocks())
        full_disk[0] = 10
        for _ in range(3):
            recorder._sample(read_clocks())
        full_disk[0] = 1 << 20
        recorder._sample(read_clocks())
    said = [line for line in capsys.readouterr().err.splitlines() if "a.csv" in line]
    assert said == [
        f"{tmp_path / 'a.csv'}: no space is left on its disk: samples are lost until there is room",
        f"{tmp_path / 'a.csv'}: line 3: there is room again; 3 samples lost so far: a gap",
    ]
    assert (recorder.rows, recorder.lost) == (2, 3)
    assert parse_trace((tmp_path / "a.csv").read_text(), "a").samples == 2


def test_where_there_is_no_room_to_begin_no_file_is_left(tmp_path: Path, full_disk: list[int]) -> None:
    """A sentence, and nothing that the next one would stumble over."""
    full_disk[0] = 10
    refused = trace("record", str(tmp_path / "a.csv"))
    assert (refused.exit_code, refused.stderr.splitlines()[-1]) == (
        1,
        f"{tmp_path / 'a.csv'}: cannot be written: No space left on device",
    )
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_gone_ends_it(tmp_path: Path) -> None:
    """Nothing is recorded to where nobody finds it."""
    recorder = record.Recorder(tmp_path / "a.csv", 1.0, 1 << 20, append=False)
    with recorder.file:
        (tmp_path / "a.csv").rename(tmp_path / "b.csv")
        with pytest.raises(Failure, match="was removed, moved or replaced while it was recorded to; 0 rows"):
            recorder._sample(read_clocks())


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (Moment(11.0, 21.0, 31.0), []),
        (Moment(12.4, 22.4, 32.4), []),
        (Moment(3611.0, 21.0, 3631.0), ["the machine slept for 3600.0 s: a gap"]),
        (
            Moment(20.0, 30.0, 40.0),
            ["nothing was recorded for 10.0 s, as the recorder was stopped or the machine too busy: a gap"],
        ),
        (Moment(11.0, 21.0, 3631.0), ["the clock was set forward by 3600.0 s; t_s goes on as if it were not"]),
        (Moment(11.0, 21.0, 1.0), ["the clock was set back by 30.0 s; t_s goes on as if it were not"]),
    ],
)
def test_clocks_that_jump_are_told(now: Moment, said: list[str]) -> None:
    """A machine that slept, a recorder that was stopped, and a clock that was set, each by its own words."""
    assert list(remarks(Moment(10.0, 20.0, 30.0), now, 1.0)) == said


def test_what_the_kernel_does_not_say_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the trace goes without it."""
    monkeypatch.setattr(record, "read_proc", lambda: {name: TEXTS[name] for name in TEXTS if "pressure" not in name})
    path = tmp_path / "a.csv"
    result = trace("record", str(path), "--duration", "2s")
    assert (
        result.stderr.splitlines()[0]
        == "/proc/pressure/memory does not say psi_some_us, psi_full_us: the trace goes without"
    )
    assert "psi" not in path.read_text()
    assert len(result.stderr.splitlines()) == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--every", "0.5s"], "at least 1s"),
        (["--max-size", "1k"], "at least 64k"),
        (["--duration", "soon"], "duration 'soon'"),
    ],
)
def test_what_cannot_be_recorded_is_refused(tmp_path: Path, options: list[str], said: str) -> None:
    """In a sentence, before there is a file."""
    refused = trace("record", str(tmp_path / "a.csv"), *options)
    assert refused.exit_code == 1
    assert said in refused.stderr
    assert list(tmp_path.iterdir()) == []
