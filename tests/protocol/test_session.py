"""Sessions: new, resumed, repeated, out of turn."""

from itertools import product

import pytest

from xbd.errors import BadArgument, Busy, LocalProtocolError, RemoteProtocolError
from xbd.protocol import codec
from xbd.protocol.session import TABLE, WINDOW_ANSWERS, Action, Event, Session, State


def live_session(hello_msgid: int = 0) -> Session:
    """Open a session."""
    session = Session()
    assert session.hello(hello_msgid, "a", None) is Action.BOOT
    return session


def answer_calls(session: Session, first: int, count: int) -> None:
    """Answer *count* new calls, from message id *first*."""
    for msgid in range(first, first + count):
        assert session.call(msgid % codec.MSGID_LIMIT) is None
        session.answered(b"answer %d" % msgid)


def test_the_table_leaves_nothing_half_said() -> None:
    """What a state does not know is what cannot happen in it: calls and losses without a connection, and no other."""
    missing = set(product(State, Event)) - TABLE.keys()

    without_connection = {Event.CALL_NEXT, Event.CALL_REPEATED, Event.CALL_OUT_OF_TURN, Event.DISCONNECT}
    assert missing == {
        *product((State.NONE, State.LOST), without_connection),
        (State.NONE, Event.HELLO_SAME),
        (State.NONE, Event.HELLO_BEYOND_WINDOW),
    }


def test_an_event_that_a_state_does_not_know_is_an_error() -> None:
    """Nothing is ignored: losing a connection that is not there is a bug, and says so."""
    with pytest.raises(LocalProtocolError, match="NONE cannot take DISCONNECT"):
        Session().disconnect()
    with pytest.raises(LocalProtocolError):
        Session().call(1)


@pytest.mark.parametrize("hello_msgid", [0, 41, codec.MSGID_LIMIT - 3])
def test_calls_number_on_from_hello(hello_msgid: int) -> None:
    """Ids rise by one from hello's, also where they wrap."""
    session = live_session(hello_msgid)

    answer_calls(session, hello_msgid + 1, 5)
    with pytest.raises(RemoteProtocolError, match="out of turn"):
        session.call((hello_msgid + 7) % codec.MSGID_LIMIT)


def test_repeats_are_answered_from_the_window() -> None:
    """The last 8 answers come again, byte for byte; what is older is out of turn."""
    session = live_session()
    answer_calls(session, 1, 12)

    assert [session.call(msgid) for msgid in range(5, 13)] == [b"answer %d" % msgid for msgid in range(5, 13)]
    with pytest.raises(RemoteProtocolError):
        session.call(12 - WINDOW_ANSWERS)


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_second_live_session_is_busy(name: str) -> None:
    """While a connection lives, nobody else gets in, whatever session it names."""
    session = live_session()

    with pytest.raises(Busy):
        session.hello(0, name, None)
    answer_calls(session, 1, 1)


def test_a_guest_that_was_never_told_of_its_reboot_is_not_resumed() -> None:
    """Somebody else booted the domain meanwhile; then its hello did, and nobody heard of it: it must boot again."""
    session = Session()
    for name, last_seen in (("mine", None), ("other", None), ("mine", 0), ("mine", 0)):
        assert session.hello(0, name, last_seen) is Action.BOOT
        session.disconnect()


def test_a_hello_whose_answer_was_not_heard_boots_again() -> None:
    """Whoever has not even hello's answer has no map to go on with."""
    session = live_session()
    session.disconnect()
    assert session.hello(999, "a", None) is Action.BOOT


@pytest.mark.parametrize(("answered", "last_seen"), [(0, 0), (3, 0), (3, None), (8, None), (20, 12), (20, 20)])
def test_a_lost_session_is_resumed(answered: int, last_seen: int | None) -> None:
    """Whoever has seen all but the kept answers goes on where it was."""
    session = live_session()
    answer_calls(session, 1, answered)
    session.disconnect()

    assert session.hello(999, "a", last_seen) is Action.RESUME
    seen = last_seen or 0
    assert [session.call(msgid) for msgid in range(seen + 1, answered + 1)] == [
        b"answer %d" % msgid for msgid in range(seen + 1, answered + 1)
    ]
    answer_calls(session, answered + 1, 1)


@pytest.mark.parametrize("last_seen", [11, 21, None])
def test_what_the_window_does_not_hold_cannot_be_resumed(last_seen: int | None) -> None:
    """Answers that are gone, or never were, are refused; a new session still gets in."""
    session = live_session()
    answer_calls(session, 1, 20)
    session.disconnect()

    with pytest.raises(BadArgument, match="cannot be resumed"):
        session.hello(0, "a", last_seen)
    assert session.hello(0, "b", None) is Action.BOOT


def test_another_name_is_a_reboot() -> None:
    """A new session takes over a lost one, and the old one is unknown from then on."""
    session = live_session()
    answer_calls(session, 1, 3)
    session.disconnect()

    assert session.hello(10, "b", None) is Action.BOOT
    with pytest.raises(RemoteProtocolError):
        session.call(3)
    session.disconnect()
    assert session.hello(10, "a", 3) is Action.BOOT
