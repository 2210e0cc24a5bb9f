"""What the service manager hears, over a real datagram socket, on a clock of its own."""

import socket
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.daemons.runtime.manager import service_manager
from xbd.daemons.runtime.peers import Alarm
from xbd.daemons.runtime.sd_notify import ServiceManager
from xbd.errors import ConfigError

PID = 42


def environment(**more: str) -> dict[str, str]:
    """Spell out the variables of a service that is watched every 10 s."""
    return {"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": str(PID), **more}


def test_each_state_is_one_message(tmp_path: Path) -> None:
    """With the lines that systemd expects together; a status that stays is told once."""
    with service_manager(tmp_path) as heard:
        manager = ServiceManager.from_environment(environment(NOTIFY_SOCKET=heard.address), PID)
        manager.ready("2 domains")
        manager.status("2 domains")
        manager.status("3 domains")
        manager.reloading()
        manager.stopping("ending")
        ready, status, reloading, stopping = heard.take()

    assert ready == {"READY": "1", "STATUS": "2 domains"}
    assert status == {"STATUS": "3 domains"}
    assert reloading["RELOADING"] == "1"
    assert reloading["MONOTONIC_USEC"].isdecimal()
    assert stopping == {"STOPPING": "1", "STATUS": "ending"}


def test_an_abstract_socket_is_spelt_with_an_at() -> None:
    """As some managers name theirs."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as listener:
        listener.bind("")  # an abstract name of the kernel's choice
        address = "@" + listener.getsockname()[1:].decode()
        ServiceManager.from_environment({"NOTIFY_SOCKET": address}, PID).ready("there")
        assert listener.recv(100) == b"READY=1\nSTATUS=there"


def test_a_manager_that_has_gone_ends_nobody(tmp_path: Path) -> None:
    """What cannot be told is logged; the daemon serves on."""
    ServiceManager(str(tmp_path / "nobody.sock")).ready("there")


@pytest.mark.parametrize(
    ("environ", "feeds"),
    [(environment(), 7), (environment(WATCHDOG_PID="43"), 0), ({"WATCHDOG_USEC": "20000000"}, 4), ({}, 0)],
)
async def test_the_watchdog_is_fed_twice_per_period(
    tmp_path: Path, autojump_clock: MockClock, environ: dict[str, str], feeds: int
) -> None:
    """Where it watches this very process; otherwise the feeding ends at once."""
    del autojump_clock
    with service_manager(tmp_path) as heard:
        manager = ServiceManager.from_environment({**environ, "NOTIFY_SOCKET": heard.address}, PID)
        with trio.move_on_after(32):
            await manager.feed()
        assert heard.take() == [{"WATCHDOG": "1"}] * feeds


async def test_a_turn_that_does_not_end_starves_the_watchdog(tmp_path: Path, mock_clock: MockClock) -> None:
    """However long a task holds the loop, nobody feeds meanwhile: not a thread, not a timer."""
    with service_manager(tmp_path) as heard:
        manager = ServiceManager.from_environment(environment(NOTIFY_SOCKET=heard.address), PID)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(manager.feed)
            await trio.testing.wait_all_tasks_blocked()
            assert heard.take() == [{"WATCHDOG": "1"}]
            for _ in range(100):
                mock_clock.jump(10)  # a turn goes on and on
                assert heard.take() == []
            await trio.testing.wait_all_tasks_blocked()
            assert heard.take() == [{"WATCHDOG": "1"}]
            nursery.cancel_scope.cancel()


async def test_a_burst_of_changes_is_told_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The first at once, the others when a second has gone by, the last for good."""
    del autojump_clock
    statuses: list[str] = []
    with service_manager(tmp_path) as heard:
        alarm = Alarm()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ServiceManager(heard.address).follow, alarm.wait, lambda: statuses[-1])
            for count in range(1, 11):
                statuses.append(f"{count} domains")
                alarm.ring()
                await trio.sleep(0.3)
            await trio.sleep(2)
            nursery.cancel_scope.cancel()
        assert [message["STATUS"] for message in heard.take()] == [f"{n} domains" for n in (1, 4, 7, 10)]


@pytest.mark.parametrize("usec", ["soon", "", "0", "-5", "1.5"])
def test_a_watchdog_that_makes_no_sense_is_named(usec: str) -> None:
    """Rather than passed over: the manager would kill us for it."""
    with pytest.raises(ConfigError, match=r"WATCHDOG_USEC.*is not a number of microseconds"):
        ServiceManager.from_environment({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": usec}, PID)
