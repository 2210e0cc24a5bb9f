"""An agent and a daemon's endpoint, bytes handed from one to the other: boots, losses, resumptions."""

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.control.link import Link, new_agent
from tests.peer import HOST_SUPERFRAMES, clock, create, small_host
from xbd.control.agent import MOVING_REPORT_S, REPORT_EVERY_S, SETTLED_REPORT_S, Agent
from xbd.control.controller import Controller
from xbd.control.domain_record import DomainRecord
from xbd.control.guest_settings import guest_from_map
from xbd.guest.workload import parse_trace
from xbd.machine import Machine
from xbd.protocol import codec


def _linked(**settings: Any) -> Link:  # noqa: ANN401 - whatever a guest can be set to
    host = small_host()
    link = Link(host, create(host, superpages=16, target=12, **settings), new_agent())
    link.settle()
    return link


def _assert_in_order(link: Link) -> None:
    assert link.host.audit() == []
    guest = link.agent.guest
    assert guest is not None
    assert guest.check() == []
    assert guest.statistics().current_pages == link.host.machine.domain(link.domid).tot_pages
    assert guest.statistics().content_errors == 0


def test_a_guest_boots_and_follows_its_target() -> None:
    """A target that the toolstack sets reaches the guest as a notice, and the guest moves there."""
    link = _linked()
    link.host.call("set_target", {"domid": link.domid, "pages": 6 * 512})
    link.settle()

    assert link.host.machine.domain(link.domid).tot_pages == 6 * 512
    _assert_in_order(link)


class EarlierController(Controller):
    """A hypervisor of before there were multicalls."""

    def connect(self, *admitted: Any) -> dict[str, object]:  # noqa: ANN401 - as Controller's own
        """Answer a hello as it did."""
        return {key: told for key, told in super().connect(*admitted).items() if key != "multicall"}


def _methods_of_a_trip(host: Controller) -> Counter[str]:
    """Count the calls of a guest that gives up eight lists of single pages and gets them again."""
    domid = create(host, superpages=16, target=12, strategy="stock", driver={"commands_in_flight": 8})
    link = Link(host, domid, new_agent())
    link.settle()
    called: Counter[str] = Counter()
    for superpages in (4, 12):
        host.call("set_target", {"domid": domid, "pages": superpages * 512})
        moving = True
        while moving:
            decoder = codec.Decoder()
            decoder.feed(link.sent)
            while (message := decoder.next_message()) is not None:
                called[message.method if isinstance(message, codec.Request) else "notified"] += 1
            moving = link.carry()
        assert host.machine.domain(domid).tot_pages == superpages * 512
    _assert_in_order(link)
    return called


def test_lists_go_together_where_the_hypervisor_takes_that() -> None:
    """Two batches are a multicall; a hypervisor of before gets them one by one, and the guest comes to the same."""
    together = _methods_of_a_trip(small_host())
    alone = _methods_of_a_trip(EarlierController(Machine(HOST_SUPERFRAMES), clock=clock))

    assert together["multicall"] >= 8
    assert together["decrease"] + together["populate"] == 0
    assert alone["multicall"] == 0
    assert min(alone["decrease"], alone["populate"]) >= 8


@pytest.mark.parametrize("untrusted", [None, True, 0, -3, "8", 2.0, []])
def test_what_is_no_number_of_operations_means_none(untrusted: object) -> None:
    """An agent sends no multicall to a hypervisor that says something else than how many it takes."""

    class Strange(EarlierController):
        def connect(self, *admitted: Any) -> dict[str, object]:  # noqa: ANN401 - as Controller's own
            return {**super().connect(*admitted), "multicall": untrusted}

    assert _methods_of_a_trip(Strange(Machine(HOST_SUPERFRAMES), clock=clock))["multicall"] == 0


