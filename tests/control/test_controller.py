"""The daemon's core without sockets: the toolstack's methods, events, and what it keeps of each domain."""

import numpy as np
import pytest

from tests.control.sockets import Groups
from tests.peer import (
    HOST_SUPERFRAMES,
    DirectPeer,
    agent,
    clock,
    create,
    create_again,
    do,
    listed,
    small_host,
    toolstack,
)
from xbd.control.controller import Controller
from xbd.control.endpoint import DomainEndpoint
from xbd.control.event_log import EventLog
from xbd.domain import is_about
from xbd.errors import AlreadyExists, BadArgument, HypercallError, NoSuchDomain, OutOfFrames
from xbd.machine import Machine
from xbd.protocol.codec import Notification
from xbd.protocol.methods import TOOLSTACK_METHODS


def test_a_domain_is_described_as_documented() -> None:
    """`info` and `list` have the keys that scripts rely on."""
    host = small_host()
    domid = create(host, seed=7)

    told = host.call("info", {"domain": "web"})
    assert told == host.call("info", {"domain": domid}) == listed(host)[0]
    assert told.keys() >= {"domid", "name", "state", "tot_pages", "target_pages", "max_pages", "superpage_coverage"}
    assert told.keys() >= {"gfn_count", "leaves", "agent", "guest", "hypercalls", "extents", "report", "autostart"}
    assert (told["state"], told["tot_pages"], told["guest"], told["report"]) == ("waiting", 2048, {"seed": 7}, None)


def test_every_documented_method_is_answered() -> None:
    """No method of the table is unknown to the daemon, and no other is known."""
    peer = toolstack(small_host())

    for method in TOOLSTACK_METHODS:
        answer = peer.call(method)
        assert "unknown method" not in answer.get("message", ""), method
    assert "unknown method 'lst'" in peer.call("lst")["message"]


@pytest.mark.parametrize(
    ("method", "params", "error"),
    [
        ("info", {"domain": 99}, NoSuchDomain),
        ("info", {"domain": "nosuch"}, NoSuchDomain),
        ("info", {"domain": [1]}, BadArgument),
        ("info", {}, BadArgument),
        ("destroy", {"domid": 99}, NoSuchDomain),
        ("create", {"name": "web", "max_pages": 512, "target_pages": 512}, AlreadyExists),
        ("create", {"name": "new", "max_pages": 513, "target_pages": 512}, BadArgument),
        ("create", {"name": "new", "max_pages": 1 << 40, "target_pages": 512}, BadArgument),
        ("create", {"name": "new", "max_pages": 1 << 20, "target_pages": 1 << 20}, OutOfFrames),
        ("create", {"name": "new", "max_pages": 512, "target_pages": 512, "guest": {"colour": 1}}, BadArgument),
        ("create", {"name": "new", "max_pages": 512, "target_pages": 512, "guest": {"strategy": "best"}}, BadArgument),
        ("create", {"name": "new", "max_pages": 512, "target_pages": 512, "guest": {"seed": -1}}, BadArgument),
        ("create", {"name": "new", "max_pages": 512, "target_pages": 512, "guest": {"workload": 5}}, BadArgument),
        ("create", {"name": "new", "max_pages": 512, "target_pages": 512, "guest": {"driver": {"x": 1}}}, BadArgument),
        ("create", {"name": "n\x1bw", "max_pages": 512, "target_pages": 512}, BadArgument),
        ("create", {"name": "new", "max_pages": 512, "target_pages": 512, "type": "vax"}, BadArgument),
        ("create", {"name": "new", "max_pages": 1024, "target_pages": 512, "min_pages": 1024}, BadArgument),
        ("create", {"name": "new", "max_pages": 512, "target_pages": 512, "domid": 0}, BadArgument),
        (
            "create",
            {"name": "new", "max_pages": 512, "target_pages": 512, "guest": {"block_back_end": True}},
            BadArgument,
        ),
        ("set_target", {"domid": "web", "pages": 9 * 512}, BadArgument),
        ("set_target", {"domid": "web", "pages": 0}, BadArgument),
        ("set_target", {"domid": "web", "pages": "512"}, BadArgument),
        ("set_max", {"domid": "web", "pages": 1 << 30}, BadArgument),
        ("claim", {"domid": "web", "pages": 9 * 512}, BadArgument),
        ("claim", {"domid": "web", "pages": 512}, BadArgument),
        ("claim", {"domid": "nosuch", "pages": 0}, NoSuchDomain),
        ("claim", {"domid": "web", "pages": -1}, BadArgument),
        ("guest_mode", {"domid": "web", "mode": "lazy"}, BadArgument),
        ("list", {"all": True}, BadArgument),
    ],
)
def test_bad_calls_are_refused_and_change_nothing(
    method: str, params: dict[str, object], error: type[HypercallError]
) -> None:
    """Each mistake gets an error that names it; domains, events and frames are as before."""
    host = small_host()
    create(host)
    before = listed(host), host.events.next_number, host.machine.statistics()

    with pytest.raises(error) as caught:
        host.call(method, params)
    assert caught.value.message
    assert (listed(host), host.events.next_number, host.machine.statistics()) == before
    assert host.audit() == []


def test_the_maps_of_a_superframe_and_of_a_domain_have_what_it_holds() -> None:
    """Over the wire: the frames of its superframes that are its, and the populated gfns of its blocks, are all its pages."""
    host = small_host()
    domid = create(host)
    peer = toolstack(host)
    agent(host, domid).call("decrease", gfns=np.arange(100, dtype="<i8").tobytes(), order=0)
    held = host.domain_info(domid).tot_pages

    owners = b"".join(peer.call("superframe", index=index)["owner"] for index in range(HOST_SUPERFRAMES))
    assert np.count_nonzero(np.frombuffer(owners, dtype="<u2") == domid + 1) == held
    blocks = peer.call("blocks", domain="web")
    assert np.frombuffer(blocks["populated"], dtype="<u2").sum() == held
    assert np.frombuffer(blocks["kind"], dtype=np.uint8)[:2].tolist() == [2, 1]
    assert peer.call("superframe", index=HOST_SUPERFRAMES)["errno"] == "EINVAL"


