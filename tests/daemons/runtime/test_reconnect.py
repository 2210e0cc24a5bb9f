"""Following somebody who comes and goes, on trio's mock clock: when it is tried, what is said of it, what ends it."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from xbd.client.client import Client
from xbd.client.runtime_dir import hypervisor_socket
from xbd.control.rate_limit import LINES_AT_ONCE
from xbd.daemons.hypervisor import serve
from xbd.daemons.runtime.reconnect import STEADY_S, Follower
from xbd.daemons.runtime.service import Service
from xbd.errors import BadArgument, ConfigError, NoSuchDomain, PeerLost, XbdError
from xbd.machine import Machine
from xbd.protocol.backoff import FIRST_PAUSE_S, LONGEST_PAUSE_S

# Each stay of somebody: for how long, None when they are not there.
Stays = Sequence[float | None]


class Visits:
    """Attempts to reach somebody who is there as *stays* say; the last one ends it all. *at* is when each was made."""

    def __init__(self, stays: Stays, follower: Follower, error: XbdError) -> None:
        self._stays = list(stays)
        self._follower = follower
        self._error = error
        self.at: list[float] = []

    async def attempt(self) -> str:
        """Reach them, or not."""
        self.at.append(round(trio.current_time(), 6))
        if not self._stays:
            return "done"
        stay_s = self._stays.pop(0)
        if stay_s is not None:
            self._follower.found()
            await trio.sleep(stay_s)
        raise self._error


async def visited(stays: Stays, error: XbdError | None = None) -> tuple[list[float], list[str]]:
    """Follow somebody; returns when it was tried, and what the log said."""
    with capture_logs() as said:
        follower = Follower("host")
        visits = Visits(stays, follower, error or PeerLost("gone"))
        began = trio.current_time()
        assert await follower.follow(visits.attempt) == "done"
    return [round(at - began, 6) for at in visits.at], [line["event"] for line in said]


async def test_it_is_tried_with_growing_pauses_and_said_once(autojump_clock: MockClock) -> None:
    """However often nobody is there, one line says so, and one that they are."""
    del autojump_clock
    at, said = await visited([None] * 6 + [STEADY_S])
    pauses = [round(later - sooner, 6) for sooner, later in pairwise(at[:7])]

    assert pauses == [0.05, 0.1, 0.2, 0.4, LONGEST_PAUSE_S, LONGEST_PAUSE_S]
    assert at[-1] == pytest.approx(at[-2] + STEADY_S + FIRST_PAUSE_S)
    assert said == ["host_lost", "host_found", "host_lost"]


async def test_who_comes_only_to_go_is_not_tried_more_often_and_does_not_fill_the_log(
    autojump_clock: MockClock,
) -> None:
    """A hundred short stays are as far apart as failed attempts, and have a few lines between them."""
    del autojump_clock
    at, said = await visited([0.0] * 100)

    assert at[-1] - at[-2] == pytest.approx(LONGEST_PAUSE_S)
    assert len(said) <= LINES_AT_ONCE + 2


@pytest.mark.parametrize("error", [PeerLost("gone"), BadArgument("another version"), NoSuchDomain("d7")])
async def test_whatever_they_say_they_are_tried_again(autojump_clock: MockClock, error: XbdError) -> None:
    """A hypervisor that refuses, by whatever error, does not end a daemon."""
    del autojump_clock
    assert (await visited([None, 1.0], error))[1] == ["host_lost", "host_found", "host_lost"]


async def test_what_no_attempt_mends_is_raised_as_it_is() -> None:
    """Also out of the nurseries that an attempt had open; and what is a bug is no reason to try again."""

    async def attempt(error: Exception) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise error

    with pytest.raises(ConfigError):
        await Follower("host").follow(lambda: attempt(ConfigError("x", "", "wrong")))
    with pytest.raises(BaseExceptionGroup) as bug:
        await Follower("host").follow(lambda: attempt(KeyError("a bug")))
    assert bug.group_contains(KeyError)
    with pytest.raises(NoSuchDomain):
        await Follower("host", is_final=lambda error: isinstance(error, NoSuchDomain)).follow(
            lambda: attempt(NoSuchDomain("d7"))
        )


async def test_a_quiet_one_is_greeted_only_after_it_was_lost(autojump_clock: MockClock) -> None:
    """A thousand agents that connect for the first time are no news; those that come back are."""
    del autojump_clock
    with capture_logs() as said:
        follower = Follower("connection", greets=False)
        await follower.follow(Visits([1.0, 1.0], follower, PeerLost("gone")).attempt)
    assert [line["event"] for line in said] == ["connection_lost", "connection_found", "connection_lost"]


async def test_a_real_hypervisor_is_lost_once_and_back_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Over its socket, a minute before its start and a minute between two lives of it; the task checks in all the while."""
    del autojump_clock
    service = Service()
    follower = Follower("host", every_s=2 * LONGEST_PAUSE_S)
    found = trio.Event()
    states: list[bool] = []

    async def session(client: Client) -> None:
        assert await client.list() == []
        found.set()
        with follower.check_in.idle():
            while True:
                await client.wait_for_events()

    with capture_logs() as said:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follower.follow_hypervisor, hypervisor_socket(tmp_path), session)
            for _ in range(2):
                await trio.sleep(60)
                states.append(follower.is_found)
                assert service.is_well()
                stop, found = trio.Event(), trio.Event()
                async with trio.open_nursery() as serving:
                    await serving.start(lambda stop=stop, **kwargs: serve(Machine(4), tmp_path, stop=stop, **kwargs))
                    await found.wait()
                    states.append(follower.is_found)
                    stop.set()
            nursery.cancel_scope.cancel()
    assert states == [False, True] * 2
    events = [line["event"] for line in said if line["event"].startswith("host_")]
    assert events in (["host_lost", "host_found"] * 2, [*["host_lost", "host_found"] * 2, "host_lost"])