@pytest.mark.parametrize("seed", range(12))
def test_cut_anywhere_nothing_is_lost_or_done_twice(seed: int) -> None:
    """Connections that are cut at random, with commands in flight, leave guest and hypervisor agreed."""
    rng = np.random.default_rng(seed)
    link = _linked(
        workload={"profile": "steady", "used": 0.15},
        verify=True,
        strategy="stock" if seed % 2 else "full",
        driver={"commands_in_flight": 8},
    )
    for target in (5, 14, 7, 16, 6):
        link.host.call("set_target", {"domid": link.domid, "pages": target * 512})
        for _ in range(12):
            link.carry()
            if rng.random() < 0.4:
                link.cut()
        link.settle()
        link.advance(40)

    assert link.host.machine.domain(link.domid).tot_pages == 6 * 512
    _assert_in_order(link)


def test_an_agent_that_stops_to_answer_shows_as_silent() -> None:
    """One that has nothing new to say says so every ten seconds; one that is stopped is silent after thirty."""
    now = [0.0]
    host = Controller(Machine(HOST_SUPERFRAMES), clock=clock, monotonic=lambda: now[0])
    domid = create(host)
    agent = Agent(lambda: "session", uuid=host.domain_info(domid).uuid)
    link = Link(host, domid, agent)
    link.settle()
    for _ in range(60):
        link.advance(1)
        now[0] += 1
        seen = host.domain_info(domid)
        assert (seen.state, seen.report is not None) == ("running", True)
        assert seen.report_age_s is not None
        assert seen.report_age_s <= REPORT_EVERY_S + 1
    now[0] += 2 * REPORT_EVERY_S
    assert host.domain_info(domid).state == "running"
    now[0] += REPORT_EVERY_S
    seen = host.domain_info(domid)
    assert (seen.state, seen.agent, seen.report is not None) == ("silent", True, True)
    assert seen.report_age_s is not None
    assert seen.report_age_s >= 3 * REPORT_EVERY_S
    link.advance(REPORT_EVERY_S)
    assert host.domain_info(domid).state == "running"


def test_processor_time_is_reported_where_it_is_measured() -> None:
    """In tenths of a second, so that an idle guest has nothing new to report; in virtual time there is none."""
    host = small_host()
    link = Link(host, create(host), new_agent())
    link.settle()
    link.advance(REPORT_EVERY_S)
    assert "cpu_ms" not in host.domain_info(link.domid).reported
    link.agent.cpu_s = 1.26
    host.call("set_target", {"domid": link.domid, "pages": 1024})
    link.settle()
    assert host.domain_info(link.domid).reported["cpu_ms"] == 1200


def test_an_agent_that_does_not_say_how_often_it_reports_is_never_silent() -> None:
    """Agents of before report when there is something new."""
    now = [0.0]
    host = Controller(Machine(HOST_SUPERFRAMES), clock=clock, monotonic=lambda: now[0])
    link = Link(host, create(host), new_agent())
    link.settle()
    now[0] = 1000.0
    seen = host.domain_info(link.domid)
    assert (seen.state, seen.report_age_s) == ("running", 1000.0)


def test_a_session_that_is_not_known_any_more_is_a_reboot() -> None:
    """When another agent has booted the domain meanwhile, the guest is discarded whole and boots anew."""
    link = _linked()
    before = link.agent.guest
    link.endpoint.closed()
    usurper = Link(link.host, link.domid, Agent(lambda: "another"))
    usurper.settle()
    usurper.endpoint.closed()
    link.connect()
    link.settle()

    assert link.agent.guest is not before
    _assert_in_order(link)


def test_what_changed_while_away_is_told_at_the_resumption() -> None:
    """A target set while the connection was lost reaches the guest with the next hello."""
    link = _linked()
    link.endpoint.closed()
    link.host.call("set_target", {"domid": link.domid, "pages": 8 * 512})
    link.connect()
    link.settle()

    assert link.host.machine.domain(link.domid).tot_pages == 8 * 512


