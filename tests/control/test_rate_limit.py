"""So many at once, then so many a second; and log lines of a source that does not stop."""

import pytest
import structlog
from structlog.testing import capture_logs

from xbd.control.rate_limit import LINES_AT_ONCE, LINES_PER_S, Allowance, SourceLog


def test_an_allowance_is_used_up_and_fills_again() -> None:
    """Three at once, then one each two seconds, and never more than three kept."""
    allowance = Allowance(3, 0.5)

    assert [allowance.take(10.0) for _ in range(4)] == [True, True, True, False]
    assert allowance.wait_s(10.0) == pytest.approx(2.0)
    assert allowance.wait_s(11.0) == pytest.approx(1.0)
    assert allowance.take(12.0)
    assert not allowance.take(12.5)
    assert [allowance.take(1000.0) for _ in range(4)] == [True, True, True, False]


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