def test_a_domain_without_a_socket_is_not_created() -> None:
    """Where no socket can be made, the domain's memory goes back."""

    class NoSockets(Groups):
        def open(self, domid: int) -> None:
            raise HypercallError(f"no socket for d{domid}", errno="ENFILE")

    host = Controller(Machine(HOST_SUPERFRAMES), sockets=NoSockets(), clock=clock)

    with pytest.raises(HypercallError, match="ENFILE"):
        create(host)
    assert listed(host) == []
    assert host.machine.statistics().free_superframes == HOST_SUPERFRAMES


def test_events_tell_a_domain_s_story() -> None:
    """Everything that happens to a domain is told in order, without gaps."""
    host = small_host()
    domid = create(host)
    peer = agent(host, domid)
    host.call("set_target", {"domid": domid, "pages": 512})
    peer.call("decrease", gfns=np.arange(512, 2048, 512, dtype="<i8").tobytes(), order=9)
    host.call("set_max", {"domid": domid, "pages": 1024})
    host.call("guest_mode", {"domid": domid, "mode": "stuck"})
    peer.endpoint.closed()
    host.call("shutdown", {"domid": domid})
    host.call("destroy", {"domid": domid})

    told = host.events.since(0)
    assert [event["event"] for event in told] == [
        *("created", "agent_connected", "target", "settled", "max", "mode", "agent_lost", "shutdown", "destroyed")
    ]
    assert [event["number"] for event in told] == list(range(1, 10))
    assert all(event["name"] == "web" and event["domid"] == domid for event in told)


def test_a_domain_is_told_from_the_next_one_of_its_number_and_name() -> None:
    """By its UUID, in events too; an agent that means the one is refused by the other."""
    host = small_host()
    domid = create(host)
    first = host.domain_info(domid)
    do(host, "destroy", domid=domid)
    create_again(host, domid)
    second = host.domain_info(domid)

    assert (first.domid, first.name, first.birth, second.birth) == (second.domid, second.name, 1, 2)
    assert [event["uuid"] for event in host.events.since(0)] == [first.uuid, first.uuid, second.uuid]
    assert [[is_about(event, one) for event in host.events.since(0)] for one in (first, second)] == [
        [True, True, False],
        [False, False, True],
    ]
    peer = DirectPeer(DomainEndpoint(host, domid, lambda: None))
    assert peer.call("hello", version=1, session="a", uuid=first.uuid)["errno"] == "ESRCH"
    assert peer.call("hello", version=1, session="a", uuid=second.uuid)["resumed"] is False


def test_subscribers_get_what_is_to_come() -> None:
    """Kept events come as the answer, later ones as notifications, none twice."""
    host = small_host()
    create(host, "a")
    rings: list[None] = []
    peer = toolstack(host, lambda: rings.append(None))
    answer = peer.call("events", since=0)
    create(host, "b")

    assert [event["name"] for event in answer["events"]] == ["a"]
    assert answer["next"] == 2
    assert len(rings) == 1
    (told,) = peer.pending()
    assert isinstance(told, Notification)
    assert told.method == "event"
    assert told.untrusted_params[0]["name"] == "b"  # type: ignore[index]
    assert peer.pending() == []
    peer.endpoint.closed()
    create(host, "c")
    assert len(rings) == 1


def test_a_subscriber_that_missed_events_is_dropped() -> None:
    """The log is bounded; who falls behind it is told so and dropped, rather than told half."""
    host = small_host()
    host.events = EventLog(clock, kept=3)
    peer = toolstack(host)
    peer.call("events")
    domid = create(host)
    for _ in range(4):
        host.call("guest_mode", {"domid": domid, "mode": "stuck"})

    (told,) = peer.pending()
    assert isinstance(told, Notification)
    assert told.method == "dropped"
    assert "2 events were missed" in str(peer.endpoint.dropped)


def test_notices_reach_the_agent_and_the_latest_wins() -> None:
    """Three targets in a row are one notice; numbers rise."""
    host = small_host()
    domid = create(host)
    peer = agent(host, domid)
    for superpages in (3, 2, 1):
        host.call("set_target", {"domid": domid, "pages": superpages * 512})
    host.call("set_max", {"domid": domid, "pages": 2048})
    host.call("shutdown", {"domid": domid})

    assert peer.pending() == [
        Notification("target", [{"number": 3, "pages": 512}]),
        Notification("limit", [{"number": 4, "pages": 2048}]),
        Notification("shutdown", [{"number": 5}]),
    ]
    assert peer.pending() == []


def test_a_guest_stops_when_asked_and_only_then() -> None:
    """`stopped` counts after a shutdown was asked for; a new session runs again."""
    host = small_host()
    domid = create(host)
    peer = agent(host, domid)
    stopped = b"\x93\x02\xa7stopped\x91\x80"

    peer.send(stopped)
    assert host.call("info", {"domain": domid})["state"] == "running"
    host.call("shutdown", {"domid": domid})
    peer.send(stopped)
    assert host.call("info", {"domain": domid})["state"] == "shutdown"
    peer.endpoint.closed()
    assert host.call("info", {"domain": domid})["state"] == "shutdown"
    agent(host, domid, "b")
    assert host.call("info", {"domain": domid})["state"] == "running"
