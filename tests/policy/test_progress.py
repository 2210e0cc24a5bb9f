"""Judging progress: the clock, the verdicts, and what is forgotten."""

from dataclasses import replace

import pytest

from xbd.errors import BadArgument
from xbd.policy import DomainSnapshot, Progress, Settings, Verdict
from xbd.policy.progress import gap, observe, overdue, refuse, retry_due
from xbd.units import SUPER_PAGES as S

_SETTINGS = Settings()
_DOMAIN = DomainSnapshot(1, 50 * S, 20 * S, 20 * S, S, 100 * S)


def _watch(*tots: tuple[float, int], before: Progress | None = None) -> Progress:
    """Show a domain at these times with these pages."""
    for now, tot in tots:
        before = observe(before, replace(_DOMAIN, tot_pages=tot), _SETTINGS, now)
    assert before is not None
    return before


@pytest.mark.parametrize(
    ("tot", "distance"), [(20 * S, 0), (20 * S + 1, 1), (20 * S - 1, 0), (19 * S + 1, 0), (19 * S, 1), (0, 19 * S + 1)]
)
def test_gap_counts_what_is_missing(tot: int, distance: int) -> None:
    """Every page above the aim counts; below it only what is a superpage or more."""
    assert gap(tot, 20 * S) == distance


def test_a_page_in_time_is_progress() -> None:
    """A page every 4.9 s is no stuck domain, none for 5 s is."""
    assert _watch((0, 50 * S), (4.9, 50 * S - 1), (9.8, 50 * S - 2)).verdict is Verdict.WILLING
    assert _watch((0, 50 * S), (5, 50 * S)).verdict is Verdict.STUCK


def test_going_back_and_forth_is_no_progress() -> None:
    """Only coming closer than ever before counts."""
    assert _watch((0, 50 * S), (1, 40 * S), (3, 45 * S), (6, 40 * S)).verdict is Verdict.STUCK


def test_new_aims_hide_nobody() -> None:
    """Who does not move is stuck though its target is lowered every second."""
    progress = None
    for now in range(6):
        target = (20 - now) * S
        domain = replace(_DOMAIN, target_pages=target, max_pages=target)
        progress = observe(progress, domain, _SETTINGS, now)

    assert progress is not None
    assert progress.verdict is Verdict.STUCK


def test_the_deadline_counts_from_the_last_progress() -> None:
    """Stuck at 5 s, overdue at 20 s and not before; one page starts the clock anew."""
    assert not overdue(_watch((0, 50 * S), (19.9, 50 * S)), _SETTINGS, 19.9)
    assert overdue(_watch((0, 50 * S), (20, 50 * S)), _SETTINGS, 20)
    assert not overdue(_watch((0, 50 * S), (19, 50 * S - 1), (20, 50 * S - 1)), _SETTINGS, 20)


def test_a_refusal_is_remembered_until_it_moves() -> None:
    """What it would not go below is remembered, retried after a minute, and forgotten 2 MiB below."""
    refused = refuse(_watch((0, 50 * S), (20, 50 * S)), 50 * S, _SETTINGS, 20)

    assert refused.verdict is Verdict.UNCOOPERATIVE
    assert refused.least_pages == 50 * S
    assert not retry_due(refused, _SETTINGS, 79)
    assert retry_due(refused, _SETTINGS, 80)
    assert _watch((81, 49 * S + 1), before=refused).verdict is Verdict.UNCOOPERATIVE
    assert _watch((81, 49 * S), before=refused).verdict is Verdict.WILLING


def test_another_domain_of_the_same_number_begins_anew() -> None:
    """What one has refused is not held against the next one."""
    refused = refuse(_watch((0, 50 * S), (20, 50 * S)), 50 * S, _SETTINGS, 20)
    assert observe(refused, _DOMAIN, _SETTINGS, 21).verdict is Verdict.UNCOOPERATIVE
    assert observe(refused, replace(_DOMAIN, life="another"), _SETTINGS, 21).verdict is Verdict.WILLING


def test_a_reboot_wipes_the_slate() -> None:
    """An agent that went and came back is judged anew."""
    refused = refuse(_watch((0, 50 * S), (20, 50 * S)), 50 * S, _SETTINGS, 20)
    gone = observe(refused, replace(_DOMAIN, can_balloon=False), _SETTINGS, 21)

    assert gone.verdict is Verdict.UNABLE
    assert observe(gone, _DOMAIN, _SETTINGS, 22).verdict is Verdict.WILLING


@pytest.mark.parametrize(
    ("key", "value"),
    [("headroom_pages", -1), ("threshold_pages", -1), ("min_interval_s", 21.0), ("stuck_after_s", 20.0)],
)
def test_settings_that_make_no_sense_are_refused(key: str, value: float) -> None:
    """The error names the key."""
    with pytest.raises(BadArgument, match=key):
        Settings(**{key: value})  # type: ignore[arg-type]
