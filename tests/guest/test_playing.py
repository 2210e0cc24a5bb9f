"""Playing traces: which sample holds when, and a guest that plays one by itself."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.guest.naive_host import Driver, NaiveHost, blocks
from xbd.errors import TraceError
from xbd.guest import Guest, GuestSettings, Tick
from xbd.guest.workload import Pace, Played, Player, Trace, parse_trace
from xbd.guest.workload.profiles import AS_RECORDED

TOTAL = blocks(8) - 7
HEADER = "t_s,total_pages,free_pages,page_cache_pages,free_superframes\n"


def trace_of(*samples: tuple[float, int, int]) -> Trace:
    """Make a trace of times, pages that are programs', and pages of cache."""
    rows = (f"{now},{TOTAL},{TOTAL - anon - cache},{cache},3\n" for now, anon, cache in samples)
    return parse_trace(HEADER + "".join(rows), "t.csv")


TRACE = trace_of((0.0, 500, 100), (1.0, 900, 100), (2.5, 2000, 300), (4.0, 700, 900))


def played(driver_trace: Trace = TRACE, *, target: int | None = None, pace: Pace = AS_RECORDED) -> Driver:
    """Boot a guest that plays a trace."""
    host = NaiveHost(blocks(8), blocks(8))
    workload = Played(trace=driver_trace, pace=pace)
    guest = Guest(host.boot(blocks(8), target), GuestSettings(verify=True, kernel_pages=50), 1, workload)
    return Driver(guest, host)


def naive(trace: Trace, pace: Pace, until_s: float) -> Iterator[tuple[float, int, int]]:
    """List when each sample is due, which one it is, and of what round, by going through all of them."""
    seconds = trace.seconds.tolist()
    steps = [later - earlier for earlier, later in pairwise(seconds)]
    length = seconds[-1] - seconds[0] + (float(np.median(steps)) if steps else 0.0)
    loops = pace.loop and length > 0
    offset = pace.offset_s
    if offset > seconds[-1]:
        offset = seconds[0] + ((offset - seconds[0]) % length if length else 0.0)
    begin = max([at for at, now in enumerate(seconds) if now <= offset], default=0)
    for round_number in range(200 if loops else 1):
        for at, now in enumerate(seconds):
            due = max((now + round_number * length - offset) / pace.speed, 0.0)
            if due > until_s:
                return
            if (round_number, at) >= (0, begin):
                yield due, at, round_number


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=8),
    st.sampled_from([0.25, 1.0, 4.0]),
    st.sampled_from([Pace(loop=True), Pace()]),
    st.integers(0, 60),
    st.lists(st.integers(0, 64), min_size=1, max_size=12),
)
def test_at_any_time_the_sample_of_that_time_holds(
    steps: list[int],
    speed: float,
    looped: Pace,
    offset: int,
    waits: list[int],
) -> None:
    """However late and seldom it is asked: as by going through all samples, and none is counted twice or forgotten."""
    times = np.cumsum(steps) / 4
    trace = trace_of(*((float(now), 100 + at, 10) for at, now in enumerate(times)))
    pace = replace(looped, speed=speed, offset_s=offset / 4)
    if pace.offset_s > times[-1] and not pace.loop:
        with pytest.raises(TraceError, match="before offset_s"):
            Player(trace, pace)
        return
    player, now, played_samples = Player(trace, pace), 0.0, 0
    for wait in waits:
        now += wait / 4
        played_samples += player.advance(now)
        due = list(naive(trace, pace, now))
        assert (player.at, player.rounds) == (due[-1][1:] if due else (player.at, 0))
        assert played_samples + player.skipped == len(due)
        assert not player.advance(now)


def test_a_guest_holds_what_its_trace_says() -> None:
    """To the page, from its boot on, at the trace's times; then the last sample holds for ever."""
    driver = played()
    driver.now = 1000.0
    driver.do(Tick())
    for now, anon, cache in ((0.0, 500, 100), (1.0, 900, 100), (2.5, 2000, 300), (4.0, 700, 900), (99.0, 700, 900)):
        driver.run_for(1000.0 + now - driver.now)
        statistics = driver.guest.statistics()
        assert statistics.movable_pages + statistics.unmovable_pages == anon + cache
        assert statistics.cache_pages == cache
        driver.assert_sound()
    assert (statistics.ticks, statistics.ticks_late, statistics.ticks_skipped, statistics.trace_s) == (4, 0, 0, 4)
    assert (statistics.unmet_pages, statistics.content_errors) == (0, 0)


