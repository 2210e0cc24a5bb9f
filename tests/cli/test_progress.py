"""Following domains to their targets, on made-up time."""

import pytest

from tests.cli.views import MIB, domain
from xbd.cli.commands.domains import _same
from xbd.cli.progress import Following, Outcome, observe_all, still_moving
from xbd.control.explain import hindrances, why_stuck

MOVING, REACHED, STUCK, REFUSED, GONE = Outcome


def shrinking() -> Following:
    """Follow web1 from 512 to 256 MiB, told at 100 s."""
    return Following(1, "web1", "1 web1", 512 * MIB, 256 * MIB, 100.0)


def at(mib: int, **changes: object) -> list[object]:
    """List the one domain, holding *mib* of its 256 MiB target."""
    return [domain(tot_pages=mib * MIB, target_pages=256 * MIB, **changes)]


def look(one: Following, now: float, mib: int, **changes: object) -> Outcome:
    """Look at it at *now*."""
    observe_all([one], at(mib, **changes), now)  # type: ignore[arg-type]  # they are domains
    return one.outcome


def test_a_domain_moves_until_it_is_there() -> None:
    """Progress is what brings it nearer; there is where it holds exactly its target."""
    one = shrinking()
    assert (one.outcome, one.share_done) == (MOVING, 0.0)
    assert look(one, 104, 384) is MOVING
    assert one.share_done == 0.5
    assert look(one, 108.9, 257) is MOVING
    assert look(one, 113, 256) is REACHED
    assert not still_moving([one])


def test_five_seconds_without_progress_are_stuck_and_progress_ends_that() -> None:
    """Being stuck is no verdict: a back-off may end."""
    one = shrinking()
    assert look(one, 103, 400) is MOVING
    assert look(one, 107.9, 400) is MOVING
    assert look(one, 108, 400) is STUCK
    assert look(one, 109, 399) is MOVING
    assert one.reason == ""
    assert look(one, 113, 256) is REACHED


def test_going_the_wrong_way_is_no_progress() -> None:
    """Nor is coming back to where it was nearest."""
    one = shrinking()
    look(one, 101, 400)
    look(one, 103, 500)
    assert look(one, 106, 400) is STUCK


def test_who_is_still_stuck_at_the_deadline_has_refused() -> None:
    """Twenty seconds after it was told; then nothing it does counts any more."""
    one = shrinking()
    assert look(one, 119.9, 512) is STUCK
    assert look(one, 120, 512) is REFUSED
    assert look(one, 121, 256) is REFUSED


def test_who_moves_at_the_deadline_may_go_on() -> None:
    """A slow guest is not an uncooperative one."""
    one = shrinking()
    for second in range(1, 60):
        assert look(one, 100.0 + second, 512 - second) is MOVING


def test_a_domain_at_its_target_needs_no_waiting() -> None:
    """Whatever the time."""
    one = Following(1, "web1", "1 web1", 256 * MIB, 256 * MIB, 100.0)
    assert one.share_done == 1.0
    assert look(one, 1000, 256) is REACHED


def test_a_destroyed_domain_is_gone_even_if_its_number_lives_on() -> None:
    """A number that was given to another domain is not the one that was asked."""
    one, other = shrinking(), shrinking()
    observe_all([one], [], 101)
    observe_all([other], [domain(name="web9")], 101)
    assert (one.outcome, other.outcome) == (GONE, GONE)


def test_what_the_hypervisor_refused_is_settled() -> None:
    """With its reason."""
    one = shrinking()
    one.refuse("EINVAL: no")
    assert look(one, 101, 256) is REFUSED
    assert one.reason == "EINVAL: no"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"agent": False, "state": "waiting"}, "no agent is connected"),
        ({"state": "silent"}, "its agent does not answer"),
        ({"mode": "stuck"}, "its guest's mode is 'stuck'"),
        ({}, "its guest gives up no more"),
    ],
)
def test_the_reason_is_what_can_be_seen(changes: dict[str, object], reason: str) -> None:
    """And what to do about it, where that is known."""
    one = shrinking()
    look(one, 106, 512, **changes)
    assert reason in one.reason


def test_another_target_meanwhile_is_noticed() -> None:
    """Somebody else may set one while we wait."""
    one = shrinking()
    observe_all([one], [domain()], 106)
    assert "another target" in one.reason


def test_another_domain_of_the_same_number_and_name_is_not_waited_for() -> None:
    """The one that was meant is gone: said by `mem-set --wait`, and what `wait --for gone` waits for."""
    one = shrinking()
    again = domain(uuid="another")
    observe_all([one], [again], 101)
    assert (one.outcome, one.reason) == (Outcome.GONE, "it was destroyed")
    assert _same({1: again}, domain()) is None
    assert _same({1: again}, again) is again


def test_waiting_ends_when_none_moves() -> None:
    """While one moves, the stuck ones are given their time, too."""
    stuck, moving = shrinking(), Following(2, "web2", "2 web2", 512 * MIB, 256 * MIB, 100.0)
    domains = [*at(512), domain(domid=2, name="web2", tot_pages=300 * MIB)]
    observe_all([stuck, moving], domains, 106)  # type: ignore[arg-type]  # they are domains
    assert (stuck.outcome, moving.outcome) == (STUCK, MOVING)
    assert still_moving([stuck, moving])
    assert not still_moving([stuck])


def cancelled(**report: object) -> dict[str, object]:
    """Change a domain to one whose guest says that its balloon was cancelled."""
    return {"report": {"worker_state": "cancelled", "max_retry_count": 4} | report}


def test_a_cancelled_balloon_is_said_with_what_helps() -> None:
    """By what its guest reports: a driver that wakes by itself, and one as Linux's."""
    for wakes, helps in ((1, "it goes on when there is"), (0, "only for another target")):
        growing = domain(tot_pages=128 * MIB, target_pages=256 * MIB, **cancelled(wake_when_told=wakes))
        assert "cancelled after 4 refusals: the host had no memory for it" in why_stuck(growing)
        assert helps in why_stuck(growing)
    assert "cancelled after 4 refusals: it had no free memory to give" in why_stuck(
        domain(target_pages=9, **cancelled())
    )


@pytest.mark.parametrize("report", [None, {}, {"worker_state": 3}, {"worker_state": "done"}, {"worker_state": True}])
def test_who_was_not_cancelled_is_not_said_to_be(report: object) -> None:
    """Nor who reports nothing, or nonsense."""
    assert [reason.code for reason in hindrances(domain(target_pages=9, report=report))] == ["moving"]


@pytest.mark.parametrize("retries", ["many", -1, 0, True, None, 2.5])
def test_a_report_is_not_trusted_for_numbers(retries: object) -> None:
    """Where it says nonsense, Linux's number is told."""
    assert "after 4 refusals" in why_stuck(domain(target_pages=9, **cancelled(max_retry_count=retries)))
