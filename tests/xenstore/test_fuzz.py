"""Whatever comes is answered, or ends the connection: byte by byte as well as whole, and the store stays sound."""

import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.xenstore.store_client import store_with
from xbd.errors import RemoteProtocolError
from xbd.xenstore.codec import HEADER, PAYLOAD_MAX, Decoder, Message, Operation, encode
from xbd.xenstore.errors import ERRNO_NAMES

NUMBERS = st.integers(0, 0xFFFFFFFF)
SMALL = st.sampled_from([0, 0, 0, 1, 2, 3, 0xFFFFFFFF])
WORDS = st.sampled_from(
    [
        b"",
        b"/",
        b"/a",
        b"/a/b",
        b"a",
        b"data/x",
        b"@introduceDomain",
        b"@releaseDomain",
        b"@",
        b"//",
        b"/a/",
        b"t",
        b"T",
        *(b"F", b"0", b"5", b"6", b"n0", b"r5", b"b6", b"x9", b"check", b"99999999999", b"-1", b"\xff", b"a" * 3000),
    ]
)
PAYLOADS = (
    st.lists(WORDS, max_size=4).map(lambda words: b"".join(word + b"\0" for word in words))
    | st.lists(WORDS, max_size=3).map(b"\0".join)
    | st.binary(max_size=60)
)
OPERATIONS = st.sampled_from([int(operation) for operation in Operation]) | NUMBERS
MESSAGES = st.builds(encode, OPERATIONS, NUMBERS, SMALL, PAYLOADS.map(lambda payload: payload[:PAYLOAD_MAX]))
# Headers that announce what does not come, or more than may.
TAILS = st.sampled_from([b"", b"\0", bytes(15), struct.pack("=4I", 2, 0, 0, 9) + b"/a"]) | st.builds(
    struct.Struct("=4I").pack, NUMBERS, NUMBERS, NUMBERS, st.integers(PAYLOAD_MAX + 1, 0xFFFFFFFF)
)
STREAMS = st.tuples(st.lists(MESSAGES, max_size=12), TAILS).map(lambda parts: b"".join(parts[0]) + parts[1])


def run(stream: bytes, piece: int, domid: int) -> tuple[bytes, bool]:
    """Serve one client that sends *stream* in pieces; returns what it was told, and whether it was dropped."""
    store, dom0 = store_with(5, 6)
    connection = dom0.connection if domid == 0 else store.connect(domid)
    decoder, told = Decoder(), b""
    try:
        for first in range(0, len(stream), piece):
            decoder.feed(stream[first : first + piece])
            while connection.reason is None and (message := decoder.next_message()) is not None:
                store.handle(connection, message)
                told += connection.take_output()
    except RemoteProtocolError:
        return told, True
    finally:
        assert store.check() == []
        store.disconnect(connection)
        assert store.check() == []
    return told, False


@settings(max_examples=150, deadline=None)
@given(stream=STREAMS | st.binary(max_size=200), domid=st.sampled_from([0, 5]))
def test_garbage_is_answered_or_ends_the_connection(stream: bytes, domid: int) -> None:
    """Each message that came whole has one answer, which fits; and pieces make no difference."""
    told, dropped = run(stream, len(stream) or 1, domid)
    assert run(stream, 1, domid) == (told, dropped)
    decoder = Decoder()
    decoder.feed(told)
    answers = []
    while (message := decoder.next_message()) is not None:
        if message.operation == Operation.ERROR:
            assert message.payload.removesuffix(b"\0").decode() in ERRNO_NAMES
        if message.operation != Operation.WATCH_EVENT or message.request:
            answers.append(message.request)
    assert decoder.waiting_bytes == 0
    assert answers == requests_in(stream)


def requests_in(stream: bytes) -> list[int]:
    """Number the whole messages that a stream begins with."""
    found, at = [], 0
    while at + HEADER.size <= len(stream):
        _, request, _, length = HEADER.unpack_from(stream, at)
        at += HEADER.size + length
        if length > PAYLOAD_MAX or at > len(stream):
            break
        found.append(request)
    return found


@settings(max_examples=50, deadline=None)
@given(messages=st.lists(st.builds(Message, OPERATIONS, NUMBERS, SMALL, PAYLOADS), max_size=60))
def test_two_guests_cannot_break_it_together(messages: list[Message]) -> None:
    """Taking turns, nor can they change what is dom0's alone."""
    store, dom0 = store_with(5, 6)
    dom0.write(b"/secret", b"x")
    guests = [store.connect(5), store.connect(6)]
    for number, message in enumerate(messages):
        store.handle(guests[number % 2], message)
        guests[number % 2].take_output()
    assert store.check() == []
    assert dom0.read(b"/secret") == b"x"
    assert store.domains.keys() == {0, 5, 6}