def test_speed_offset_and_loop_are_kept() -> None:
    """Ten times as fast, from the second sample on, round and round: a round is as long as the trace and a step of it."""
    driver = played(pace=Pace(speed=10, offset_s=1.2, loop=True))
    driver.do(Tick())
    seen = [(0.0, 900)]
    while driver.deadline is not None and driver.deadline < 1.0:
        driver.now = driver.deadline
        driver.do(Tick())
        statistics = driver.guest.statistics()
        held = statistics.movable_pages + statistics.unmovable_pages - statistics.cache_pages
        if held != seen[-1][1]:
            seen.append((round(driver.now, 3), held))
    assert seen == [
        (0.0, 900),
        (0.13, 2000),
        (0.28, 700),
        (0.43, 500),
        (0.53, 900),
        (0.68, 2000),
        (0.83, 700),
        (0.98, 500),
    ]
    assert statistics.trace_rounds == 2


def test_an_agent_that_lags_says_so() -> None:
    """What is played late is counted, and what was never played for it; the sample of the moment holds then."""
    driver = played()
    driver.do(Tick())
    driver.now = 3.0
    driver.do(Tick())
    statistics = driver.guest.statistics()
    assert (statistics.ticks, statistics.ticks_late, statistics.ticks_skipped) == (2, 1, 1)
    assert statistics.tick_worst_ms == 2000
    assert statistics.movable_pages + statistics.unmovable_pages == 2300


def test_demand_that_is_not_met_is_told_as_it_happens() -> None:
    """What is lacking now, what ever was refused, and a note of it; less is lacking when the trace asks for less."""
    driver = played(trace_of((0, 500, 0), (1, 3000, 0), (2, 400, 0), (3, 0, 0)), target=blocks(4))
    driver.do(Tick())
    driver.run_for(1.5)
    lacking = driver.guest.statistics()
    assert lacking.unmet_pages == lacking.pages_denied > 0
    assert driver.notes.count("demand_unmet") == 1
    driver.run_for(1)
    after = driver.guest.statistics()
    # Of the programs that were refused some have ended by now, as have some of the others.
    assert after.movable_pages + after.unmovable_pages == 400 - after.unmet_pages
    driver.run_for(1)
    after = driver.guest.statistics()
    assert (after.unmet_pages, after.pages_denied) == (0, lacking.pages_denied)


def test_a_trace_of_another_guest_is_refused() -> None:
    """In a sentence that says what plays it."""
    Played(trace=TRACE).check(blocks(8))
    with pytest.raises(TraceError, match=r't.csv: it is of a guest of 4089 pages, .* maximum of "16m" plays; .* "18m"'):
        Played(trace=TRACE).check(blocks(9))
    with pytest.raises(TraceError, match="ends at 4 s, before offset_s"):
        Played(trace=TRACE, pace=Pace(offset_s=5)).check(blocks(8))


def test_the_guest_is_as_worn_as_the_recorded_one_was() -> None:
    """At the sample that is played first."""
    free = [TOTAL - 600, TOTAL - 1000]
    assert Played(trace=TRACE).wear == 1 - 3 * 512 / free[0]
    assert Played(trace=TRACE, pace=Pace(offset_s=1.7)).wear == 1 - 3 * 512 / free[1]


def test_gaps_are_told_and_nothing_is_made_up_for_them() -> None:
    """The demand before a gap holds until its end."""
    gappy = trace_of(*((float(now), 500 + now, 100) for now in (0, 1, 2, 3, 30, 31)))
    assert gappy.gap_lines == [6]
    driver = played(gappy)
    driver.do(Tick())
    assert driver.notes.count("trace_gaps") == 1
    driver.run_for(29)
    statistics = driver.guest.statistics()
    assert statistics.movable_pages + statistics.unmovable_pages == 603
    assert TRACE.gap_lines == []
