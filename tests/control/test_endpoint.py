"""Endpoints: turns, sessions, and hostile bytes, without a socket."""

import gc
import weakref
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.peer import DirectPeer, agent, create, small_host, toolstack
from xbd.control.endpoint import DomainEndpoint, ToolstackEndpoint
from xbd.protocol import codec
from xbd.protocol.codec import Notification, Response


def bases(*gfns: int) -> bytes:
    """Write gfns as they travel."""
    return np.array(gfns, dtype="<u8").tobytes()


def span(first: int, end: int) -> bytes:
    """Write a range of gfns as it travels."""
    return np.arange(first, end, dtype="<u8").tobytes()


def test_memory_operations_over_an_endpoint() -> None:
    """A guest gives pages back and gets them again; words are kept with its pages."""
    host = small_host()
    peer = agent(host, create(host))

    assert peer.call("store", gfns=bases(3, 4), words=bases(33, 44)) == [2, None]
    assert peer.call("load", gfns=bases(4, 3)) == [2, None, bases(44, 33)]
    assert peer.call("decrease", gfns=bases(3, 9)) == [2, None]
    assert peer.call("load", gfns=bases(4, 3)) == [1, "EFAULT", bases(44)]
    assert peer.call("populate", gfns=bases(9, 3, 4)) == [2, "EEXIST"]
    assert peer.call("populate_depopulate", populate=bases(2048), depopulate=bases(0)) == [1, None]
    assert peer.call("exchange", gives=bases(1), gets=bases(0)) == [1, None]
    assert host.audit() == []


def test_hello_tells_what_is_there() -> None:
    """The boot map has target, limit, map, settings, and what was asked of the guest before."""
    host = small_host()
    domid = create(host, seed=3)
    host.call("guest_mode", {"domid": domid, "mode": "floor 2m"})
    peer = DirectPeer(DomainEndpoint(host, domid, lambda: None))
    told = peer.call("hello", version=1, session="a", last_seen=None)

    assert (told["resumed"], told["name"], told["gfn_count"], told["target_pages"]) == (False, "web", 4096, 2048)
    assert np.frombuffer(told["runs"], "<i8").tolist() == [0, 2048]
    assert (told["guest"], told["mode"], told["shutdown"]) == ({"seed": 3}, "floor 2097152b", False)


def test_a_new_session_is_a_reboot() -> None:
    """The map stays, the memory reads zero, the report is gone."""
    host = small_host()
    domid = create(host)
    peer = agent(host, domid)
    peer.call("store", gfns=bases(3), words=bases(33))
    peer.send(codec.encode_notification("report", {"current_pages": 1}))
    assert host.record(domid).report == {"current_pages": 1}
    peer.endpoint.closed()
    peer = agent(host, domid, "b")

    assert peer.call("load", gfns=bases(3)) == [1, None, bases(0)]
    assert host.record(domid).report is None


def test_a_resumed_session_applies_nothing_twice() -> None:
    """A repeated populate is answered as it was; done anew it would say EEXIST."""
    host = small_host()
    domid = create(host)
    peer = agent(host, domid)
    assert peer.call("populate", gfns=bases(2048)) == [1, None]
    peer.endpoint.closed()
    again = DirectPeer(DomainEndpoint(host, domid, lambda: None))
    again.msgid = 99
    told = again.call("hello", version=1, session="a", last_seen=0)

    assert (told["resumed"], told["runs"]) == (True, b"")
    again.msgid = 0
    assert again.call("populate", gfns=bases(2048)) == [1, None]
    assert again.call("populate", gfns=bases(2048)) == [0, "EEXIST"]


def test_a_second_agent_is_told_ebusy_and_the_first_goes_on() -> None:
    """Two agents on one domain: the second is refused."""
    host = small_host()
    domid = create(host)
    first = agent(host, domid)
    second = DirectPeer(DomainEndpoint(host, domid, lambda: None))

    assert second.call("hello", version=1, session="b", last_seen=None)["errno"] == "EBUSY"
    second.endpoint.closed()
    assert first.call("decrease", gfns=bases(0)) == [1, None]


