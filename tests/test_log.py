"""Logging: JSON lines where nobody looks, a console where somebody does."""

import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import pytest
import structlog

from xbd import log


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


@pytest.fixture(autouse=True)
def default_again() -> Iterator[None]:
    """Leave structlog as it was."""
    yield
    structlog.reset_defaults()


def test_json_lines_when_it_is_no_terminal() -> None:
    """Each event is one JSON object with its level, its time and its keys; lower levels are left out."""
    stream = io.StringIO()
    log.configure("warning", stream=stream)
    structlog.get_logger().info("peer_lost", reason="quiet")
    structlog.get_logger().warning("peer_dropped", reason="garbage\n")

    (line,) = stream.getvalue().splitlines()
    told = json.loads(line)
    assert told.pop("timestamp")
    assert told == {"event": "peer_dropped", "level": "warning", "reason": "garbage\n"}


def test_a_console_on_a_terminal() -> None:
    """A person reads the event and its keys, not JSON."""
    stream = Terminal()
    log.configure("debug", stream=stream)
    structlog.get_logger().debug("peer_lost", reason="left")

    assert "peer_lost" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


def test_the_lost_lines_are_said_in_the_form_of_the_log() -> None:
    """As JSON where the log is JSON, whatever its level; as a sentence where no log was set up."""
    structlog.reset_defaults()
    assert log.lost_line(3) == "3 lines could not be written here, and are lost"
    log.configure("error", stream=io.StringIO())
    told = json.loads(log.lost_line(3))
    assert told.pop("timestamp")
    assert told == {"event": "log_lines_lost", "lines": 3, "level": "warning"}


@contextmanager
def journal(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TextIO]:
    """Write to a file that $JOURNAL_STREAM says is the journal's."""
    with path.open("w", encoding="utf-8") as stream:
        status = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        yield stream


def test_the_journal_is_told_each_line_s_priority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As man 3 sd-daemon spells it; what follows is the JSON of any other log."""
    with journal(tmp_path / "journal", monkeypatch) as stream:
        log.configure("debug", stream=stream)
        logger = structlog.get_logger()
        for level in ("debug", "info", "warning", "error", "critical"):
            getattr(logger, level)("thing_happened", what="two\nlines")
        lost = log.lost_line(2)
    lines = (tmp_path / "journal").read_text().splitlines()

    assert [line[:3] for line in lines] == ["<7>", "<6>", "<4>", "<3>", "<2>"]
    assert [json.loads(line[3:])["level"] for line in lines] == ["debug", "info", "warning", "error", "critical"]
    assert (lost[:3], json.loads(lost[3:])["lines"]) == ("<4>", 2)


@pytest.mark.parametrize("told", [None, "", "1", "1:2", "x:y", "1:2:3"])
def test_what_is_not_the_journal_gets_no_priorities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str | None
) -> None:
    """Also where a daemon's standard error was sent elsewhere, and its environment still tells of the journal."""
    with journal(tmp_path / "journal", monkeypatch), (tmp_path / "log").open("w", encoding="utf-8") as stream:
        if told is not None:
            monkeypatch.setenv("JOURNAL_STREAM", told)
        log.configure("info", stream=stream)
        structlog.get_logger().error("thing_happened")
    assert (tmp_path / "log").read_text().startswith("{")
    assert log.mark_for("error", io.StringIO()) == ""
