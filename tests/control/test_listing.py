"""What has changed of a host's domains: applied to what was known, it is what there is."""

from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

import numpy as np
import pytest

from tests.control.test_step import begin_in_vain
from tests.peer import HOST_SUPERFRAMES, DirectPeer, agent, clock, create, do, listed, small_host, toolstack
from xbd.control import listing
from xbd.control.controller import Controller
from xbd.errors import HypercallError
from xbd.machine import Machine
from xbd.machine.recovery import recover
from xbd.protocol.codec import encode_notification
from xbd.storage.image import Image
from xbd.storage.memory import MemoryStore

Told = dict[int, dict[str, Any]]
STEPS: Final = 250
NOT_FOLLOWED: Final = "report_age_s"


def truth(host: Controller) -> Told:
    """Describe all domains anew, but for what is not followed."""
    return {
        domid: {key: told for key, told in host.told(domid).items() if key != NOT_FOLLOWED}
        for domid in host.machine.domains()
    }


class Knower:
    """Knows a host's domains by what it is told has changed."""

    def __init__(self) -> None:
        self.since: int | str = 0
        self.known: Told = {}

    def ask(self, host: Controller) -> dict[str, Any]:
        """Ask what has changed, and take it; returns the answer."""
        answer: dict[str, Any] = toolstack(host).call("list", since=self.since)
        self.since = answer["next"]
        if answer["is_whole"]:
            self.known = {}
        for domid in answer["gone"]:
            self.known.pop(domid, None)
        self.known |= {one["domid"]: {key: one[key] for key in one if key != NOT_FOLLOWED} for one in answer["domains"]}
        return answer


