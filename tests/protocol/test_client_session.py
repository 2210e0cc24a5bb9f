"""The client's side of a session: calls, answers in order, a loss at any point, when to connect again, events."""

from itertools import product

import numpy as np
import pytest

from xbd.abi import MAX_IN_FLIGHT, Decrease, MemopResult, Populate
from xbd.errors import (
    BadArgument,
    Busy,
    HypercallError,
    LocalProtocolError,
    NoSuchDomain,
    OutOfResources,
    PeerLost,
    RemoteProtocolError,
    XbdError,
)
from xbd.protocol import codec, fields
from xbd.protocol.backoff import LONGEST_PAUSE_S
from xbd.protocol.client_session import Answered, Greeted, HelloAgain
from xbd.protocol.codec import VERSION
from xbd.protocol.commands import encode_result
from xbd.protocol.guest_session import GuestSession
from xbd.protocol.session import Action, Session
from xbd.protocol.toolstack_session import EVENTS_QUEUED, RESUME_WITHIN_S, EventQueue, ToolstackSession

PAGE = np.array([7], dtype=np.int64)
DONE = MemopResult(1)


def greeting(*, resumed: bool = False) -> bytes:
    """Answer a hello."""
    return codec.encode_response(0, {"resumed": resumed})


def greeted(session: GuestSession, *, resumed: bool = False) -> GuestSession:
    """Let a session's hello be answered on a new connection."""
    session.connected()
    (greeting_,) = session.receive(greeting(resumed=resumed))
    assert isinstance(greeting_, Greeted)
    assert greeting_.resumed is resumed
    return session


def answer(msgid: int) -> bytes:
    """Answer a call of one extent."""
    return codec.encode_response(msgid, [1, None])


def results(session: GuestSession, received: bytes) -> list[object]:
    """Receive answers; returns their results."""
    return [
        result for message in session.receive(received) if isinstance(message, Answered) for result in message.result
    ]


def test_answers_are_matched_in_order() -> None:
    """Each answer is the oldest call's, or an error."""
    session = greeted(GuestSession("a"))
    session.call(Populate(PAGE))
    session.call(Decrease(PAGE))

    with pytest.raises(RemoteProtocolError, match="message id 2"):
        results(session, answer(2))
    session = greeted(session, resumed=True)
    assert results(session, answer(1) + answer(2)) == [DONE, DONE]
    assert session.last_seen == 2
    with pytest.raises(RemoteProtocolError, match="message id 3"):
        results(session, answer(3))


def test_an_answer_that_cannot_be_read_leaves_its_call_in_flight() -> None:
    """It is sent again with the next connection, and the guest that waits for it is not forgotten."""
    session = greeted(GuestSession("a"))
    call = session.call(Populate(PAGE))

    with pytest.raises(RemoteProtocolError, match="an answer"):
        results(session, codec.encode_response(1, "nonsense"))
    assert session.last_seen == 0
    assert greeted(session, resumed=True).resend() == call


def test_no_more_than_eight_are_in_flight() -> None:
    """The ninth call is our own mistake."""
    session = greeted(GuestSession("a"))
    for _ in range(MAX_IN_FLIGHT):
        session.call(Populate(PAGE))

    with pytest.raises(LocalProtocolError):
        session.call(Populate(PAGE))


@pytest.mark.parametrize("error", [Busy("taken"), NoSuchDomain("gone")])
def test_a_refused_hello_is_the_error_that_it_was(error: HypercallError) -> None:
    """EBUSY comes out as Busy."""
    session = GuestSession("a")
    session.connected()

    with pytest.raises(type(error)):
        list(session.receive(codec.encode_error(0, fields.error_map(error))))


