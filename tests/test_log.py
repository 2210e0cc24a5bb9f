"""Logging: JSON lines where nobody looks, a console where somebody does."""

import io
import json
from collections.abc import Iterator

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
    assert log.lost_line(3) == "3 lines could not be written here, and are lost"
    log.configure("error", stream=io.StringIO())
    told = json.loads(log.lost_line(3))
    assert told.pop("timestamp")
    assert told == {"event": "log_lines_lost", "lines": 3, "level": "warning"}