def test_another_version_is_refused_by_name() -> None:
    """Both sockets say which version they speak."""
    host = small_host()
    domid = create(host)
    for endpoint in (ToolstackEndpoint(host, lambda: None), DomainEndpoint(host, domid, lambda: None)):
        params = {"version": 2} | ({"session": "a"} if isinstance(endpoint, DomainEndpoint) else {})
        error = DirectPeer(endpoint).call("hello", **params)
        assert error == {
            "errno": "EOPNOTSUPP",
            "message": "protocol version 2 is not spoken here",
            "expected": "version 1",
        }


def test_a_turn_is_one_batch_then_the_others_are_let_in() -> None:
    """Pipelined batches are answered one a turn; small calls share one."""
    host = small_host()
    peer = agent(host, create(host))
    peer.endpoint.feed(b"".join(peer.pack("decrease", {"gfns": span(n * 512, n * 512 + 512)}) for n in range(3)))
    turns = []
    while peer.endpoint.more:
        turns.append(len(peer.messages(peer.endpoint.turn())))
    peer.endpoint.feed(b"".join(peer.pack("load", {"gfns": bases(2000)}) for _ in range(20)))
    small = len(peer.messages(peer.endpoint.turn()))

    assert turns == [1, 1, 1]
    assert 8 <= small < 20
    assert peer.endpoint.more


def calls(*named: tuple[str, Mapping[str, object]]) -> list[list[object]]:
    """Write the calls of a multicall."""
    return [[method, dict(params)] for method, params in named]


def test_a_multicall_answers_each_of_its_operations() -> None:
    """They are done in order in one turn; one that is refused, or stops, does not stop the next, as in Xen."""
    host = small_host()
    peer = agent(host, create(host))
    answers = peer.call(
        "multicall",
        calls=calls(
            ("store", {"gfns": bases(3), "words": bases(33)}),
            ("decrease", {"gfns": bases(4, 4)}),
            ("populate", {"gfns": bases(5)}),
            ("nonsense", {}),
            ("multicall", {"calls": []}),
            ("load", {"gfns": bases(3)}),
        ),
    )

    assert [answer[1] for answer in answers] == [[1, None], None, [0, "EEXIST"], None, None, [1, None, bases(33)]]
    assert [answer[0] and answer[0]["errno"] for answer in answers] == [None, "EINVAL", None, "EINVAL", "EINVAL", None]
    assert host.audit() == []


def test_a_malformed_multicall_does_nothing() -> None:
    """One that is no list of calls is refused whole, in a sentence."""
    host = small_host()
    peer = agent(host, create(host))
    error = peer.call("multicall", calls=[["decrease", {"gfns": bases(3)}], ["decrease"]])

    assert error == {"errno": "EINVAL", "message": "calls[1] is ['decrease']", "expected": "[method, params]"}
    assert peer.call("decrease", gfns=bases(3)) == [1, None]


def test_a_multicall_is_one_turn() -> None:
    """Two batches have place; from the first operation that has none on all are put off, and the others have their turn."""
    host = small_host()
    peer = agent(host, create(host))
    batch, small = ("decrease", {"gfns": span(0, 512)}), ("decrease", {"gfns": bases(1024)})
    peer.endpoint.feed(peer.pack("multicall", {"calls": calls(batch, small, ("populate", batch[1]), small)}))
    peer.endpoint.feed(peer.pack("load", {"gfns": bases(0)}))
    (first,) = peer.messages(peer.endpoint.turn())

    assert isinstance(first, Response)
    assert first.untrusted_result == [[None, [512, None]], [None, [1, None]], *[[None, [0, "BUDGET"]]] * 2]
    assert (peer.endpoint.batches, peer.endpoint.more) == (2, True)
    peer.endpoint.turn()
    assert peer.endpoint.batches == 1
    assert host.machine.domain(1).tot_pages == 2048 - 513


def test_small_operations_of_multicalls_are_a_turn_as_small_calls_are() -> None:
    """Eight loads in one message are a turn, so that who packs them gets no more of the processor."""
    host = small_host()
    peer = agent(host, create(host))
    loads = calls(*[("load", {"gfns": bases(page)}) for page in range(8)])
    for _ in range(3):
        peer.endpoint.feed(peer.pack("multicall", {"calls": loads}))
    turns = []
    while peer.endpoint.more:
        turns.append(len(peer.messages(peer.endpoint.turn())))

    assert turns == [1, 1, 1]


