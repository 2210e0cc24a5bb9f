"""Bytes to messages: whole, in pieces, beyond the limits, and garbage."""

import gc
import tracemalloc
import weakref

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xbd.errors import LocalProtocolError, RemoteProtocolError
from xbd.protocol import codec
from xbd.protocol.codec import ANSWER_LIMITS, CALL_LIMITS, Decoder, Limits, Message, Notification, Request, Response

plain = (
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.text(max_size=20) | st.binary(max_size=64)
)
params = st.dictionaries(st.text(max_size=12), plain | st.lists(plain, max_size=4), max_size=5)
msgids = st.integers(0, codec.MSGID_LIMIT - 1)
methods = st.text(max_size=codec.MAX_METHOD_CHARS)


def drain(decoder: Decoder) -> list[Message]:
    """Take all complete messages."""
    messages = []
    while (message := decoder.next_message()) is not None:
        messages.append(message)
    return messages


def decode(stream: bytes, piece_bytes: int, limits: Limits = CALL_LIMITS) -> list[Message]:
    """Decode *stream*, fed in pieces."""
    decoder = Decoder(limits)
    messages = []
    for start in range(0, len(stream), piece_bytes):
        decoder.feed(stream[start : start + piece_bytes])
        messages += drain(decoder)
    return messages


@given(st.lists(st.tuples(msgids, methods, params), max_size=4), st.sampled_from([1, 2, 7, codec.RECEIVE_BYTES]))
def test_what_is_encoded_is_decoded(calls: list[tuple[int, str, dict[str, object]]], piece_bytes: int) -> None:
    """Requests, responses and notifications come out as they went in, wherever the stream is cut."""
    stream = b"".join(
        codec.encode_request(*call) + codec.encode_response(call[0], call[2]) + codec.encode_notification(*call[1:])
        for call in calls
    )

    expected: list[Message] = []
    for msgid, method, sent in calls:
        expected += [Request(msgid, method, [sent]), Response(msgid, None, sent), Notification(method, [sent])]
    assert decode(stream, piece_bytes) == expected


@given(st.binary(max_size=200), st.sampled_from([1, 3, 200]))
def test_garbage_is_refused_and_nothing_else_happens(garbage: bytes, piece_bytes: int) -> None:
    """Any bytes at all give messages, a wish for more, or RemoteProtocolError."""
    decoder = Decoder()
    try:
        for start in range(0, len(garbage), piece_bytes):
            decoder.feed(garbage[start : start + piece_bytes])
            drain(decoder)
    except RemoteProtocolError:
        with pytest.raises(RemoteProtocolError):
            decoder.feed(b"\x90")
        with pytest.raises(RemoteProtocolError):
            decoder.next_message()


@given(
    st.recursive(
        plain, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4)
    )
)
def test_well_formed_but_no_message(untrusted: object) -> None:
    """Any MessagePack value is a message or refused."""
    decoder = Decoder()
    decoder.feed(msgpack.packb(untrusted))
    try:
        message = decoder.next_message()
    except RemoteProtocolError:
        return

    assert isinstance(message, Request | Response | Notification)


@pytest.mark.parametrize(
    "wrong",
    [
        [0, 1, "list"],
        [0, -1, "list", []],
        [0, 1 << 32, "list", []],
        [0, True, "list", []],
        [False, 1, "list", []],
        [0, 1, b"list", []],
        [0, 1, "x" * 65, []],
        [3, 1, "list", []],
        [2, "event", {}, {}],
        [],
        {},
        7,
        "list",
        None,
        [0.0, 1, "list", []],
    ],
)
def test_wrong_envelopes_are_refused(wrong: object) -> None:
    """What is no request, response or notification is refused, and the error says what would be one."""
    decoder = Decoder()
    decoder.feed(msgpack.packb(wrong))

    with pytest.raises(RemoteProtocolError) as caught:
        decoder.next_message()
    assert caught.value.hint


@pytest.mark.parametrize("piece_bytes", [codec.RECEIVE_BYTES, 4097])
def test_a_message_of_exactly_the_limit_passes_and_one_more_byte_does_not(piece_bytes: int) -> None:
    """The limit is exact, wherever the stream is cut."""
    empty = len(codec.encode_request(1, "store", {"words": b"x" * 70_000})) - 70_000
    fits = codec.encode_request(1, "store", {"words": b"x" * (codec.MAX_CALL_BYTES - empty)})
    too_long = codec.encode_request(1, "store", {"words": b"x" * (codec.MAX_CALL_BYTES - empty + 1)})

    assert len(fits) == codec.MAX_CALL_BYTES
    assert len(decode(fits * 2, piece_bytes)) == 2
    with pytest.raises(RemoteProtocolError, match="bytes"):
        decode(too_long, piece_bytes)


