"""Guests that stop and boot again: why they stopped, who boots them, and what a restart of the daemon makes of it."""

import pytest

from tests.control.link import Link, new_agent
from tests.daemons.test_recovery import restarted, saved_host, tick
from tests.peer import EVENT_TIME_S, agent, create, do, small_host
from xbd.control.domain_life import REBOOT_AFTER_S
from xbd.control.domain_record import CRASHED_AFTER_S
from xbd.errors import BadArgument, NotPermitted


def running_guest() -> Link:
    """Make a host with a guest that would be destroyed if its agent died."""
    host = small_host()
    domid = do(host, "create", name="web", max_pages=4096, target_pages=2048, on_crash="destroy")["domid"]
    assert isinstance(domid, int)
    link = Link(host, domid, new_agent())
    link.settle()
    return link


def test_a_guest_that_reboots_stops_and_another_one_boots() -> None:
    """A second later, in the same domain, with its memory zeroed; the agent that has stopped is no crash."""
    link = running_guest()
    host, domid = link.host, link.domid
    do(host, "shutdown", domid=domid, reason="reboot")
    link.settle()
    assert link.agent.finished
    link.endpoint.closed()
    seen = host.domain_info(domid)
    assert (seen.state, seen.shutdown_reason) == ("shutdown", "reboot")
    assert tick(host, 50.0) == 50.0 + REBOOT_AFTER_S
    assert host.domain_info(domid).state == "shutdown"
    assert tick(host, 50.0 + REBOOT_AFTER_S) is None
    seen = host.domain_info(domid)
    assert (seen.state, seen.shutdown_reason) == ("waiting", None)
    assert tick(host, 60.0 + CRASHED_AFTER_S) is None
    assert seen.started_at_s == EVENT_TIME_S
    host.clock = lambda: 3600.0
    again = Link(host, domid, new_agent())
    again.settle()
    seen = host.domain_info(domid)
    assert (seen.state, seen.started_at_s) == ("running", 3600.0)
    said = [(one["event"], one.get("reason")) for one in host.events.since(0)]
    assert said[-4:] == [("shutdown", "reboot"), ("agent_lost", None), ("started", None), ("agent_connected", None)]
    # It was asked once.
    assert not again.agent.finished
    assert host.audit() == []


def test_a_reboot_goes_on_after_a_restart_of_the_daemon() -> None:
    """Whether the guest had stopped by then or not."""
    store, host = saved_host()
    domid = create(host)
    do(host, "shutdown", domid=domid, reason="reboot")
    host = restarted(store)
    seen = host.domain_info(domid)
    assert (seen.state, seen.shutdown_reason) == ("shutdown", "reboot")
    assert tick(host, 1.0) == 1.0 + REBOOT_AFTER_S
    assert tick(host, 2.0) is None
    assert restarted(store).domain_info(domid).state == "waiting"


def test_a_stopped_guest_is_started() -> None:
    """Also one that has crashed and is kept, and one that was to have no agent; one that runs is refused."""
    link = running_guest()
    host, domid = link.host, link.domid
    with pytest.raises(BadArgument, match="d1 runs"):
        do(host, "start", domid=domid)
    do(host, "shutdown", domid=domid)
    link.settle()
    link.endpoint.closed()
    assert host.domain_info(domid).shutdown_reason == "poweroff"
    with pytest.raises(BadArgument, match="`xbd start` boots this one"):
        do(host, "shutdown", domid=domid, reason="reboot")
    do(host, "start", domid="web")
    assert host.domain_info(domid).state == "waiting"

    kept = do(host, "create", name="kept", max_pages=1024, target_pages=1024, on_crash="preserve", autostart=False)
    agent(host, kept["domid"]).endpoint.closed()  # type: ignore[arg-type]  # a domid
    tick(host, 0.0)
    tick(host, CRASHED_AFTER_S)
    seen = host.domain_info(2)
    assert (seen.state, seen.shutdown_reason, seen.autostart) == ("crashed", "crash", False)
    do(host, "start", domid="kept")
    seen = host.domain_info(2)
    assert (seen.state, seen.shutdown_reason, seen.autostart) == ("waiting", None, True)
    assert agent(host, 2, session="b").endpoint.admitted


def test_dom0_does_not_reboot() -> None:
    """It ends with its host."""
    host = small_host()
    with host.step():
        host.create_dom0({"name": "dom0", "max_pages": 2048, "target_pages": 2048})
    with pytest.raises(NotPermitted, match="cannot be shut down"):
        do(host, "shutdown", domid=0, reason="reboot")
