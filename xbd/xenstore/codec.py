"""The XenStore wire: a header of four native-endian u32 and up to 4096 bytes, both ways.

The decoder takes bytes in pieces of any size and returns whole messages. It does no I/O and trusts
nothing: a header that announces too long a payload ends the connection, because the next header cannot
be found behind it.

Source: Xen public/io/xs_wire.h (struct xsd_sockmsg, XENSTORE_PAYLOAD_MAX).
"""

import re
import struct
from enum import IntEnum
from typing import Final, NamedTuple

from xbd.errors import RemoteProtocolError

HEADER: Final = struct.Struct("=4I")
PAYLOAD_MAX: Final = 4096
_BLANKS: Final = rb"[ \t\n\v\f\r]*"
_DECIMAL: Final = re.compile(_BLANKS + rb"([+-]?[0-9]+)")
_ANY_BASE: Final = re.compile(_BLANKS + rb"([+-]?)(?:0[xX]([0-9a-fA-F]+)|(0[0-7]*)|([1-9][0-9]*))")
_LONG_MAX: Final = (1 << 63) - 1
_U32: Final = 1 << 32


class Operation(IntEnum):
    """What a message is; 20 was RESTRICT, which is gone."""

    CONTROL = 0
    DIRECTORY = 1
    READ = 2
    GET_PERMS = 3
    WATCH = 4
    UNWATCH = 5
    TRANSACTION_START = 6
    TRANSACTION_END = 7
    INTRODUCE = 8
    RELEASE = 9
    GET_DOMAIN_PATH = 10
    WRITE = 11
    MKDIR = 12
    RM = 13
    SET_PERMS = 14
    WATCH_EVENT = 15
    ERROR = 16
    IS_DOMAIN_INTRODUCED = 17
    RESUME = 18
    SET_TARGET = 19
    RESET_WATCHES = 21
    DIRECTORY_PART = 22


class Message(NamedTuple):
    """A whole message; *operation* is any number that the peer sent."""

    operation: int
    request: int
    transaction: int
    payload: bytes


def encode(operation: int, request: int, transaction: int, payload: bytes) -> bytes:
    """Encode a message, whose payload is at most `PAYLOAD_MAX` bytes."""
    assert len(payload) <= PAYLOAD_MAX, f"a payload of {len(payload)} bytes"
    return HEADER.pack(operation, request, transaction, len(payload)) + payload


class Decoder:
    """Turns bytes into messages; holds only the bytes that no message was made of yet."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._at = 0

    def feed(self, received: bytes) -> None:
        """Take in bytes."""
        if self._at:
            del self._received[: self._at]
            self._at = 0
        self._received += received

    @property
    def waiting_bytes(self) -> int:
        """How many bytes wait for the rest of their message."""
        return len(self._received) - self._at

    def next_message(self) -> Message | None:
        """Return the next whole message; None: more bytes are needed.

        Raises:
            RemoteProtocolError: a payload is announced that is too long; the connection is to be closed.
        """
        if len(self._received) - self._at < HEADER.size:
            return None
        operation, request, transaction, length = HEADER.unpack_from(self._received, self._at)
        if length > PAYLOAD_MAX:
            raise RemoteProtocolError(f"a payload of {length} bytes is announced", f"at most {PAYLOAD_MAX} bytes")
        first = self._at + HEADER.size
        end = first + length
        if len(self._received) < end:
            return None
        self._at = end
        return Message(operation, request, transaction, bytes(self._received[first:end]))


def strings_of(payload: bytes) -> list[bytes]:
    """Split a payload into its strings, each ended by a NUL; what is behind the last NUL is none."""
    return payload.split(b"\0")[:-1]


def _as_u32(number: int) -> int:
    """Convert a number as C converts a long to an unsigned int; a long that overflows is the largest, or least."""
    return max(-_LONG_MAX - 1, min(number, _LONG_MAX)) % _U32


def leading_number(text: bytes) -> int:
    """Read the decimal number that a text begins with, as C's atoi does; 0: there is none. In [0, 2**32)."""
    found = _DECIMAL.match(text)
    return _as_u32(int(found[1])) if found else 0


def whole_number(text: bytes) -> int | None:
    """Read a decimal, octal (0...) or hexadecimal (0x...) number as C's strtol does; None: it is not all of the text.

    In [0, 2**32).
    """
    found = _ANY_BASE.fullmatch(text)
    if found is None:
        return None
    sign, hexadecimal, octal, decimal = found.groups()
    digits, base = (hexadecimal, 16) if hexadecimal else (octal, 8) if octal else (decimal, 10)
    return _as_u32(int(sign + digits, base))