def test_the_first_of_a_multicall_begins_whatever_it_asks() -> None:
    """A call that names more than a turn does some of it, and what follows waits for the next."""
    host = small_host()
    peer = agent(host, create(host))
    whole = ("decrease", {"gfns": span(0, 1100)})
    answers = peer.call("multicall", calls=calls(whole, ("load", {"gfns": bases(1500)})))

    assert answers == [[None, [512, "BUDGET"]], [None, [0, "BUDGET", b""]]]
    many = ("load", {"gfns": span(0, 65536)})
    peer.call("multicall", calls=calls(many, many))
    assert peer.endpoint.batches == 1


def test_broken_superpages_count_in_a_multicall() -> None:
    """When single pages have broken more than 16 of them, the next operation waits for another turn."""
    host = small_host()
    peer = agent(host, create(host, superpages=40, target=40))
    sixteen, seventeen = (
        ("decrease", {"gfns": bases(*range(first * 512, end * 512, 512))}) for first, end in ((0, 16), (16, 33))
    )
    small = ("load", {"gfns": bases(39 * 512)})
    answers = peer.call("multicall", calls=calls(sixteen, seventeen, small))

    assert [answer[1] for answer in answers] == [[16, None], [17, None], [0, "BUDGET", b""]]


def test_a_batch_and_its_way_back_are_a_multicall() -> None:
    """The pages of a whole superpage, which break it and mend it, have place together."""
    host = small_host()
    peer = agent(host, create(host))
    block = {"gfns": span(512, 1024)}
    answers = peer.call("multicall", calls=calls(("decrease", block), ("populate", block)))

    assert answers == [[None, [512, None]], [None, [512, None]]]
    assert host.machine.domain(1).leaves == 4


def test_a_repeated_multicall_is_answered_again() -> None:
    """After a lost connection nothing of it is done twice."""
    host = small_host()
    domid = create(host)
    peer = agent(host, domid)
    sent = calls(("decrease", {"gfns": bases(3)}), ("populate", {"gfns": bases(3, 4)}))
    answers = peer.call("multicall", calls=sent)
    peer.endpoint.closed()
    again = DirectPeer(DomainEndpoint(host, domid, lambda: None))
    again.msgid = 99
    again.call("hello", version=1, session="a", last_seen=0)
    again.msgid = 0

    assert answers == [[None, [1, None]], [None, [1, "EEXIST"]]]
    assert again.call("multicall", calls=sent) == answers
    assert again.call("populate", gfns=bases(3)) == [0, "EEXIST"]


def test_more_than_a_turn_is_told_budget() -> None:
    """A call that names more than a turn does is done in part, and says so."""
    host = small_host()
    peer = agent(host, create(host))

    done, stop = peer.call("decrease", gfns=span(0, 2000))
    assert (done, stop) == (512, "BUDGET")


HOSTILE: list[tuple[str, dict[str, object]]] = [
    ("populate", {"gfns": bases(1 << 40)}),
    ("populate", {"gfns": bases(4096)}),
    ("populate", {"gfns": bases(2049), "order": 9}),
    ("populate", {"gfns": bases(2048, 2048)}),
    ("populate", {"gfns": bases(2048), "order": 3}),
    ("populate", {"gfns": bases((1 << 64) - 1)}),
    ("populate", {"gfns": bytes(8 * 65_537)}),
    ("decrease", {"gfns": bases(0, 0)}),
    ("decrease", {"gfns": bases(513), "order": 9}),
    ("decrease", {"gfns": b"123"}),
    ("exchange", {"gives": bases(0), "gets": bases(0)}),
    ("exchange", {"gives": bases(0), "gets": bases(4000, 4001)}),
    ("populate_depopulate", {"populate": bases(3000), "depopulate": bases(3000)}),
    ("load", {"gfns": bases(1 << 62)}),
    ("store", {"gfns": bases(0, 1), "words": bases(1)}),
    ("format_disk", {}),
    ("list", {}),
    ("destroy", {"domid": 1}),
]


