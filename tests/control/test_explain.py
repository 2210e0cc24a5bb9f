"""Why a domain holds what it holds: each reason by what shows it."""

from typing import Any

import pytest

from tests.cli.views import MIB, domain
from tests.control.test_balancer import client_of, look
from tests.peer import create, small_host, toolstack
from xbd.control.balancer import Balancer
from xbd.control.explain import governed, hindrances, target_reasons, why_stuck, workload_reasons
from xbd.policy.model import Settings

FULL = {"free_frames": 20 * MIB, "claimed_frames": 16 * MIB}
USED = {"movable_pages": 150 * MIB, "unmovable_pages": 40 * MIB, "cache_pages": 10 * MIB}


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"agent": False, "state": "waiting"}, "no-agent", "no agent is connected"),
        ({"state": "paused", "pauses": 1}, "paused", "`xbd unpause web1` lets it go on"),
        ({"state": "silent"}, "agent-silent", "does not answer"),
        ({"agent": False, "state": "zombie"}, "zombie", "others still map 512 MiB"),
        ({"mode": "stuck"}, "mode", "guest-mode web1 normal"),
        ({"report": USED}, "guest-holds", "its programs and kernel hold 180 MiB"),
        ({"report": {"aim_pages": 300 * MIB}}, "driver-floor", "goes no lower than 300 MiB"),
        ({"report": {"worker_state": "again", "schedule_delay": 8}}, "backing-off", "tries again in at most 8 s"),
        ({"referenced_pages": 4}, "mapped-by-others", "others map 16 KiB"),
        ({"target_pages": 768 * MIB, "report": {"worker_state": "cancelled"}}, "cancelled", "all that its limit"),
        ({"mapped_grants": 3}, "maps-others", "3 pages of others"),
        ({"target_pages": 768 * MIB}, "limit", "its limit, 512 MiB, is below its target"),
        ({"target_pages": 768 * MIB, "max_pages": 768 * MIB}, "host-full", "20 MiB free, 16 MiB of that claimed"),
        (
            {"target_pages": 768 * MIB, "gfn_count": 768 * MIB, "report": {"slots": 5}},
            "slots",
            "20 KiB of it are slots",
        ),
    ],
)
def test_each_hindrance_has_its_code_and_its_cause(changes: dict[str, Any], code: str, words: str) -> None:
    """By the listing, the host and the guest's report."""
    found = {reason.code: reason.text for reason in hindrances(domain(**{"target_pages": 2 * MIB, **changes}), FULL)}
    assert words in found[code]


def test_a_disk_that_is_full_is_the_first_reason() -> None:
    """Also of a guest whose agent waits for its hello to be answered."""
    why = why_stuck(domain(target_pages=2 * MIB, agent=False, state="waiting"), {"guests_wait": "the disk is full"})
    assert why.startswith("the disk is full; no guest's calls are answered")


def test_a_guest_that_cannot_give_more_is_told_with_the_cause() -> None:
    """`mem-set web1 2m` names what programs and kernel hold, and does not only say that it gives up no more."""
    assert "hold 180 MiB" in why_stuck(domain(target_pages=512, report=USED))
    assert hindrances(domain()) == []


def test_who_set_the_target_is_told() -> None:
    """The one that made the domain, then the client by its own name; one that gives none is a client."""
    host = small_host()
    domid = create(host)
    peer = toolstack(host)
    setters = [peer.call("info", domain=domid)["target_set_by"]]
    for client in ({"client": "xbd mem-set"}, {}):
        peer.call("hello", version=1, **client)
        peer.call("set_target", domid=domid, pages=1024)
        setters.append(peer.call("info", domain=domid)["target_set_by"])
    assert setters == ["create", "xbd mem-set", "a client"]
    said = target_reasons(domain(target_set_by="xbd mem-set"), None)
    assert said[0].text == "its target, 512 MiB, was set by xbd mem-set"
    assert "not known" in target_reasons(domain(), None)[0].text


def test_the_policy_says_why_it_leaves_a_domain_alone() -> None:
    """Verdict, goal and the reason come from its own status, and become sentences."""
    balancer = Balancer(Settings())
    look(balancer, 0.0)
    details = client_of(balancer).call("status")["details"]
    assert (details["1"]["verdict"], details["1"]["kept"]) == ("willing", "moved")
    assert (details["2"]["verdict"], details["2"]["kept"]) == ("unable", "unable")
    look(balancer, 1.0)
    details = client_of(balancer).call("status")["details"]
    assert details["1"]["kept"] == "interval"
    codes = [reason.code for reason in target_reasons(domain(), details["1"])]
    assert codes == ["target-set-by", "governed", "policy-goal", "policy-reason", "policy-interval"]


def test_a_refusal_is_told_with_the_time_of_the_next_try() -> None:
    """What it would not go below, and when it is asked again."""
    told = {"verdict": "uncooperative", "goal_pages": 512, "least_pages": 100 * MIB, "rests_s": 42}
    assert any("below 100 MiB; it is asked again in 42 s" in reason.text for reason in target_reasons(domain(), told))


def test_many_governed_domains_take_one_line() -> None:
    """The first are named, the others counted."""
    assert governed(["a", "b", "c", "d", "e"]).startswith("autoballoon governs a, b, c and 2 more ")


def test_a_trace_that_asks_for_more_than_there_is_shows() -> None:
    """What is lacking now, what its agent cannot keep up with, and of one without an agent what to look at."""
    plays = {"guest": {"workload": {"trace": "/web.csv"}}}
    report = {
        "trace_s": 90,
        "unmet_pages": 5 * MIB,
        "pages_denied": 9 * MIB,
        "ticks": 90,
        "ticks_late": 3,
        "tick_worst_ms": 1500,
    }
    found = {reason.code: reason.text for reason in workload_reasons(domain(**plays, report=report))}
    assert list(found) == ["trace", "demand-unmet", "trace-lag"]
    assert "/web.csv, at 90 s" in found["trace"]
    assert "has not got 5 MiB, since it booted 9 MiB" in found["demand-unmet"]
    assert "late with 3 of 90 samples, by 1.5 s at worst, and left 0 out" in found["trace-lag"]
    (missing,) = workload_reasons(domain(**plays, agent=False, state="waiting"))
    assert "`xbd trace check`" in missing.text
    assert workload_reasons(domain()) == []


def test_a_node_that_is_full_is_said_though_the_host_is_not() -> None:
    """Of a domain whose memory must lie there; one that has a soft affinity is not kept by it."""
    nodes = [{"free_frames": free * MIB, "claimed_frames": 2 * MIB} for free in (900, 5)]
    host = {"free_frames": 905 * MIB, "claimed_frames": 4 * MIB, "nodes": nodes}
    growing = {"target_pages": 600 * MIB, "max_pages": 600 * MIB, "gfn_count": 600 * MIB, "nodes": [1]}
    growing |= {"node_claims": [0, 0], "node_pages": [0, 512 * MIB]}
    (reason,) = hindrances(domain(**growing, affinity="hard"), host)
    assert (reason.code, reason.text[:71]) == (
        "node-full",
        "it lacks 88 MiB, and may lie on node 1 alone, where 5 MiB are free; `xb",
    )
    assert [one.code for one in hindrances(domain(**growing), host)] == ["moving"]
    enough = {**host, "nodes": [nodes[0], {"free_frames": 90 * MIB, "claimed_frames": 2 * MIB}]}
    assert [one.code for one in hindrances(domain(**growing, affinity="hard"), enough)] == ["moving"]
