"""The wire under fire: whatever comes, messages, `RemoteProtocolError` or `BadArgument`, and nothing else.

Each stream is decoded whole, byte by byte, and cut anywhere: what comes out must be the same.
`pytest --hypothesis-seed=N` with a larger `max_examples` goes on for longer; the suite's examples are fixed.
"""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.garbage import GARBAGE, NO_MESSAGES, VALUES, check_refusal, nearly_right, pack, right_values, spoilt
from xbd import abi
from xbd.abi import BootInfo, Command, DomainType, Refused
from xbd.errors import BadArgument, HypercallError, RemoteProtocolError
from xbd.protocol import autoballoon_methods, codec, fields, guest_methods, methods
from xbd.protocol.codec import ANSWER_LIMITS, CALL_LIMITS, HELLO_LIMITS, Decoder, Limits, Message, Response
from xbd.protocol.commands import boot_from_wire, boot_to_wire, command_from_params, result_from_response
from xbd.text import QUOTED_CHARS, quote

RIGHT = right_values([0, 1, 2, 40_000], ["web", "nobody"], 4096)
TABLES = {
    "toolstack": methods.TOOLSTACK_METHODS,
    "autoballoon": autoballoon_methods.AUTOBALLOON_METHODS,
    "domain": guest_methods.DOMAIN_METHODS,
    "notices": {kind: told for kind, told in guest_methods.DOMAIN_NOTIFICATIONS.items() if told.params},
}
CALLS = st.one_of([nearly_right(table, RIGHT) for table in TABLES.values()])
VALID = st.builds(lambda msgid, call: pack([0, msgid, *call]), st.integers(0, 9), CALLS) | st.builds(
    lambda call: pack([2, *call]), CALLS
)
STREAMS = st.lists(VALID | GARBAGE | NO_MESSAGES | spoilt(VALID), max_size=5).map(b"".join)
LIMITS = st.sampled_from([CALL_LIMITS, HELLO_LIMITS, ANSWER_LIMITS, Limits(24, 4)])


def outcome(stream: Sequence[bytes], limits: Limits) -> tuple[list[str], str | None]:
    """Decode a stream in pieces: the messages (written out, as NaN is not equal to itself), and why it broke, if it did."""
    decoder = Decoder(limits)
    messages: list[Message] = []
    try:
        for piece in stream:
            decoder.feed(piece)
            while (message := decoder.next_message()) is not None:
                messages.append(message)
    except RemoteProtocolError as error:
        check_refusal(error)
        for again in (lambda: decoder.feed(b"\x90"), decoder.next_message):
            with pytest.raises(RemoteProtocolError):
                again()
        return [repr(message) for message in messages], "broken"
    return [repr(message) for message in messages], None


@pytest.mark.slow
@settings(max_examples=250)
@given(STREAMS, LIMITS, st.integers(1, 9))
def test_a_stream_gives_the_same_whole_byte_by_byte_and_in_pieces(stream: bytes, limits: Limits, step: int) -> None:
    """Messages before the first mistake come out; after it the decoder stays broken."""
    whole = outcome([stream], limits)

    assert outcome([stream[at : at + 1] for at in range(len(stream))], limits) == whole
    assert outcome([stream[at : at + step] for at in range(0, len(stream), step)], limits) == whole


@given(STREAMS, st.integers(0, 3))
def test_what_is_left_goes_over_to_wider_limits(stream: bytes, before: int) -> None:
    """Limits that change between two messages change nothing of what the messages are."""
    assume(len(stream) <= codec.MAX_HELLO_BYTES)
    decoder, messages, broken = Decoder(HELLO_LIMITS), [], None
    try:
        decoder.feed(stream)
        for count in range(len(stream) + 1):
            if count == before:
                decoder = decoder.with_limits(CALL_LIMITS)
            message = decoder.next_message()
            if message is None:
                break
            messages.append(repr(message))
    except RemoteProtocolError:
        broken = "broken"

    assert (messages, broken) == outcome([stream], CALL_LIMITS)


@pytest.mark.slow
@settings(max_examples=150)
@given(st.sampled_from(sorted(TABLES)), st.data())
def test_parameters_are_checked_values_or_refused(table: str, data: st.DataObject) -> None:
    """Every method of every table: nearly right, or anything at all; a refusal says what was expected."""
    methods = TABLES[table]
    method, params = data.draw(nearly_right(methods, RIGHT) | st.tuples(st.sampled_from(sorted(methods)), VALUES))
    try:
        checked = fields.check_params(method, methods[method].params, params)
    except BadArgument as error:
        check_refusal(error)
        return

    assert checked.keys() == methods[method].params.keys()


@pytest.mark.slow
@settings(max_examples=150)
@given(nearly_right(guest_methods.DOMAIN_METHODS, RIGHT) | st.tuples(st.text(max_size=12), VALUES))
def test_a_guest_s_call_is_a_command_or_refused(call: tuple[str, object]) -> None:
    """No parameters bring anything else about."""
    try:
        command = command_from_params(*call)
    except BadArgument as error:
        check_refusal(error)
        return

    assert isinstance(command, Command)


