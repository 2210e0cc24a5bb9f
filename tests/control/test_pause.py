"""Paused domains: their guests do nothing, their agents' calls wait, and both go on where they were."""

from typing import Any

import pytest

from tests.control.link import Link, new_agent
from tests.daemons.test_recovery import gfns, restarted, saved_host
from tests.peer import agent, create, do, small_host
from xbd.abi import MAX_IN_FLIGHT
from xbd.control.domain_record import SAVED
from xbd.domain import MAX_PAUSES
from xbd.errors import BadArgument, HypercallError, NotPermitted
from xbd.protocol.codec import Notification, Response, encode_notification

MOVING: dict[str, Any] = {"workload": {"profile": "steady", "used": 0.15}, "verify": True}


def test_a_paused_guest_stands_still_and_goes_on_where_it_was() -> None:
    """In the middle of its way to a target: no page moves, however long it is paused, and then it gets there."""
    host = small_host()
    link = Link(host, create(host, superpages=32, target=28, **MOVING), new_agent())
    link.settle()
    do(host, "set_target", domid=link.domid, pages=6 * 512)
    for _ in range(2):
        link.carry()
    do(host, "pause", domid=link.domid)
    for _ in range(4):
        link.carry()
    link.settle()
    domain = host.machine.domain(link.domid)
    guest = link.agent.guest
    assert guest is not None
    still, report = domain.tot_pages, guest.report()
    assert still > 6 * 512
    do(host, "set_target", domid=link.domid, pages=8 * 512)
    do(host, "guest_mode", domid=link.domid, mode="floor 4194304b")
    link.settle()
    link.advance(300)
    seen = host.domain_info(link.domid)
    assert (seen.state, seen.pauses, seen.tot_pages) == ("paused", 1, still)
    assert guest.report() == report
    do(host, "unpause", domid=link.domid)
    link.settle()
    link.advance(300)
    seen = host.domain_info(link.domid)
    assert (seen.state, seen.pauses, seen.tot_pages, seen.mode) == ("running", 0, 8 * 512, "floor 4194304b")
    assert (host.audit(), guest.check()) == ([], [])


def test_an_agent_that_does_not_heed_a_pause_gets_no_answer_before_its_end() -> None:
    """What it calls for meanwhile is done afterwards, in order; a notification needs no answer, and counts at once."""
    host = small_host()
    peer = agent(host, domid := create(host))
    do(host, "pause", domid=domid)
    assert peer.pending() == [Notification("paused", [{"number": 1, "paused": True}])]
    assert peer.send(peer.pack("decrease", {"gfns": gfns(1, 2)}) + peer.pack("populate", {"gfns": gfns(2)})) == []
    assert peer.send(encode_notification("leaving", {})) == []
    assert (host.record(domid).left, host.machine.domain(domid).tot_pages) == (True, 2048)
    do(host, "unpause", domid=domid)
    told, *answers = peer.pending()
    assert told == Notification("paused", [{"number": 2, "paused": False}])
    assert [one.untrusted_result for one in answers if isinstance(one, Response)] == [[2, None], [1, None]]
    assert (peer.pending(), host.machine.domain(domid).tot_pages) == ([], 2047)
    assert peer.call("populate", gfns=gfns(1)) == [1, None]


def test_an_agent_cannot_pile_calls_up_while_it_is_paused() -> None:
    """One more than may be in flight ends its connection; nothing of them was done."""
    host = small_host()
    peer = agent(host, domid := create(host))
    do(host, "pause", domid=domid)
    for number in range(MAX_IN_FLIGHT + 1):
        assert peer.endpoint.dropped is None
        peer.send(peer.pack("decrease", {"gfns": gfns(number)}))
    assert "calls wait while d1 is paused" in str(peer.endpoint.dropped)
    do(host, "unpause", domid=domid)
    assert (peer.pending(), host.machine.domain(domid).tot_pages) == ([], 2048)


def test_pauses_are_counted_as_in_xen() -> None:
    """As many unpauses as pauses; no more of either than there can be, and none of dom0."""
    host = small_host()
    with host.step():
        host.create_dom0({"name": "dom0", "max_pages": 2048, "target_pages": 2048})
    domid = create(host)
    with pytest.raises(BadArgument, match="d1 is not paused"):
        do(host, "unpause", domid=domid)
    assert [do(host, "pause", domid=domid)["pauses"] for _ in range(2)] == [1, 2]
    assert [do(host, "unpause", domid="web")["pauses"] for _ in range(2)] == [1, 0]
    assert [one["event"] for one in host.events.since(0)][-2:] == ["paused", "unpaused"]
    for _ in range(MAX_PAUSES):
        do(host, "pause", domid=domid)
    with pytest.raises(HypercallError, match="was paused 255 times") as refused:
        do(host, "pause", domid=domid)
    assert refused.value.errno == "EOVERFLOW"
    with pytest.raises(NotPermitted, match="cannot be paused"):
        do(host, "pause", domid=0)


@pytest.mark.parametrize("is_booting", [True, False])
def test_a_pause_outlives_connections_and_daemons(is_booting: bool) -> None:  # noqa: FBT001 - a parameter of pytest
    """A guest that is resumed, or that boots, while it is paused does nothing until that ends, whoever is the daemon then."""
    store, host = saved_host()
    link = Link(host, create(host, superpages=32, target=28, **MOVING), new_agent())
    if not is_booting:
        link.settle()
    do(host, "pause", domid=link.domid)
    do(host, "set_target", domid=link.domid, pages=14 * 512)
    link.host = restarted(store)
    link.connect()
    link.settle()
    link.advance(60)
    seen = link.host.domain_info(link.domid)
    assert (seen.state, seen.tot_pages) == ("paused", 28 * 512)
    do(link.host, "unpause", domid=link.domid)
    link.settle()
    link.advance(60)
    assert link.host.domain_info(link.domid).tot_pages == 14 * 512
    assert link.host.audit() == []


def test_a_state_that_was_saved_by_an_earlier_version_is_read() -> None:
    """Its records lack what came later: their domains are not paused, and stop to be off."""
    store, host = saved_host()
    record = host.record(create(host))
    record.vcpus = 4
    do(host, "shutdown", domid=record.domid, reason="reboot")
    do(host, "pause", domid=record.domid)
    with host.step():
        assert record.saved is not None
        record.saved.write({key: getattr(record, key) for key in SAVED[:9]})
    assert (SAVED[8], SAVED[9]) == ("left", "pauses")
    seen = restarted(store).domain_info(record.domid)
    assert (seen.name, seen.pauses, seen.state, seen.shutdown_reason) == ("web", 0, "shutdown", "poweroff")
    assert (seen.vcpus, seen.started_at_s) == (1, None)
