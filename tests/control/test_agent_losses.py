"""Agents whose connection is lost at an awkward moment: what they send again, and what they have missed."""

from contextlib import suppress
from typing import Any

from tests.control.link import Link, new_agent
from tests.peer import create, small_host
from xbd.errors import RemoteProtocolError
from xbd.protocol.codec import CALL_LIMITS, Decoder, Request


def _linked(**settings: Any) -> Link:  # noqa: ANN401 - whatever a guest can be set to
    host = small_host()
    link = Link(host, create(host, superpages=4, target=4, **settings), new_agent())
    link.settle()
    return link


def _receive_twice(link: Link, answers: bytes) -> None:
    """Hand answers over, and again in the same piece, which ends the connection."""
    with suppress(RemoteProtocolError):
        link.agent.receive(answers + answers, link.now)


def test_what_was_answered_before_an_error_reaches_the_guest() -> None:
    """Answers that come in one piece with something that ends the connection are not lost with it."""
    link = _linked(verify=True, workload={"profile": "steady", "churn": 0.05})
    guest = link.agent.guest
    assert guest is not None
    answers = b""
    while not answers or guest.quiet:
        assert link.agent.deadline is not None
        link.now = link.agent.deadline
        link.endpoint.feed(link.agent.tick(link.now))
        answers = link.endpoint.turn()
    _receive_twice(link, answers)
    link.cut()
    link.settle()

    assert link.agent.guest is guest
    assert link.agent._session.in_flight == 0
    assert guest.check() == []
    assert guest.statistics().content_errors == 0


def test_nothing_but_hello_is_sent_before_its_answer() -> None:
    """What is sent earlier would be sent again with what is resent, and its second answer ends the connection."""
    link = _linked(verify=True, workload={"profile": "steady", "churn": 0.05})
    link.advance(3)
    link.cut()
    decoder = Decoder(CALL_LIMITS)
    decoder.feed(link.sent + link.agent.tick(link.now + 60))
    methods = []
    while isinstance(message := decoder.next_message(), Request):
        methods.append(message.method)

    assert methods == ["hello"]
    assert link.agent.deadline is None


def test_a_resumed_agent_learns_that_its_mode_is_normal_again() -> None:
    """Also when nothing was in flight, and the mode was set back while it was away."""
    link = _linked()
    link.host.call("guest_mode", {"domid": link.domid, "mode": "stuck"})
    link.settle()
    link.endpoint.closed()
    link.host.call("guest_mode", {"domid": link.domid, "mode": "normal"})
    link.connect()
    link.settle()

    assert link.agent.guest is not None
    assert link.agent.guest.report()["mode"] == "normal"