@pytest.mark.parametrize(
    "received",
    [
        codec.encode_response(0, [1, 2]),
        codec.encode_response(1, {"resumed": False}),
        codec.encode_request(0, "hello", {}),
        codec.encode_notification("target", {"number": 1, "pages": 512}),
        codec.encode_notification("dropped", {}),
        greeting(resumed=True),
    ],
)
def test_what_does_not_answer_hello_ends_the_connection(received: bytes) -> None:
    """Also a session that was never opened and is said to be resumed: no guest runs in it."""
    session = GuestSession("a")
    session.connected()

    with pytest.raises(RemoteProtocolError, match="the hypervisor"):
        list(session.receive(received))


def executed_by(server: Session, stream: bytes, executed: list[int]) -> list[bytes]:
    """Let a server execute the calls of a stream, or answer them again; returns the answers."""
    decoder, answers = codec.Decoder(), []
    decoder.feed(stream)
    while isinstance(message := decoder.next_message(), codec.Request):
        kept = server.call(message.msgid)
        if kept is None:
            executed.append(message.msgid)
            kept = encode_result(message.msgid, DONE)
            server.answered(kept)
        answers.append(kept)
    return answers


def test_both_sides_agree_after_a_loss_at_any_point() -> None:
    """Wherever the connection breaks, each call is executed once and every answer arrives."""
    for received, answers_seen in product(range(5), range(5)):
        if answers_seen > received:
            continue
        server, client = Session(), greeted(GuestSession("a"))
        executed: list[int] = []
        server.hello(0, "a", None)
        calls = [client.call(Populate(PAGE)) for _ in range(4)]
        results(client, b"".join(executed_by(server, b"".join(calls[:received]), executed)[:answers_seen]))
        server.disconnect()

        assert server.hello(0, "a", client.last_seen) is Action.RESUME
        greeted(client, resumed=True)
        results(client, b"".join(executed_by(server, client.resend(), executed)))
        assert executed == [1, 2, 3, 4]
        assert (client.in_flight, client.in_flight_bytes) == (0, 0)


def test_a_reboot_leaves_nothing_in_flight() -> None:
    """Where the daemon does not know the session, numbers begin anew."""
    session = greeted(GuestSession("a"))
    session.call(Populate(PAGE))
    greeted(session)

    assert (session.in_flight, session.in_flight_bytes) == (0, 0)
    session.call(Populate(PAGE))
    assert results(session, answer(1)) == [DONE]


def opened(name: str | None = "a") -> ToolstackSession[str]:
    """Open a toolstack's session."""
    session: ToolstackSession[str] = ToolstackSession("the daemon", name)
    session.connected()
    list(session.receive(greeting()))
    return session


def test_a_lost_session_is_tried_for_ten_seconds_with_growing_pauses() -> None:
    """Then its error is that of the first loss; what it was tried with since does not matter."""
    session, now_s, pauses = opened(), 100.0, []
    final: XbdError | None = None
    for error in (PeerLost("cut"), *[Busy("not noticed yet"), XbdError("nobody listens")] * 50):
        try:
            pauses.append(session.lost(error, now_s))
        except PeerLost as lost:
            final = lost
            break
        now_s += pauses[-1]

    assert str(final) == "cut"

    assert pauses[:5] == [0.05, 0.1, 0.2, 0.4, LONGEST_PAUSE_S]
    assert RESUME_WITHIN_S - LONGEST_PAUSE_S <= sum(pauses) < RESUME_WITHIN_S


def test_a_resumed_session_begins_again_with_short_pauses() -> None:
    """And with another ten seconds."""
    session = opened()
    session.lost(PeerLost("cut"), 0.0)
    session.lost(PeerLost("again"), 1.0)
    session.connected()
    list(session.receive(greeting(resumed=True)))

    assert session.give_up_at_s is None
    assert session.lost(PeerLost("cut"), 50.0) == 0.05
    assert session.give_up_at_s == 50.0 + RESUME_WITHIN_S


