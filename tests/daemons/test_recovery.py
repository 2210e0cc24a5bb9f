"""A daemon that dies and comes back with what it saved: agents and clients go on, and nothing is done twice."""

import copy
from uuid import UUID

import numpy as np
import pytest

from tests.control.link import Link, new_agent
from tests.peer import HOST_SUPERFRAMES, DirectPeer, agent, clock, create, do, toolstack
from xbd.control.controller import Controller
from xbd.control.domain_record import AWAITED_S, CRASHED_AFTER_S
from xbd.control.endpoint import DomainEndpoint, ToolstackEndpoint
from xbd.errors import NotPermitted
from xbd.limits import LIMITS, Limits
from xbd.machine import Machine
from xbd.machine.recovery import recover
from xbd.protocol.codec import encode_notification
from xbd.protocol.session import WINDOW_ANSWERS
from xbd.storage.image import Image
from xbd.storage.memory import Crash, MemoryStore

PAGE = bytes(8)


def saved_host(limits: Limits = LIMITS) -> tuple[MemoryStore, Controller]:
    """Make a host whose state is saved."""
    store = MemoryStore()
    host = Controller(Machine(HOST_SUPERFRAMES, image=Image(store), limits=limits), clock=clock)
    return store, host


def restarted(store: MemoryStore, limits: Limits = LIMITS) -> Controller:
    """Let the daemon be killed, and the next one take up what it saved."""
    store.undo.on_note = None
    store.roll_back()
    host = Controller(recover(store, limits), clock=clock)
    host.restore()
    return host


def tick(host: Controller, now: float) -> float | None:
    """Let the daemon look whose agents have died, as a step of its own."""
    with host.step():
        return host.tick(now)


def gfns(*numbers: int) -> bytes:
    """Write gfns as they travel."""
    return np.array(numbers, dtype="<u8").tobytes()


class MortalLink(Link):
    """A link to a daemon that dies at a random note of what the agent asks, again and again."""

    def __init__(self, store: MemoryStore, host: Controller, domid: int, seed: int) -> None:
        self.store = store
        self.rng = np.random.default_rng(seed)
        self.deaths = 0
        super().__init__(host, domid, new_agent())

    def carry(self) -> bool:
        """Carry, unless the daemon dies of it: then on to the next daemon."""
        if self.rng.random() < 0.3:
            self.store.crash_after(int(self.rng.integers(1, 25)))
        try:
            return super().carry()
        except Crash:
            self.deaths += 1
            self.host = restarted(self.store)
            self.connect()
            return True
        finally:
            self.store.undo.on_note = None


@pytest.mark.parametrize("seed", range(8))
def test_a_guest_whose_daemon_dies_at_any_instant(seed: int) -> None:
    """Guest and hypervisor stay agreed on every page and word, whatever the daemon was at when it died."""
    store, host = saved_host()
    workload = {"profile": "steady", "used": 0.15}
    strategy = "stock" if seed % 2 else "full"
    domid = create(host, superpages=16, target=12, workload=workload, verify=True, strategy=strategy)
    link = MortalLink(store, host, domid, seed)
    link.settle()
    for target in (5, 14, 7, 16, 6):
        do(link.host, "set_target", domid=domid, pages=target * 512)
        link.settle()
        link.advance(40)

    guest = link.agent.guest
    assert guest is not None
    assert link.deaths > 3
    assert link.host.audit() == []
    assert guest.check() == []
    assert guest.statistics().current_pages == link.host.machine.domain(domid).tot_pages == 6 * 512
    assert guest.statistics().content_errors == 0


def test_an_answer_that_was_lost_with_the_daemon_is_given_again() -> None:
    """A call that was done and whose answer never came is not done again after the restart."""
    store, host = saved_host()
    domid = create(host)
    guest = agent(host, domid)
    assert guest.call("decrease", gfns=gfns(5, 6)) == [2, None]

    host = restarted(store)

    again = DirectPeer(DomainEndpoint(host, domid, lambda: None))
    assert again.call("hello", version=1, session="a", last_seen=0)["resumed"] is True
    again.msgid = 0
    assert again.call("decrease", gfns=gfns(5, 6)) == [2, None]
    assert again.call("decrease", gfns=gfns(5, 6)) == [0, "ENOENT"]
    assert host.audit() == []


