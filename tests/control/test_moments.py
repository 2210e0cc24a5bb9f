"""The last hour, moment by moment: fine where it is near, bounded in number and bytes."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from xbd.control.moments import MAX_BYTES, TIERS, Moment, Moments, found_at


def moment(t_s: float, size: int = 10) -> Moment:
    """Make a moment that takes so many bytes."""
    return Moment(t_s, {}, bytes(size))


def test_an_hour_is_kept_and_the_last_minutes_finely() -> None:
    """After two hours of looks each second an hour is there: each second of two minutes, then steps of 5 s and of 20 s."""
    moments = Moments()
    for t_s in range(7200):
        moments.add(moment(float(t_s)))
    times = [one.t_s for one in moments.all()]
    gaps = [later - earlier for earlier, later in pairwise(times)]

    assert times == sorted(times)
    assert times[-1] - times[0] >= 3600
    assert set(gaps[-119:]) == {1.0}
    assert max(gaps) <= 20.0
    assert len(times) <= sum(tier.most for tier in TIERS)


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(0, 400)), max_size=200), st.integers(0, 3000))
def test_no_more_bytes_than_allowed(steps: list[tuple[float, int]], most: int) -> None:
    """Whatever comes, what is kept is in order, takes no more than it may, and the reckoning of it is right."""
    moments, t_s = Moments(most), 0.0
    for step_s, size in steps:
        t_s += step_s
        moments.add(moment(t_s, size))
        kept = moments.all()
        assert sum(one.size_bytes for one in kept) == moments.kept_bytes <= most
        assert [one.t_s for one in kept] == sorted(one.t_s for one in kept)


def test_a_clock_that_is_set_back_begins_anew() -> None:
    """What seems to be of the future is gone; else nothing would be kept until then."""
    moments = Moments()
    for t_s in (1000.0, 1001.0, 10.0):
        moments.add(moment(t_s))

    assert [one.t_s for one in moments.all()] == [10.0]
    assert moments.kept_bytes == 10 < MAX_BYTES


def test_a_moment_is_found() -> None:
    """The last one that is not later; before all the first."""
    kept = [moment(t_s) for t_s in (10.0, 20.0, 30.0)]

    assert [found_at(kept, t_s).t_s for t_s in (0.0, 10.0, 29.9, 99.0)] == [10.0, 10.0, 20.0, 30.0]
