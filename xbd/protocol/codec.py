"""MessagePack-RPC framing: a stream of bytes to messages and back, within limits.

`Decoder.feed` takes bytes as they come, whole or one at a time; `Decoder.next_message` hands out
one complete message at a time. Anything else than a well-formed message within the limits raises
`RemoteProtocolError`, and the decoder stays broken: after garbage nothing says where the next
message begins. What a message *carries* is not checked here (`untrusted_...`), see `xbd.protocol.fields`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple, NoReturn

import msgpack  # type: ignore[import-untyped]  # it ships no types

from xbd.abi import MAX_EXTENTS
from xbd.errors import LocalProtocolError, RemoteProtocolError
from xbd.text import quote

# Of the protocol: which methods there are, and what they mean (`xbd.protocol.methods`).
VERSION: Final = 1
# What one read of a socket asks for: 16 pages, a full window of eight 512-extent calls and then some.
RECEIVE_BYTES: Final = 64 * 1024
# What an unpacker's buffer begins with: a few calls of 512 gfns. It grows with the longest message; left to itself
# msgpack takes 1 MiB for every one, and touches all of it in time.
BUFFER_BYTES: Final = 16 * 1024
# Unpackers that wait for the next message, for each set of limits: more are in use at once where messages come in parts.
_SPARE_UNPACKERS: Final = 8
# The longest calls carry two lists of MAX_EXTENTS 8-byte numbers (exchange; store); 4 KiB for the rest of the message.
MAX_CALL_BYTES: Final = 2 * 8 * MAX_EXTENTS + 4096
# The longest answer is a booting guest's map, 16 bytes a run: 4 Mi runs, the worst that a 32 GiB guest can have.
MAX_ANSWER_BYTES: Final = (64 << 20) + 4096
# A call's arrays and maps are settings and statistics; tens of entries are usual. So many may all of them together have:
# an empty array is one byte and 56 of an object's, and a megabyte of them kept the daemon busy for 150 ms.
MAX_CALL_ITEMS: Final = 1024
# `list` answers one entry per domain, at most 32,752 of them.
MAX_ANSWER_ITEMS: Final = 65_536
# A message is a list of maps of maps (a domain's `guest` settings hold one more); 8 leaves room for another two.
MAX_NESTING: Final = 8
# Events are numbered from 1; 2**53 is the last whole number that every JSON reader keeps.
MAX_EVENT_NUMBER: Final = 1 << 53
# Message ids are uint32 in MessagePack-RPC; they wrap.
MSGID_LIMIT: Final = 1 << 32
# Twenty times what a hello takes; a peer that has not been admitted needs no more.
MAX_HELLO_BYTES: Final = 4096
# No method name comes near; it keeps what an error message quotes short.
MAX_METHOD_CHARS: Final = 64

_REQUEST, _RESPONSE, _NOTIFICATION = 0, 1, 2


class Request(NamedTuple):
    """A call that wants an answer: `[0, msgid, method, params]`."""

    msgid: int
    method: str
    untrusted_params: object


class Response(NamedTuple):
    """The answer to call *msgid*: `[1, msgid, error, result]`, of which one is nil."""

    msgid: int
    untrusted_error: object
    untrusted_result: object


class Notification(NamedTuple):
    """A message that wants no answer: `[2, method, params]`."""

    method: str
    untrusted_params: object


Message = Request | Response | Notification


@dataclass(frozen=True, slots=True)
class Limits:
    """What a decoder accepts: bytes of one message, entries of one array or map, and, if *in_all*, of all together."""

    message_bytes: int
    items: int
    in_all: bool = True


HELLO_LIMITS: Final = Limits(MAX_HELLO_BYTES, MAX_CALL_ITEMS)
CALL_LIMITS: Final = Limits(MAX_CALL_BYTES, MAX_CALL_ITEMS)
# A client trusts its daemon: `list` has as many maps as there are domains.
ANSWER_LIMITS: Final = Limits(MAX_ANSWER_BYTES, MAX_ANSWER_ITEMS, in_all=False)


def _refuse_extension(code: int, _body: bytes) -> NoReturn:
    raise ValueError(f"extension type {code}")


class _Entries:
    """Counts the entries of a message's arrays and maps.

    Apart from the unpacker that calls it, which would otherwise outlive its use until the garbage collector runs: in an
    idle daemon that is seldom.
    """

    __slots__ = ("_most", "count")

    def __init__(self, most: int) -> None:
        self._most = most
        self.count = 0

    def take_list(self, untrusted: list[object]) -> list[object]:
        """Count an array."""
        self._take(len(untrusted))
        return untrusted

    def take_map(self, untrusted: dict[object, object]) -> dict[object, object]:
        """Count a map."""
        self._take(len(untrusted))
        return untrusted

    def _take(self, entries: int) -> None:
        """Count an array's or map's entries, and itself, among those of its message."""
        self.count += 1 + entries
        if self.count > self._most:
            raise ValueError(f"more than {self._most} entries in all its arrays and maps")


class _Unpacker:
    """A msgpack unpacker, and where in its bytes it is."""

    __slots__ = ("entries", "fed_bytes", "grown", "message_start", "msgpack")

    def __init__(self, limits: Limits) -> None:
        self.entries = _Entries(limits.items)
        hooks = {"list_hook": self.entries.take_list, "object_hook": self.entries.take_map}
        counting = hooks if limits.in_all else {}
        self.msgpack = msgpack.Unpacker(
            raw=False,
            strict_map_key=True,
            ext_hook=_refuse_extension,
            # One whole message and what one read can add to it; the exact limit is checked by position.
            max_buffer_size=limits.message_bytes + RECEIVE_BYTES,
            read_size=BUFFER_BYTES,
            max_str_len=limits.message_bytes,
            max_bin_len=limits.message_bytes,
            max_array_len=limits.items,
            max_map_len=limits.items,
            max_ext_len=0,
            **counting,
        )
        self.fed_bytes = 0
        self.message_start = 0
        self.grown = False

    def feed(self, received: bytes | bytearray) -> None:
        """Take bytes. Raises msgpack.BufferFull, ValueError: they are too many."""
        self.msgpack.feed(received)
        self.fed_bytes += len(received)
        self.grown = self.grown or self.unread_bytes > BUFFER_BYTES

    @property
    def unread_bytes(self) -> int:
        """Count the bytes that are not part of a message handed out yet."""
        return self.fed_bytes - self.message_start


_SPARE: Final[dict[Limits, list[_Unpacker]]] = {}


def _borrow_unpacker(limits: Limits) -> _Unpacker:
    try:
        return _SPARE[limits].pop()
    except (KeyError, IndexError):
        return _Unpacker(limits)


class Decoder:
    """Bytes in, messages out.

    An unpacker takes 56 KiB, and most connections have nothing to unpack at most times: a decoder borrows one while it
    has bytes of a message.

    Args:
        limits: `HELLO_LIMITS` for what comes in at a server at first, `CALL_LIMITS` from then on,
            `ANSWER_LIMITS` at a client.
    """

    def __init__(self, limits: Limits = CALL_LIMITS) -> None:
        self._limits = limits
        self._broken: RemoteProtocolError | None = None
        self._unpacker: _Unpacker | None = None

    def with_limits(self, limits: Limits) -> "Decoder":
        """Return a decoder with other limits that goes on where this one is: it takes over the bytes not handed out yet."""
        successor = Decoder(limits)
        if self._unpacker is not None:
            successor.feed(self._unpacker.msgpack.read_bytes(self.unread_bytes))
        return successor

    def feed(self, received: bytes | bytearray) -> None:
        """Take bytes as they came, at most `RECEIVE_BYTES` at a time; `next_message` has what they complete."""
        if self._broken is not None:
            raise self._broken
        if self._unpacker is None:
            self._unpacker = _borrow_unpacker(self._limits)
        try:
            self._unpacker.feed(received)
        except (msgpack.BufferFull, ValueError) as error:
            self._break(f"a message of more than {self._limits.message_bytes} bytes", error)

    @property
    def unread_bytes(self) -> int:
        """Count the bytes that were fed and are not part of a message handed out yet."""
        return 0 if self._unpacker is None else self._unpacker.unread_bytes

    def next_message(self) -> Message | None:
        """Hand out the next complete message, or None when the bytes so far hold none.

        Raises:
            RemoteProtocolError: the bytes are no message, or one beyond the limits; the decoder stays broken.
        """
        if self._broken is not None:
            raise self._broken
        unpacker, limit = self._unpacker, self._limits.message_bytes
        if unpacker is None:
            return None
        try:
            untrusted = unpacker.msgpack.unpack()
        except msgpack.OutOfData:
            if unpacker.unread_bytes > limit:
                self._break(f"a message of more than {limit} bytes")
            self._return_unpacker(unpacker)
            return None
        except (msgpack.UnpackException, ValueError, TypeError, RecursionError) as error:
            self._break(f"not a MessagePack message: {str(error) or type(error).__name__}", error)
        end = unpacker.msgpack.tell()
        if end - unpacker.message_start > limit:
            self._break(f"a message of {end - unpacker.message_start} bytes, more than {limit}")
        unpacker.message_start = end
        unpacker.entries.count = 0
        self._return_unpacker(unpacker)
        try:
            return _to_message(untrusted)
        except RemoteProtocolError as error:
            self._broken = error
            raise

    def _return_unpacker(self, unpacker: _Unpacker) -> None:
        """Let another decoder have the unpacker, unless a part of a message is in it."""
        if unpacker.unread_bytes:
            return
        self._unpacker = None
        # A buffer never shrinks, and a thousand connections that each had one long message are a GiB.
        if not unpacker.grown:
            spare = _SPARE.setdefault(self._limits, [])
            if len(spare) < _SPARE_UNPACKERS:
                spare.append(unpacker)

    def _break(self, reason: str, cause: Exception | None = None) -> NoReturn:
        self._broken = RemoteProtocolError(
            reason, f"MessagePack-RPC, a message at most {self._limits.message_bytes} bytes"
        )
        raise self._broken from cause


def _to_message(untrusted: object) -> Message:
    """Tell requests, responses and notifications apart; their params stay untrusted."""
    # Every call takes this path: plain comparisons of types are faster here than `match`, which tries shape after shape.
    if type(untrusted) is list and untrusted and type(untrusted[0]) is int:
        kind = untrusted[0]
        if kind == _REQUEST and len(untrusted) == 4:
            _, untrusted_msgid, untrusted_method, params = untrusted
            message: Message = Request(_checked_msgid(untrusted_msgid), _checked_method(untrusted_method), params)
            # The message itself is the first level; params are within it.
            _check_nesting(params, MAX_NESTING - 1)
            return message
        if kind == _RESPONSE and len(untrusted) == 4:
            _, untrusted_msgid, error, result = untrusted
            message = Response(_checked_msgid(untrusted_msgid), error, result)
            _check_nesting(error, MAX_NESTING - 1)
            _check_nesting(result, MAX_NESTING - 1)
            return message
        if kind == _NOTIFICATION and len(untrusted) == 3:
            _, untrusted_method, params = untrusted
            message = Notification(_checked_method(untrusted_method), params)
            _check_nesting(params, MAX_NESTING - 1)
            return message
    raise RemoteProtocolError(
        f"a {type(untrusted).__name__} that is no MessagePack-RPC message",
        "[0, msgid, method, params], [1, msgid, error, result] or [2, method, params]",
    )


def _checked_msgid(untrusted: object) -> int:
    if type(untrusted) is int and 0 <= untrusted < MSGID_LIMIT:
        return untrusted
    raise RemoteProtocolError(f"message id {quote(untrusted)}", f"a number from 0 to {MSGID_LIMIT - 1}")


def _checked_method(untrusted: object) -> str:
    if type(untrusted) is str and len(untrusted) <= MAX_METHOD_CHARS:
        return untrusted
    raise RemoteProtocolError(f"a method name {quote(untrusted)}", f"text of at most {MAX_METHOD_CHARS} characters")


def _check_nesting(untrusted: object, levels: int) -> None:
    """Refuse arrays and maps more than *levels* deep."""
    if isinstance(untrusted, dict):
        inners: Iterable[object] = untrusted.values()
    elif isinstance(untrusted, list):
        inners = untrusted
    else:
        return
    if levels == 0:
        raise RemoteProtocolError("a message that is nested too deeply", f"at most {MAX_NESTING} levels")
    for inner in inners:
        if type(inner) is dict or type(inner) is list:
            _check_nesting(inner, levels - 1)


_PACKER: Final = msgpack.Packer()


def encode_request(msgid: int, method: str, params: dict[str, object]) -> bytes:
    """Pack a call; *params* travel as an array of one map."""
    return _pack([_REQUEST, msgid, method, [params]])


def encode_response(msgid: int, result: object) -> bytes:
    """Pack the answer to call *msgid*."""
    return _pack([_RESPONSE, msgid, None, result])


def encode_packed_response(msgid: int, packed: bytes) -> bytes:
    """Make the answer to call *msgid* of a result that is packed already."""
    # Of the array of four all but the last.
    return b"\x94" + _pack([_RESPONSE, msgid, None])[1:] + packed


def encode_error(msgid: int, error: dict[str, str]) -> bytes:
    """Pack a refusal of call *msgid*, of which nothing was tried; see `fields.error_map`."""
    return _pack([_RESPONSE, msgid, error, None])


def encode_notification(method: str, params: dict[str, object]) -> bytes:
    """Pack a message that wants no answer; *params* travel as an array of one map."""
    return _pack([_NOTIFICATION, method, [params]])


def _pack(message: list[object]) -> bytes:
    try:
        packed: bytes = _PACKER.pack(message)
    except (TypeError, ValueError, OverflowError) as error:
        raise LocalProtocolError(f"cannot be put into a message: {error}") from error
    return packed