class Life:
    """A saved host to which at random anything happens that can: to domains, agents, grants; it is killed, too."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.now_s = 0.0
        self.store = MemoryStore()
        self.lives = 0
        self.peers: dict[int, DirectPeer] = {}
        self.host = self.begin(Machine(HOST_SUPERFRAMES, image=Image(self.store)))
        with self.host.step():
            self.host.create_dom0({"name": "dom0", "max_pages": 2048, "target_pages": 512})

    def begin(self, machine: Machine) -> Controller:
        """Begin a daemon."""
        self.lives += 1
        return Controller(machine, clock=clock, monotonic=lambda: self.now_s, seed=UUID(int=self.lives))

    def one_of(self, among: Any) -> Any:  # noqa: ANN401 - whatever they are
        """Draw one."""
        return among[int(self.rng.integers(len(among)))]

    def domid(self) -> int:
        """Draw a domain, which may be a zombie, or none."""
        return int(self.one_of([*self.host.machine.domains(), 77]))

    def gfns(self, first: int = 0) -> bytes:
        """Draw some gfns."""
        return np.unique(first + self.rng.integers(0, 1024, 4)).astype("<u8").tobytes()

    def step(self) -> None:
        """Let one thing happen; what is refused has not."""
        ways: list[Callable[[], object]] = [self.create, *[self.toolstack] * 4, self.fail, self.connect, self.cut]
        ways += [*[self.hypercall] * 4, self.grant, self.map, self.map, self.report, self.report, self.wait, self.die]
        self.one_of(ways)()

    def create(self) -> None:
        """Make a domain."""
        if len(self.host.machine.domains()) < 7:
            create(self.host, f"g{self.host.machine.domain_table.births}", superpages=4, target=2)

    def toolstack(self) -> None:
        """Let a toolstack do something to a domain."""
        pages = int(self.rng.integers(1, 6)) * 512
        method, params = self.one_of(
            [
                *[(name, {"pages": pages}) for name in ("set_target", "set_max", "claim")],
                *[(name, {}) for name in ("destroy", "pause", "unpause", "start", "shutdown")],
                ("guest_mode", {"mode": self.one_of(["stuck", "normal"])}),
                ("rename", {"name": f"name{pages}"}),
                ("shutdown", {"reason": "reboot"}),
            ]
        )
        try:
            do(self.host, method, domid=self.domid(), **params)
        except HypercallError:
            return

    def fail(self) -> None:
        """Let a step be undone in which a domain was made."""
        if len(self.host.machine.domains()) < 7:
            begin_in_vain(self.host, "create", name="vain", max_pages=512, target_pages=512, guest={})

    def connect(self) -> None:
        """Let an agent connect that had been lost, or another one boot."""
        domid = self.domid()
        if domid in self.host.machine.living_domains() and not self.host.record(domid).agent:
            try:
                self.peers[domid] = agent(self.host, domid, session=f"{self.rng.integers(3)}")
            except (KeyError, AssertionError):
                return
            self.host.record(domid).report_every_s = 10.0

    def cut(self) -> None:
        """Let an agent lose its connection, without a word or with one."""
        domid = self.domid()
        if domid in self.peers:
            self.peers[domid].endpoint.closed()
            del self.peers[domid]

    def hypercall(self) -> None:
        """Let a guest call for something."""
        peer = self.peers.get(self.domid())
        method = self.one_of(["populate", "decrease", "load"])
        if peer is not None:
            peer.send(peer.pack(method, {"gfns": self.gfns()}))

    def grant(self) -> None:
        """Let a guest grant pages to dom0."""
        peer = self.peers.get(domid := self.domid())
        if peer is not None and domid:
            peer.send(peer.pack("grant", {"gfns": self.gfns(), "to": 0}))

    def map(self) -> None:
        """Let dom0 map a page of a guest, or unmap some; the guest may be a zombie by then."""
        dom0, domid = self.peers.get(0), self.domid()
        if dom0 is not None and domid and self.rng.integers(2):
            ref = np.array([self.rng.integers(4)], "<u8").tobytes()
            dom0.send(dom0.pack("map_grant", {"owner": domid, "refs": ref, "gfns": self.gfns(1024)[:8]}))
        elif dom0 is not None:
            slots = np.flatnonzero(self.host.machine.domain(0).p2m.entry < 0)[:2]
            dom0.send(dom0.pack("unmap_grant", {"gfns": slots.astype("<u8").tobytes()}))

    def report(self) -> None:
        """Let an agent report, or say that its last report holds, or that it leaves or has stopped."""
        peer = self.peers.get(self.domid())
        if peer is not None:
            report = {"current_pages": int(self.rng.integers(3))}
            name, params = self.one_of(
                [("report", report), ("report", report), ("unchanged", {}), ("leaving", {}), ("stopped", {})]
            )
            peer.send(encode_notification(name, params))

    def wait(self) -> None:
        """Let time pass, in which agents fall silent, die, and guests are booted again."""
        self.now_s += float(self.one_of([0.5, 3.0, 31.0]))
        with self.host.step():
            self.host.tick(self.now_s)

    def die(self) -> None:
        """Kill the daemon, in one of four times that it might die."""
        if self.rng.integers(4) == 0:
            self.store.roll_back()
            self.peers.clear()
            self.host = self.begin(recover(self.store))
            self.host.restore()


@pytest.mark.parametrize("seed", range(8))
def test_what_has_changed_makes_what_was_known_what_there_is(seed: int) -> None:
    """Whatever happens, undone steps and kills of the daemon included, and whoever asks how often; nothing is told twice."""
    life = Life(seed)
    often, seldom, never = Knower(), Knower(), Knower()
    never.ask(life.host)
    for number in range(STEPS):
        life.step()
        for knower, every in ((often, 1), (seldom, 9)):
            if number % every == 0:
                knower.ask(life.host)
                assert knower.known == truth(life.host)
                assert knower.ask(life.host)["domains"] == []
    assert {one["domid"]: {key: one[key] for key in one if key != NOT_FOLLOWED} for one in listed(life.host)} == truth(
        life.host
    )
    never.ask(life.host)
    assert never.known == truth(life.host)


def test_only_what_has_changed_is_told() -> None:
    """Of three domains the one that was called for, and the one that is gone; then nothing. An event is not needed for it."""
    host, knower = small_host(), Knower()
    for name in ("a", "b", "c"):
        create(host, name)
    peer = agent(host, 2)
    assert knower.ask(host)["is_whole"]
    before = host.events.next_number
    peer.call("decrease", gfns=np.arange(3).astype("<u8").tobytes())
    assert host.events.next_number == before
    do(host, "destroy", domid=1)
    answer = knower.ask(host)
    assert ([one["domid"] for one in answer["domains"]], answer["gone"], answer["is_whole"]) == ([2], [1], False)
    answer = knower.ask(host)
    assert (answer["domains"], answer["gone"], answer["is_whole"]) == ([], [], False)


def test_a_report_that_still_holds_changes_nothing_and_is_young_where_it_is_told() -> None:
    """Its age is that of when a domain is told, and counts from when the agent last said that it holds."""
    now_s = 0.0
    host, knower = Controller(Machine(HOST_SUPERFRAMES), clock=clock, monotonic=lambda: now_s), Knower()
    peer = agent(host, create(host))
    peer.send(encode_notification("report", {"current_pages": 7}))
    knower.ask(host)
    now_s = 4.0
    peer.send(encode_notification("unchanged", {}))
    now_s = 5.5
    assert knower.ask(host)["domains"] == []
    assert [one["report_age_s"] for one in listed(host)] == [1.5]


def test_an_event_s_number_is_taken_too() -> None:
    """What it says of the time since then; of no earlier life, nor of one that this host has not reached."""
    host = small_host()
    first = host.events.next_number
    create(host, "a"), create(host, "b")
    peer = toolstack(host)
    assert len(peer.call("list", since=0)["domains"]) == 2
    do(host, "set_target", domid="b", pages=512)
    answer = peer.call("list", since=host.events.next_number)
    assert ([one["name"] for one in answer["domains"]], answer["is_whole"]) == (["b"], False)
    for unknown in (first, host.events.next_number + 1):
        answer = peer.call("list", since=unknown)
        assert ([one["name"] for one in answer["domains"]], answer["is_whole"]) == (["a", "b"], True)


def test_who_knows_another_life_or_too_old_a_one_is_told_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """And that it is everything: a mark of another daemon, of the future, one that makes no sense, one from before what is kept."""
    monkeypatch.setattr(listing, "KEPT_GONE", 2)
    host, other = small_host(), Controller(Machine(HOST_SUPERFRAMES), clock=clock, seed=UUID(int=9))
    create(other), create(host)
    peer = toolstack(host)
    mark = peer.call("list", since=0)["next"]
    life = mark.partition(".")[0]
    strangers = [toolstack(other).call("list", since=0)["next"], f"{life}.9", f"{life}.-1", f"{life}.", life, "x", "."]
    for since in (*strangers, f"{life}.\u0663", f"{life}. 1"):
        assert peer.call("list", since=since)["is_whole"], since
    assert not peer.call("list", since=mark)["is_whole"]
    for number in range(3):
        create(host, f"short-{number}")
        peer.call("list")
        do(host, "destroy", domid=f"short-{number}")
        assert peer.call("list", since=mark)["is_whole"] == (number == 2)
    wrong: Any
    for wrong in (-1, 1.5, "", "x" * 65, True, [1], {}):
        assert peer.call("list", since=wrong)["errno"] == "EINVAL"


def test_an_agent_that_falls_silent_has_changed() -> None:
    """Though nothing happens but that time passes; one that is silent, or has none, is not looked at again and again."""
    now_s = 0.0
    host, knower = Controller(Machine(HOST_SUPERFRAMES), clock=clock, monotonic=lambda: now_s), Knower()
    agent(host, create(host, "a")), create(host, "b")
    host.record(1).report_every_s = 10.0
    knower.ask(host)
    now_s = 29.0
    assert knower.ask(host)["domains"] == []
    now_s = 30.0
    assert [one["state"] for one in knower.ask(host)["domains"]] == ["silent"]
    now_s = 1000.0
    assert (knower.ask(host)["domains"], host.listing.touched) == ([], set())