GFNS = np.arange(5, dtype=np.int64)
WORDS = GFNS.view(np.uint64)
ASKED: list[Command] = [
    abi.Populate(GFNS),
    abi.Load(GFNS),
    abi.Store(GFNS, WORDS),
    abi.Grant(GFNS, 2),
    abi.Receive(600),
    abi.Send(2, WORDS),
]
_DONE = st.integers(-1, 7) | VALUES
_STOPS = st.none() | st.sampled_from([*abi.Stop, "EWHATEVER"]) | VALUES
_NUMBERS = st.integers(0, 7).map(lambda count: bytes(8 * count)) | VALUES
RESULTS = VALUES | st.lists(_DONE, max_size=1) | st.tuples(_DONE, _STOPS).map(list)
RESULTS |= st.tuples(_DONE, _STOPS, _NUMBERS).map(list)
ERRORS = st.none() | VALUES | st.fixed_dictionaries(dict.fromkeys(("errno", "message", "expected"), VALUES | st.text()))


@pytest.mark.slow
@settings(max_examples=250)
@given(st.sampled_from(ASKED), RESULTS, ERRORS)
def test_an_answer_is_a_result_or_refused(command: Command, result: object, error: object) -> None:
    """What a daemon answers is a result no larger than what was asked, or no answer at all."""
    try:
        answer = result_from_response(command, Response(1, error, result))
    except RemoteProtocolError as refusal:
        check_refusal(refusal)
        return

    if isinstance(answer, Refused):
        assert (answer.errno + answer.message + answer.expected).isprintable()
    else:
        assert 0 <= answer.done <= (600 if isinstance(command, abi.Receive) else 5)
        assert isinstance(answer.stop, abi.Stop | None)


@given(VALUES)
def test_an_error_is_a_refusal_or_refused(untrusted: object) -> None:
    """Its texts are fit to be shown, whatever they were."""
    for error in (untrusted, {"errno": untrusted, "message": "\x1b[2J", "expected": ""}):
        try:
            refusal = fields.error_from_map(error)
        except RemoteProtocolError:
            continue
        assert isinstance(refusal, HypercallError)
        assert refusal.message.isprintable()


TOLD = boot_to_wire(BootInfo(3, "web", 4096, np.array([[0, 512], [1024, 2048]]), 1536, 4096))
RUNS = st.lists(st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(-1, 4100), max_size=6).map(
    lambda numbers: np.array(numbers, dtype="<i8").tobytes()
)
WRONG_BOOTS = st.builds(
    lambda name, value: TOLD | {name: value}, st.sampled_from(sorted(TOLD)), VALUES | st.integers(-1, 5000) | RUNS
)


@pytest.mark.slow
@settings(max_examples=150)
@given(st.dictionaries(st.sampled_from(sorted(TOLD)), VALUES) | WRONG_BOOTS)
def test_what_a_guest_is_told_at_boot_makes_sense_or_is_refused(untrusted: dict[str, object]) -> None:
    """A guest is built from numbers that fit together."""
    try:
        boot = boot_from_wire(untrusted)
    except RemoteProtocolError:
        return

    ends = boot.runs.ravel()
    assert sorted(ends.tolist()) == ends.tolist()
    assert not ends.size or 0 <= ends[0] <= ends[-1] <= boot.gfn_count
    assert 0 <= boot.target_pages <= abi.MAX_DOMAIN_PAGES
    assert boot.domain_type in DomainType


@given(VALUES)
def test_whatever_was_sent_can_be_quoted(untrusted: object) -> None:
    """In a line of an error message."""
    assert len(quote(untrusted)) <= QUOTED_CHARS


def test_quoting_looks_at_no_more_than_it_shows() -> None:
    """What is short is written as repr does; a megabyte is cut before it is written."""
    for short in (None, True, -5, 1.5, "web\n", b"\xff", [1, [2]], {"a": 1}):
        assert quote(short) == repr(short)
    for long in (b"\xff" * (1 << 20), "x" * (1 << 20), ["x" * (1 << 20)] * 3, {"k" * (1 << 20): 1}):
        assert len(quote(long)) <= QUOTED_CHARS


@pytest.mark.parametrize("inner", [[], {}, None, 0, ""])
def test_a_call_of_a_million_entries_is_refused_before_they_are_made(inner: object) -> None:
    """Entries count in all arrays and maps together: an empty one is a byte on the wire and a hundred in memory."""
    decoder = Decoder(CALL_LIMITS)
    stream = pack([0, 1, "receive", [{"most": [[inner] * 1000] * 1000}]])
    decoder.feed(stream[: codec.RECEIVE_BYTES])

    with pytest.raises(RemoteProtocolError, match="more than 1024 entries in all"):
        decoder.next_message()


def test_each_message_has_its_own_count_of_entries() -> None:
    """Many calls of many entries are no call of too many."""
    decoder = Decoder(CALL_LIMITS)
    for msgid in range(20):
        decoder.feed(pack([0, msgid, "create", [{"guest": {str(n): n for n in range(1000)}}]]))
        assert decoder.next_message() is not None