def test_what_cannot_be_resumed_is_over_at_once() -> None:
    """One without a name; one that was not opened; one whose daemon breaks the protocol."""
    garbage = RemoteProtocolError("nonsense")
    for session, error in (
        (opened(None), PeerLost("cut")),
        (ToolstackSession[str]("the daemon", "a"), PeerLost("cut")),
        (opened(), garbage),
    ):
        with pytest.raises(type(error), match=str(error)):
            session.lost(error, 0.0)


def test_a_refusal_to_resume_is_a_loss_that_says_why() -> None:
    """By an error, or by a host that does not know the session."""
    session = opened()
    session.lost(PeerLost("cut"), 0.0)
    with pytest.raises(PeerLost, match=r"^cut; its session cannot be resumed: EINVAL: beyond the window"):
        session.lost(BadArgument("beyond the window"), 1.0)
    session.connected()
    with pytest.raises(RemoteProtocolError, match="another host") as another:
        list(session.receive(greeting()))
    with pytest.raises(PeerLost, match=r"^cut; its session cannot be resumed: it came back as another host"):
        session.lost(another.value, 1.0)


def test_events_come_once_and_those_that_were_told_early_come_last() -> None:
    """Told while the kept ones were asked for, some of them the same."""
    queue = EventQueue(3)
    assert queue.ask() == {"since": 3}
    for number in (4, 5):
        queue.told({"number": number})
    queue.take_answer({"events": [{"number": 3}, {"number": 4}]})

    assert [queue.next() for _ in range(4)] == [{"number": 3}, {"number": 4}, {"number": 5}, None]
    assert queue.ask() == {"since": 6}


def test_a_reader_of_events_that_is_far_behind_fetches_them() -> None:
    """No more are kept than a bound, and it asks for those from the last that it read."""
    queue = EventQueue()
    for number in range(1, EVENTS_QUEUED + 1):
        queue.told({"number": number})
    missed = [queue.missed]
    queue.told({"number": EVENTS_QUEUED + 1})
    missed.append(queue.missed)

    assert missed == [False, True]
    assert queue.next() == {"number": 1}
    assert queue.ask() == {"since": 2}
    assert queue.next() is None


def test_a_session_without_a_name_takes_answers_in_any_order() -> None:
    """It is never resumed behind one of them; but each is of a call that was made."""
    session = opened(None)
    for name in "ab":
        session.make_call(name, {}, name)

    received = codec.encode_response(2, {}) + codec.encode_response(1, {})
    assert list(session.receive(received)) == [Answered("b", {}), Answered("a", {})]
    with pytest.raises(RemoteProtocolError, match="message id 1"):
        list(session.receive(codec.encode_response(1, {})))


@pytest.mark.parametrize("errno", ["ENOSPC", "ENOMEM", "ENFILE"])
def test_who_gets_no_session_for_lack_of_room_goes_on_without(errno: str) -> None:
    """Hello is said again, without one: so a full disk keeps nobody from looking. A loss is the end then."""
    session: ToolstackSession[str] = ToolstackSession("the daemon", "a")
    session.connected()
    refusal = codec.encode_error(0, fields.error_map(HypercallError("no session is opened", errno=errno)))
    (again,) = session.receive(refusal)
    assert isinstance(again, HelloAgain)
    decoder = codec.Decoder()
    decoder.feed(again.packed)
    assert decoder.next_message() == codec.Request(0, "hello", [{"version": VERSION}])

    (greeting_,) = session.receive(greeting())
    assert isinstance(greeting_, Greeted)
    with pytest.raises(PeerLost):
        session.lost(PeerLost("cut"), 0.0)


def test_a_hello_that_is_refused_for_another_reason_is_refused() -> None:
    """As is one for which there is no room, where the session was open before: it cannot be resumed now."""
    for session, error in ((opened(None), Busy("in use")), (opened(), OutOfResources("no room", errno="ENOSPC"))):
        session.connected()
        with pytest.raises(HypercallError):
            list(session.receive(codec.encode_error(0, fields.error_map(error))))