def test_a_mode_holds_over_a_lost_connection() -> None:
    """A guest told to be stuck stays so after its connection was cut, and moves when it is told normal."""
    link = _linked()
    link.host.call("guest_mode", {"domid": link.domid, "mode": "stuck"})
    link.settle()
    link.cut()
    link.host.call("set_target", {"domid": link.domid, "pages": 6 * 512})
    link.settle()
    assert link.host.machine.domain(link.domid).tot_pages == 12 * 512

    link.host.call("guest_mode", {"domid": link.domid, "mode": "normal"})
    link.settle()
    assert link.host.machine.domain(link.domid).tot_pages == 6 * 512


def test_a_shutdown_ends_the_guest_and_is_seen() -> None:
    """A guest asked to stop stops, its agent is finished, and the domain is listed as shut down."""
    link = _linked()
    link.host.call("shutdown", {"domid": link.domid})
    link.settle()

    assert link.agent.finished
    link.endpoint.closed()
    assert link.host.domain_info(link.domid).state == "shutdown"


def _note_reports(link: Link, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Note when the guest reports, from now on."""
    reports: list[float] = []
    reported = link.host.reported

    def note_and_keep(record: DomainRecord, untrusted_report: object) -> None:
        reports.append(link.now)
        reported(record, untrusted_report)

    monkeypatch.setattr(link.host, "reported", note_and_keep)
    return reports


def test_what_nobody_acts_on_is_reported_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest that frees and allocates the same amount each second reports every ten; what it needs is as it was."""
    link = _linked(workload={"profile": "steady", "churn": 0.001})
    link.advance(2 * REPORT_EVERY_S)
    reports = _note_reports(link, monkeypatch)
    link.advance(5 * REPORT_EVERY_S)
    assert 4 <= len(reports) <= 6


def test_a_need_that_changes_is_reported_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A burst shows within two seconds, though the last report is not old."""
    link = _linked(workload={"profile": "bursty", "period_ticks": 30})
    link.advance(15)
    reports = _note_reports(link, monkeypatch)
    free_before = link.host.domain_info(link.domid).reported["guest_free_pages"]
    link.advance(5 + SETTLED_REPORT_S)
    assert link.host.domain_info(link.domid).reported["guest_free_pages"] < free_before - 100
    assert any(20 <= at <= 20 + SETTLED_REPORT_S for at in reports)


def test_reports_are_coalesced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy guest reports about every two seconds when settled, never more often than four times a second."""
    link = _linked(workload={"profile": "bursty", "tick_s": 0.01})
    reports = _note_reports(link, monkeypatch)
    link.advance(10 * SETTLED_REPORT_S)

    assert 0 < len(reports) <= 11
    assert min(np.diff(reports)) >= MOVING_REPORT_S


def test_an_agent_plays_a_trace_and_reports_what_it_lacks() -> None:
    """What its trace asks for is held at the trace's times; what the target leaves no memory for is in the report."""
    text = "t_s,total_pages,free_pages,page_cache_pages\n0,8192,7000,100\n60,8192,1500,100\n120,8192,6000,100\n"
    trace = parse_trace(text, "web.csv")
    host = small_host()
    workload = {"trace": "/web.csv", "speed": 10, "loop": True}
    domid = create(host, superpages=16, target=8, workload=workload, verify=True)
    agent = Agent(lambda: "session", partial(guest_from_map, find_trace=lambda path: {Path("/web.csv"): trace}[path]))
    link = Link(host, domid, agent)
    link.settle()
    told = []
    for until in (5, 11, 17, 23):
        link.advance(until - link.now)
        told.append(dict(host.domain_info(domid).reported))
    held = [report["current_pages"] - report["guest_free_pages"] + report["unmet_pages"] for report in told]
    # What changes by less than a 64th of its memory is reported later.
    assert held[:3] == pytest.approx([1192, 6692, 2192], abs=8192 >> 6)
    assert [(report["trace_s"], report["trace_rounds"]) for report in told] == [(0, 0), (60, 0), (120, 0), (0, 1)]
    assert told[0]["unmet_pages"] == 0
    assert told[1]["unmet_pages"] == told[1]["pages_denied"] > 2000
    _assert_in_order(link)