@pytest.mark.parametrize(("method", "params"), HOSTILE)
def test_hostile_calls_are_refused_and_change_nothing(method: str, params: dict[str, object]) -> None:
    """Each gets an error with errno, sentence and expectation; its session and its neighbour go on."""
    host = small_host()
    domid, neighbour = create(host), create(host, "neighbour")
    peer, other = agent(host, domid), agent(host, neighbour)
    before = host.machine.statistics()

    error = peer.call(method, **params)
    assert error["errno"] == "EINVAL"
    assert error["message"]
    assert error["expected"]
    assert host.machine.statistics() == before
    assert host.audit() == []
    assert peer.call("load", gfns=bases(0)) == [1, None, bases(0)]
    assert other.call("load", gfns=bases(0)) == [1, None, bases(0)]


@pytest.mark.parametrize(
    "stream",
    [
        b"\xc1",
        codec.encode_request(7, "load", {"gfns": bases(0)}),
        codec.encode_notification("reprot", {}),
        codec.encode_notification("report", {"free": {"nested": 1}}),
        codec.encode_notification("report", {"free": float("nan")}),
        codec.encode_notification("report", {f"key{n}": n for n in range(101)}),
        codec.encode_response(1, {}),
        b"\x91" * 100,
    ],
)
def test_what_breaks_the_protocol_drops_the_peer(stream: bytes) -> None:
    """It is told why, nothing after it is handled, and its session can be resumed."""
    host = small_host()
    domid = create(host)
    peer = agent(host, domid)
    messages = peer.send(stream + peer.pack("decrease", {"gfns": bases(0)}))

    assert peer.endpoint.dropped is not None
    assert [type(message) for message in messages] == [Notification]
    assert host.machine.domain_info(domid).tot_pages == 2048
    peer.endpoint.closed()
    again = DirectPeer(DomainEndpoint(host, domid, lambda: None))
    assert again.call("hello", version=1, session="a", last_seen=0)["resumed"] is True


@pytest.mark.parametrize("method", ["list", "load", "events"])
def test_nothing_works_before_hello(method: str) -> None:
    """A call before hello ends the connection, on either socket."""
    host = small_host()
    domid = create(host)
    for endpoint in (ToolstackEndpoint(host, lambda: None), DomainEndpoint(host, domid, lambda: None)):
        peer = DirectPeer(endpoint)
        (told,) = peer.send(peer.pack(method, {}))
        assert isinstance(told, Notification)
        assert "before hello" in str(endpoint.dropped)


@given(
    st.lists(st.binary(max_size=60) | st.sampled_from([codec.encode_request(1, m, p) for m, p in HOSTILE]), max_size=5)
)
def test_no_bytes_bring_the_daemon_down(pieces: list[bytes]) -> None:
    """Whatever an admitted guest sends, it is answered or dropped, and the audit is clean."""
    host = small_host()
    peer = agent(host, create(host))
    for piece in pieces:
        if peer.endpoint.dropped is None:
            peer.send(piece)

    assert host.audit() == []
    assert all(isinstance(message, Response) for message in toolstack(host).send(codec.encode_request(1, "list", {})))


@pytest.mark.parametrize(
    "sent", [b"\xc1", codec.encode_request(7, "load", {"gfns": b""}), codec.encode_response(1, {})]
)
def test_a_dropped_endpoint_is_kept_by_nobody(sent: bytes) -> None:
    """What it was dropped for does not lead back to it, so that it goes with its last user, and what it holds with it."""
    host = small_host()
    endpoint = DomainEndpoint(host, create(host), lambda: None)
    endpoint.feed(codec.encode_request(0, "hello", {"version": 1, "session": "a", "last_seen": None}))
    endpoint.turn()
    endpoint.feed(sent)
    endpoint.turn()
    assert endpoint.dropped is not None
    endpoint.closed()
    kept = weakref.ref(endpoint)
    gc.disable()
    try:
        del endpoint
        assert kept() is None
    finally:
        gc.enable()
