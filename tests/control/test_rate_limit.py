"""So many at once, then so many a second; and log lines of a source that does not stop."""

import pytest
import structlog
from structlog.testing import capture_logs

from xbd.control.rate_limit import (
    LINES_AT_ONCE,
    LINES_PER_S,
    SHARED_LINES_AT_ONCE,
    SourceLog,
    TokenBucket,
    shared_lines,
)


def test_an_allowance_is_used_up_and_fills_again() -> None:
    """Three at once, then one each two seconds, and never more than three kept."""
    bucket = TokenBucket(3, 0.5)

    assert [bucket.take(10.0) for _ in range(4)] == [True, True, True, False]
    assert bucket.wait_s(10.0) == pytest.approx(2.0)
    assert bucket.wait_s(11.0) == pytest.approx(1.0)
    assert bucket.take(12.0)
    assert not bucket.take(12.5)
    assert [bucket.take(1000.0) for _ in range(4)] == [True, True, True, False]


def test_a_source_that_does_not_stop_is_logged_now_and_then() -> None:
    """A few lines at once, then one a minute, which says how many were left out before it."""
    with capture_logs() as lines:
        log = SourceLog(structlog.get_logger(), socket="1.sock")
        for second in range(241):
            log.warning(float(second), "peer_dropped", reason="garbage")

    assert all(line["socket"] == "1.sock" and line["log_level"] == "warning" for line in lines)
    assert [line.get("suppressed", 0) for line in lines] == [0] * LINES_AT_ONCE + [55, 59, 59, 59]


def test_a_source_that_was_quiet_begins_anew() -> None:
    """When it is long ago, a few lines may come at once again."""
    with capture_logs() as lines:
        log = SourceLog(structlog.get_logger())
        for start in (0.0, LINES_AT_ONCE / LINES_PER_S):
            for _ in range(LINES_AT_ONCE):
                log.warning(start, "peer_dropped")

    assert len(lines) == 2 * LINES_AT_ONCE
    assert not any("suppressed" in line for line in lines)


def test_sources_that_come_and_go_share_their_lines() -> None:
    """Each new one has its first lines only as far as all of its kind have any left; what is left out is counted."""
    shared = shared_lines()
    with capture_logs() as lines:
        for _ in range(1000):
            source = SourceLog(structlog.get_logger(), shared)
            for _ in range(LINES_AT_ONCE):
                source.warning(0.0, "peer_dropped")
        source.warning(100.0, "peer_dropped")

    assert len(lines) == SHARED_LINES_AT_ONCE + 1
    assert lines[-1]["suppressed"] == LINES_AT_ONCE


def test_one_source_does_not_use_up_what_others_share() -> None:
    """One that does not stop takes of it as many lines as it may have itself."""
    shared = shared_lines()
    with capture_logs() as lines:
        noisy, quiet = (SourceLog(structlog.get_logger(), shared, who=who) for who in ("noisy", "quiet"))
        for _ in range(1000):
            noisy.warning(0.0, "peer_dropped")
        quiet.warning(0.0, "peer_dropped")

    assert [line["who"] for line in lines] == ["noisy"] * LINES_AT_ONCE + ["quiet"]
