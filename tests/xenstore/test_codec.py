"""The wire: whole messages from whatever pieces come, and an end for what no message can be."""

import struct

import pytest

from xbd.errors import RemoteProtocolError
from xbd.xenstore.codec import PAYLOAD_MAX, Decoder, Message, Operation, encode, strings_of

MESSAGES = [
    Message(Operation.READ, 1, 0, b"/tool\0"),
    Message(Operation.TRANSACTION_START, 2, 0, b""),
    Message(Operation.WRITE, 0xFFFFFFFF, 0xFFFFFFFF, b"/a\0" + bytes(PAYLOAD_MAX - 3)),
    Message(99, 3, 4, b"x"),
]
STREAM = b"".join(encode(*message) for message in MESSAGES)


def test_the_header_is_four_native_words() -> None:
    """Type, request, transaction and length, as struct xsd_sockmsg has them."""
    assert encode(Operation.READ, 5, 6, b"/a\0") == struct.pack("=IIII", 2, 5, 6, 3) + b"/a\0"


@pytest.mark.parametrize("piece", [1, 2, 15, 16, 17, 4096, len(STREAM)])
def test_messages_come_in_any_pieces(piece: int) -> None:
    """What comes out does not depend on how it went in."""
    decoder, found = Decoder(), []
    for first in range(0, len(STREAM), piece):
        decoder.feed(STREAM[first : first + piece])
        while (message := decoder.next_message()) is not None:
            found.append(message)

    assert found == MESSAGES
    assert decoder.waiting_bytes == 0


@pytest.mark.parametrize("length", [PAYLOAD_MAX + 1, 1 << 16, 0xFFFFFFFF])
def test_a_payload_that_is_too_long_ends_the_connection(length: int) -> None:
    """Its header alone is enough, and what came before it is still given."""
    decoder = Decoder()
    decoder.feed(encode(*MESSAGES[0]) + struct.pack("=IIII", 2, 0, 0, length))

    assert decoder.next_message() == MESSAGES[0]
    with pytest.raises(RemoteProtocolError, match=str(length)):
        decoder.next_message()


def test_strings_end_with_a_nul_each() -> None:
    """Empty ones count; a last one without its NUL is none."""
    assert strings_of(b"a\0\0b\0") == [b"a", b"", b"b"]
    assert strings_of(b"\0") == [b""]
    assert strings_of(b"a\0b") == [b"a"]
    assert strings_of(b"") == []
