"""The autoballoon daemon's core: what it tells the policy, and reservations that live as long as their connection."""

import pytest

from tests.cli.views import MIB, domain
from tests.peer import DirectPeer
from xbd.control.balancer import Balancer, BalancerEndpoint, demand_of, managed_domains, snapshot_of
from xbd.policy.model import SetMax, SetTarget, Settings

HOST = {"frames": 2048 * MIB, "free_frames": 1024 * MIB, "claimed_frames": 0}
DOMAINS = [
    domain(domid=0, name="dom0", tot_pages=256 * MIB, target_pages=256 * MIB),
    domain(
        domid=1, name="web1", gfn_count=1024 * MIB, report={"movable_pages": 9, "unmovable_pages": 3, "cache_pages": 2}
    ),
    domain(domid=2, name="web2", state="waiting"),
    domain(domid=3, name="old", state="zombie"),
]


def client_of(balancer: Balancer) -> DirectPeer:
    """Connect a client that has said hello."""
    peer = DirectPeer(BalancerEndpoint(balancer, lambda: None))
    assert peer.call("hello", version=1) == {"version": 1, "host": "autoballoon"}
    return peer


def look(balancer: Balancer, now: float) -> list[object]:
    """Let the balancer look at the host of this module."""
    return list(balancer.step(snapshot_of(HOST, managed_domains(DOMAINS, ["*"])), now))


@pytest.mark.parametrize(
    ("patterns", "domids"), [(["*"], [1, 2]), (["web1", "dom0"], [0, 1]), (["nobody*"], []), (["w*", "nobody"], [1, 2])]
)
def test_patterns_say_who_is_minded(patterns: list[str], domids: list[int]) -> None:
    """Guests by default; dom0 where it is named; a pattern that matches nobody is no error, and zombies are nobody's."""
    assert [found.domid for found in managed_domains(DOMAINS, patterns)] == domids


@pytest.mark.parametrize(
    ("report", "pages"),
    [
        ({"movable_pages": 9, "unmovable_pages": 3, "cache_pages": 2}, 12),
        ({"movable_pages": 9, "unmovable_pages": 3}, None),
        ({"movable_pages": "9", "unmovable_pages": 3, "cache_pages": 2}, None),
        ({"movable_pages": True, "unmovable_pages": 3, "cache_pages": 2}, None),
        ({}, None),
    ],
)
def test_demand_is_read_from_what_a_guest_says_if_it_makes_sense(report: dict[str, object], pages: int | None) -> None:
    """All that it uses but its page cache, and a quarter more; nothing is made of a report that is not one."""
    assert demand_of(domain(report=report)) == pages


def test_a_report_that_is_missing_is_none_of_a_guest_that_needs_nothing() -> None:
    """A domain needs what it last needed; another one of its number and name has not said; one that is silent cannot balloon."""
    balancer = Balancer(Settings())

    def told(**changes: object) -> tuple[int | None, bool]:
        (found,) = balancer.snapshot(HOST, [domain(uuid="one") if not changes else domain(**changes)]).domains
        return found.demand_pages, found.can_balloon

    used = {"movable_pages": 9, "unmovable_pages": 3, "cache_pages": 2}
    assert told(uuid="one", report=used) == (12, True)
    assert told() == told() == (12, True)
    assert told(uuid="one", report={"movable_pages": 0, "unmovable_pages": 0}, state="silent") == (12, False)
    assert told(uuid="other") == (None, True)


def test_a_snapshot_says_who_can_balloon() -> None:
    """A domain without an agent holds what it holds; the others' bounds are the hypervisor's word."""
    snapshot = snapshot_of(HOST, DOMAINS[1:3])

    assert [told.can_balloon for told in snapshot.domains] == [True, False]
    assert snapshot.domains[0].static_max_pages == 1024 * MIB
    assert (snapshot.free_pages, snapshot.domains[0].demand_pages) == (1024 * MIB, 12)


def test_free_memory_is_shared_out() -> None:
    """The one domain that can take it grows: its limit first, then its target."""
    actions = look(Balancer(Settings()), 0.0)

    assert [type(action) for action in actions[-2:]] == [SetMax, SetTarget]
    assert all(action.domid == 1 for action in actions if isinstance(action, SetTarget))


def test_a_reservation_is_held_until_its_client_leaves() -> None:
    """It is pending until the next look, then held, and gone with the connection."""
    balancer = Balancer(Settings())
    peer = client_of(balancer)
    assert peer.call("reservation") == {"state": "none"}
    assert peer.call("reserve", pages=512 * MIB)["state"] == "pending"
    assert peer.call("reserve", pages=2)["errno"] == "EBUSY"
    look(balancer, 1.0)

    assert peer.call("reservation") == {"name": "r1", "pages": 512 * MIB, "state": "held"}
    assert [held["state"] for held in peer.call("status")["reservations"]] == ["held"]
    peer.endpoint.closed()
    assert balancer.state.reservations == ()


def test_what_cannot_be_freed_is_said_exactly() -> None:
    """How much is possible comes with the refusal."""
    balancer = Balancer(Settings())
    peer = client_of(balancer)
    peer.call("reserve", pages=4096 * MIB)
    look(balancer, 1.0)
    failed = peer.call("reservation")

    assert failed["state"] == "failed"
    assert 0 < failed["cannot_free"]["possible_pages"] < failed["cannot_free"]["needed_pages"] == 4096 * MIB


def test_other_settings_keep_reservations() -> None:
    """A reload changes what the policy may do, not what it has promised."""
    balancer = Balancer(Settings())
    peer = client_of(balancer)
    peer.call("reserve", pages=512)
    look(balancer, 1.0)
    balancer.change(Settings(headroom_pages=0))

    assert peer.call("status")["headroom_pages"] == 0
    assert peer.call("reservation")["state"] == "held"


@pytest.mark.parametrize(
    ("method", "params", "named"),
    [("resrve", {}, "resrve"), ("reserve", {}, "pages"), ("reserve", {"pages": 0}, "pages"), ("status", {"a": 1}, "a")],
)
def test_bad_calls_are_refused_by_name(method: str, params: dict[str, object], named: str) -> None:
    """Each mistake is named, and nothing is reserved."""
    balancer = Balancer(Settings())
    refused = client_of(balancer).call(method, **params)

    assert (refused["errno"], named in refused["message"]) == ("EINVAL", True)
    assert balancer.state.reservations == ()
