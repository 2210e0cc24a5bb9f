"""The record of benchmarks: written, read, laid side by side, and what is no record."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from xbd.cli.main import main
from xbd.errors import BadArgument
from xbd.lab.bench.figures import Figure
from xbd.lab.bench.record import OWN_RECORD, Entry, parse_record, render_history

OLD = Entry(
    "0.1.0", "2026-11-01", "2 cores", {"a_vs_b": Figure(1.5, "ratio", 1.4, 1.6, "b"), "gone": Figure(2, "us", 1, 3)}
)
NEW = Entry("0.2.0", "2026-12-01", "4 cores", {"a_vs_b": Figure(1.25, "ratio", 1.2, 1.3, "b")})


def test_what_is_recorded_is_read_again() -> None:
    """Line by line, to the last digit."""
    assert parse_record(f"{OLD.as_line()}\n{NEW.as_line()}\n", "r") == [OLD, NEW]
    assert parse_record("", "r") == []


def test_releases_stand_side_by_side() -> None:
    """A column each with its machine; a figure that one has not got is a dash."""
    lines = render_history([OLD, NEW]).splitlines()
    assert lines[:2] == ["[1] 0.1.0 on 2026-11-01: 2 cores", "[2] 0.2.0 on 2026-12-01: 4 cores"]
    assert [line.split() for line in lines[3:]] == [["a_vs_b", "1.50", "1.25", "ratio"], ["gone", "2.00", "-", "us"]]
    assert render_history([]) == "nothing is recorded"


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"release": "1", "date": "", "machine": "", "figures": {"a": {}}}'])
def test_a_line_that_is_none_is_named(line: str) -> None:
    """With the record and the number of the line."""
    with pytest.raises(BadArgument, match="r: line 2"):
        parse_record(f"{OLD.as_line()}\n{line}\n", "r")


def test_the_own_record_can_be_shown() -> None:
    """It is in the package, and `--history` lays it out."""
    entries = parse_record(OWN_RECORD.read_text(encoding="utf-8"), "own")
    result = CliRunner().invoke(main, ["bench", "--history"])
    assert entries
    assert result.exit_code == 0
    assert entries[-1].machine in result.output
    assert "hypercall_vs_echo" in result.output


def test_a_record_that_cannot_be_written_or_read_is_said_at_once(tmp_path: Path) -> None:
    """Before anything is measured."""
    for arguments in (["--record", str(tmp_path / "no" / "file")], ["--history", "--record", str(tmp_path / "none")]):
        result = CliRunner().invoke(main, ["bench", *arguments])
        assert result.exit_code == 1
        assert str(tmp_path) in result.output