def test_the_last_eight_answers_outlive_the_daemon_and_no_more() -> None:
    """What was read is answered as it was then, not as it is now; before the window the session is lost."""
    store, host = saved_host()
    domid = create(host)
    guest = agent(host, domid)
    for word in range(1, WINDOW_ANSWERS // 2 + 2):
        guest.call("store", gfns=gfns(7), words=gfns(word))
        assert guest.call("load", gfns=gfns(7)) == [1, None, gfns(word)]

    host = restarted(store)

    again = DirectPeer(DomainEndpoint(host, domid, lambda: None))
    assert again.call("hello", version=1, session="a", last_seen=1)["errno"] == "EINVAL"
    assert again.call("hello", version=1, session="a", last_seen=2)["resumed"] is True
    again.msgid = 3
    assert again.call("load", gfns=gfns(7)) == [1, None, gfns(2)]


def test_what_the_daemon_knew_of_a_guest_outlives_it() -> None:
    """Settings, mode, target, limit and the wish that it stop are told to the agent that resumes."""
    store, host = saved_host()
    domid = create(host, workload={"profile": "steady", "used": 0.2}, verify=True)
    agent(host, domid)
    for method, more in (
        ("guest_mode", {"mode": "stuck"}),
        ("set_max", {"pages": 7 * 512}),
        ("set_target", {"pages": 3 * 512}),
        ("shutdown", {}),
    ):
        do(host, method, domid=domid, **more)

    host = restarted(store)

    told = DirectPeer(DomainEndpoint(host, domid, lambda: None)).call("hello", version=1, session="a", last_seen=0)
    assert (told["mode"], told["max_pages"], told["target_pages"], told["shutdown"]) == ("stuck", 3584, 1536, True)
    assert told["guest"] == {"workload": {"profile": "steady", "used": 0.2}, "verify": True}


def test_the_report_of_an_idle_guest_comes_back_at_once() -> None:
    """A daemon that has restarted knows none, and the guest has nothing new to say: it says it again when it is resumed."""
    store, host = saved_host()
    link = Link(host, create(host), new_agent())
    link.settle()
    link.advance(60)
    reported = host.record(link.domid).report
    assert reported is not None

    link.host = restarted(store)
    assert link.host.domain_info(link.domid).report is None
    link.connect()
    link.settle()

    assert link.host.domain_info(link.domid).report == reported


def test_a_domain_is_the_same_after_a_restart_and_a_new_one_is_none_that_was() -> None:
    """UUIDs are saved; a daemon that is given an earlier copy of the state makes others than were made since."""
    store, host = saved_host()
    domid = create(host, "web")
    uuids = [host.uuid, host.domain_info(domid).uuid]
    host = restarted(store)
    assert [host.uuid, host.domain_info(domid).uuid] == uuids
    made = []
    for seed in (1, 2):
        host = Controller(recover(copy.deepcopy(store)), clock=clock, seed=UUID(int=seed))
        host.restore()
        made.append(host.domain_info(create(host, "db")))
    assert made[0].birth == made[1].birth
    assert len({*uuids, *(one.uuid for one in made)}) == 4


def test_events_go_on_numbering_where_the_last_daemon_ended() -> None:
    """A follower that asks from its next number on misses no later event and gets none twice."""
    store, host = saved_host()
    create(host)
    due = host.events.next_number

    host = restarted(store)

    assert host.events.first_number == host.events.next_number == due


def _client(host: Controller, last_seen: int | None = None, session: str = "s") -> DirectPeer:
    peer = DirectPeer(ToolstackEndpoint(host, lambda: None))
    assert peer.call("hello", version=1, session=session, last_seen=last_seen)["resumed"] is (last_seen is not None)
    return peer


def test_a_client_s_call_is_not_done_twice() -> None:
    """A create that was done and not answered makes one domain; what only looks is looked at anew."""
    store, host = saved_host()
    client = _client(host)
    asked = {"name": "web", "max_pages": 1024, "target_pages": 1024}
    assert client.call("create", **asked) == {"domid": 1}
    assert client.call("info", domain=1)["tot_pages"] == 1024

    host = restarted(store)

    client = _client(host, last_seen=0)
    client.msgid = 0
    assert client.call("create", **asked) == {"domid": 1}
    assert client.call("info", domain=1)["state"] == "waiting"
    assert client.call("create", **asked)["errno"] == "EEXIST"
    assert host.machine.domains() == [1]


def test_a_session_is_one_connection_s_at_a_time() -> None:
    """A second one is told EBUSY until the first is gone; then it resumes."""
    _, host = saved_host()
    first = _client(host)
    second = DirectPeer(ToolstackEndpoint(host, lambda: None))
    assert second.call("hello", version=1, session="s", last_seen=0)["errno"] == "EBUSY"
    assert first.call("hello", version=1, session="t")["errno"] == "EBUSY"
    first.endpoint.closed()
    assert second.call("hello", version=1, session="s", last_seen=0)["resumed"] is True


def test_sessions_of_clients_that_are_gone_make_room() -> None:
    """The one that has been away for longest is forgotten; those that are connected never are."""
    limits = Limits(clients=3)
    store, host = saved_host(limits)
    for name in ("a", "b", "c"):
        _client(host, session=name).endpoint.closed()
    _client(host, last_seen=0, session="a")
    _client(host, session="d")

    host = restarted(store, limits)

    for name, resumed in (("a", True), ("c", True), ("d", True), ("b", False)):
        peer = DirectPeer(ToolstackEndpoint(host, lambda: None))
        answer = peer.call("hello", version=1, session=name, last_seen=0)
        assert answer.get("resumed", False) is resumed
        peer.endpoint.closed()


# -- what becomes of a guest whose agent has died


def _lost(on_crash: str) -> tuple[MemoryStore, Controller, int]:
    """Make a guest whose agent has gone without a word."""
    store, host = saved_host()
    domid = do(host, "create", name="web", max_pages=2048, target_pages=1024, on_crash=on_crash)["domid"]
    assert isinstance(domid, int)
    peer = agent(host, domid)
    peer.call("decrease", gfns=gfns(5))
    peer.endpoint.closed()
    return store, host, domid


def test_a_guest_that_is_restarted_waits_for_an_agent() -> None:
    """By default any agent may boot it anew, at once."""
    _, host, domid = _lost("restart")
    assert tick(host, 0.0) is None
    assert host.domain_info(domid).state == "waiting"
    agent(host, domid, session="another")


def test_after_a_restart_agents_that_may_come_back_are_waited_for() -> None:
    """For two seconds no other agent is asked to boot their guests; one that had said goodbye is not waited for."""
    store, host, domid = _lost("restart")
    agent(host, domid, session="b")
    gone = create(host, "gone")
    leaving = agent(host, gone)
    leaving.send(encode_notification("leaving", {}))
    host = restarted(store)
    assert [host.domain_info(one).state for one in (domid, gone)] == ["lost", "waiting"]
    assert tick(host, 50.0) == 50.0 + AWAITED_S
    assert tick(host, 51.9) == 52.0
    assert tick(host, 52.0) is None
    assert host.domain_info(domid).state == "waiting"
    assert host.events.since(0)[-1]["event"] == "agent_lost"
    agent(host, domid, session="c")
    assert tick(host, 53.0) is None


def test_a_guest_that_is_destroyed_goes_when_its_agent_does_not_come_back() -> None:
    """Its agent has five seconds to resume; then the domain is gone, and so is what was saved of it."""
    store, host, domid = _lost("destroy")
    assert tick(host, 10.0) == 10.0 + CRASHED_AFTER_S
    assert host.domain_info(domid).state == "lost"
    assert tick(host, 14.9) == 15.0
    assert tick(host, 15.0) is None
    assert host.machine.domains() == []
    assert [event["event"] for event in host.events.since(0)][-2:] == ["crashed", "destroyed"]
    assert restarted(store).machine.domains() == []


def test_a_guest_that_is_preserved_stays_as_it_was() -> None:
    """Nobody else may boot it, through restarts of the daemon too; its own agent may still come back."""
    store, host, domid = _lost("preserve")
    tick(host, 0.0)
    tick(host, CRASHED_AFTER_S)
    host = restarted(store)
    assert host.domain_info(domid).state == "crashed"
    other = DirectPeer(DomainEndpoint(host, domid, lambda: None))
    assert other.call("hello", version=1, session="another")["errno"] == NotPermitted.errno
    back = DirectPeer(DomainEndpoint(host, domid, lambda: None))
    assert back.call("hello", version=1, session="a", last_seen=1)["resumed"] is True
    assert host.domain_info(domid).state == "running"
    assert host.machine.domain(domid).tot_pages == 1023


def test_an_agent_that_comes_back_in_time_is_not_missed() -> None:
    """The five seconds begin anew with each loss, and with each restart of the daemon."""
    store, host, domid = _lost("destroy")
    tick(host, 0.0)
    host = restarted(store)
    assert tick(host, 100.0) == 105.0
    agent(host, domid, last_seen=1).endpoint.closed()
    assert tick(host, 104.0) == 109.0


def test_an_agent_that_says_goodbye_has_not_crashed() -> None:
    """Agents that are stopped in order leave their guests to whoever comes next."""
    _, host, domid = _lost("destroy")
    peer = agent(host, domid, last_seen=1)
    assert peer.send(encode_notification("leaving", {})) == []
    peer.endpoint.closed()
    assert tick(host, 0.0) is None
    assert host.domain_info(domid).state == "waiting"


def test_nobody_waits_for_the_agent_of_a_guest_that_was_shut_down() -> None:
    """A guest that has stopped as it was asked has not crashed."""
    _, host, domid = _lost("destroy")
    peer = toolstack(host)
    peer.call("shutdown", domid=domid)
    assert host.domain_info(domid).state == "shutdown"
    assert tick(host, 0.0) is None