@pytest.mark.parametrize("header", [b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff"])
def test_a_message_that_never_ends_is_refused_at_the_limit(header: bytes) -> None:
    """A header that promises 4 GiB reserves nothing, and no more than the limit is ever held."""
    decoder = Decoder()
    decoder.feed(b"\x94\x00\x01\xa4list" + header)
    assert decoder.next_message() is None
    for _ in range(codec.MAX_CALL_BYTES // codec.RECEIVE_BYTES):
        decoder.feed(bytes(codec.RECEIVE_BYTES))
        assert decoder.next_message() is None
    decoder.feed(bytes(codec.RECEIVE_BYTES))

    with pytest.raises(RemoteProtocolError, match="more than"):
        decoder.next_message()


@pytest.mark.parametrize("header", [b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdc\xff\xff", b"\xd4\x01\x00"])
def test_headers_that_promise_too_much_are_refused(header: bytes) -> None:
    """Arrays and maps of 4 Gi entries, and extensions, are refused at once."""
    decoder = Decoder()
    decoder.feed(header)

    with pytest.raises(RemoteProtocolError):
        decoder.next_message()


@pytest.mark.parametrize("depth", [codec.MAX_NESTING, 100, 5000])
def test_deep_nesting_is_refused(depth: int) -> None:
    """Nesting beyond the limit is refused, whether or not the unpacker would manage it."""
    decoder = Decoder()
    decoder.feed(b"\x94\x00\x01\xa4list" + b"\x91" * depth + b"\xc0")

    with pytest.raises(RemoteProtocolError):
        decoder.next_message()


def test_nesting_up_to_the_limit_passes() -> None:
    """The deepest allowed message is decoded."""
    decoder = Decoder()
    decoder.feed(b"\x94\x00\x01\xa4list" + b"\x91" * (codec.MAX_NESTING - 1) + b"\xc0")

    assert isinstance(decoder.next_message(), Request)


def test_messages_before_garbage_are_handed_out() -> None:
    """What came whole before the garbage counts; after it nothing does."""
    decoder = Decoder()
    decoder.feed(codec.encode_request(1, "list", {}) + b"\xc1")

    assert decoder.next_message() == Request(1, "list", [{}])
    with pytest.raises(RemoteProtocolError):
        decoder.next_message()


def test_answers_may_be_longer_than_calls() -> None:
    """A client takes answers that no server would take as a call."""
    answer = codec.encode_response(1, b"x" * (2 * codec.MAX_CALL_BYTES))

    (message,) = decode(answer, codec.RECEIVE_BYTES, ANSWER_LIMITS)
    assert isinstance(message, Response)
    with pytest.raises(RemoteProtocolError):
        decode(answer, codec.RECEIVE_BYTES, CALL_LIMITS)


def test_what_cannot_be_packed_is_our_own_mistake() -> None:
    """An object that MessagePack has no form for is a LocalProtocolError, and later messages are whole."""
    with pytest.raises(LocalProtocolError):
        codec.encode_response(1, {"frames": object()})
    with pytest.raises(LocalProtocolError):
        codec.encode_response(1, 1 << 70)

    assert decode(codec.encode_response(1, "fine"), 1) == [Response(1, None, "fine")]


def test_a_decoder_goes_with_its_last_user() -> None:
    """Nothing in it leads back to it: a connection's buffers need no garbage collector to be freed."""
    decoder = Decoder(codec.CALL_LIMITS)
    decoder.feed(codec.encode_request(1, "list", {"a": [1, 2]}))
    assert decoder.next_message() is not None
    kept = weakref.ref(decoder)
    gc.disable()
    try:
        del decoder
        assert kept() is None
    finally:
        gc.enable()


def test_a_long_message_leaves_no_long_buffer_behind() -> None:
    """What a connection needed for its longest message it gives back when that is decoded."""
    long_call = codec.encode_request(0, "store", {"gfns": bytes(8 * 60_000), "words": bytes(8 * 60_000)})
    decoders = [Decoder() for _ in range(50)]
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for decoder in decoders:
            for first in range(0, len(long_call), codec.RECEIVE_BYTES):
                decoder.feed(long_call[first : first + codec.RECEIVE_BYTES])
            assert decoder.next_message() is not None
            assert decoder.next_message() is None
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < len(decoders) * 4 * codec.BUFFER_BYTES


def test_a_decoder_that_waits_holds_no_unpacker() -> None:
    """An unpacker takes 56 KiB: only a decoder with a part of a message keeps one, and another's is not disturbed by it."""
    whole, other = codec.encode_request(1, "list", {"name": "a"}), codec.encode_request(2, "list", {"name": "b"})
    waiting, halfway = Decoder(), Decoder()
    waiting.feed(whole)
    assert waiting.next_message() == Request(1, "list", [{"name": "a"}])
    halfway.feed(other[:7])
    assert halfway.next_message() is None
    for _ in range(3):
        waiting.feed(whole)
        assert waiting.next_message() == Request(1, "list", [{"name": "a"}])
        assert waiting.next_message() is None
    halfway.feed(other[7:] + whole)
    assert [halfway.next_message() for _ in range(3)] == [
        Request(2, "list", [{"name": "b"}]),
        Request(1, "list", [{"name": "a"}]),
        None,
    ]
    assert (waiting._unpacker, halfway._unpacker) == (None, None)
