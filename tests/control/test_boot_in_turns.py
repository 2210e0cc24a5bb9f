"""A guest whose memory is in many pieces boots in many turns, and nobody has to wait for all of them."""

import numpy as np
import pytest

from tests.peer import DirectPeer, agent, create, do, small_host
from xbd.abi import Decrease, MemopResult, Store
from xbd.control.controller import Controller
from xbd.control.endpoint import DomainEndpoint
from xbd.errors import OutOfResources
from xbd.protocol.codec import Response

# Each breaks one superpage of 48, of which a turn does 16.
BROKEN = 48


def broken_host() -> tuple[Controller, int]:
    """Make a host with a domain of 60 superpages; of 48 of them the guest has given one page back, and written to the next."""
    host = small_host()
    domid = create(host, superpages=60, target=60)
    gfns = np.arange(BROKEN, dtype=np.int64) * 512
    with host.step():
        for part in (gfns[:32], gfns[32:]):
            assert host.machine.execute(domid, Decrease(part, 0)) == MemopResult(part.size)
        host.machine.execute(domid, Store(gfns + 1, np.full(BROKEN, 7, dtype=np.uint64)))
    return host, domid


def begin(host: Controller, domid: int, session: str = "a") -> DirectPeer:
    """Send a hello, and take the first turn of its boot."""
    peer = DirectPeer(DomainEndpoint(host, domid, lambda: None))
    peer.endpoint.feed(peer.pack("hello", {"version": 1, "session": session, "last_seen": None}))
    assert peer.endpoint.turn() == b""
    assert peer.endpoint.more
    return peer


def words_left(host: Controller) -> int:
    """Count the content words that are not zero."""
    return int(np.count_nonzero(host.machine.host.content))


def test_a_boot_goes_on_in_the_next_turn_and_others_come_between() -> None:
    """Each turn zeroes a part; the answer comes after the last; another domain's guest boots meanwhile."""
    host, domid = broken_host()
    other = create(host, "other", superpages=2, target=2)
    peer = begin(host, domid)
    left = [BROKEN, words_left(host)]
    agent(host, other)
    answers = b""
    while peer.endpoint.more:
        answers += peer.endpoint.turn()
        left.append(words_left(host))

    assert left == sorted(left, reverse=True)
    assert len(set(left)) > 2
    assert left[-1] == 0
    (hello,) = peer.messages(answers)
    assert isinstance(hello, Response)
    told = peer.answer_of("hello", hello)
    runs = np.frombuffer(told["runs"], dtype="<i8").reshape(-1, 2).tolist()
    assert runs == host.machine.boot_info(domid).runs.tolist()
    assert len(runs) == BROKEN
    assert host.machine.audit() == []


def test_an_agent_that_leaves_in_the_middle_of_its_boot_boots_anew() -> None:
    """The session is free for the next hello, nobody is told of an agent that was never there, and all is zeroed."""
    host, domid = broken_host()
    begin(host, domid).endpoint.closed()
    assert 0 < words_left(host) < BROKEN
    assert not [told for told in host.events.since(1) if str(told["event"]).startswith("agent")]

    assert agent(host, domid, "a").endpoint.admitted
    assert words_left(host) == 0


def test_a_second_agent_is_refused_while_the_first_boots() -> None:
    """The session is taken from the first turn on."""
    host, domid = broken_host()
    begin(host, domid)
    refused = DirectPeer(DomainEndpoint(host, domid, lambda: None)).call(
        "hello", version=1, session="b", last_seen=None
    )

    assert refused["errno"] == "EBUSY"


def test_a_domain_that_is_destroyed_in_the_middle_of_its_boot_drops_the_agent() -> None:
    """It is told that the domain is gone; frames are free, and the host is well."""
    host, domid = broken_host()
    peer = begin(host, domid)
    do(host, "destroy", domid=domid)
    peer.endpoint.turn()

    assert peer.endpoint.dropped is not None
    assert "is gone" in str(peer.endpoint.dropped)
    peer.endpoint.closed()
    assert host.machine.audit() == []


def test_a_boot_whose_later_turn_cannot_be_saved_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent is told why, may try again on the same connection, and is in when there is room."""
    host, domid = broken_host()
    peer = begin(host, domid)
    with monkeypatch.context() as full:

        def refuse(*_: object) -> None:
            raise OutOfResources("no space", "room")

        full.setattr(host.machine.host, "scrub", refuse)
        (answer,) = peer.messages(peer.endpoint.turn())
    assert isinstance(answer, Response)
    assert peer.answer_of("hello", answer)["errno"] == "ENOMEM"

    assert peer.call("hello", version=1, session="a", last_seen=None)["domid"] == domid
    assert words_left(host) == 0
