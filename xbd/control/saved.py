"""What a daemon saves beside its machine: sessions with their last answers, and a record of each domain.

Of each domain an agent section: its session, the answers that may be asked for again, and a record of
settings. Of the daemon itself: the number of the next event, the host's UUID, which guests its host file has described
so far, and the sessions of toolstack clients. All of it is noted and committed with the step that it
belongs to (`xbd.storage.image`), so that an operation and its answer are saved together or not at all.

Answers lie in slots by message id. There are more slots than answers are kept, so that the one of the
step that is under way never takes the place of one that may still be asked for; slots need no notes.
"""

import struct
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]  # it ships no types
import numpy as np

from xbd.abi import MAX_WORDS, Frames
from xbd.errors import BadArgument, DamagedState
from xbd.limits import Limits
from xbd.machine.provision import refused
from xbd.protocol.codec import MAX_EVENT_NUMBER, MSGID_LIMIT
from xbd.protocol.methods import MAX_SESSION_CHARS
from xbd.protocol.session import WINDOW_ANSWERS, Action, Session, State
from xbd.storage.image import Column, Image, Kind, Layout, Section

# Message ids and the length of the name, then the name: a character has four bytes at most.
SESSION_WORDS: Final = 8 + MAX_SESSION_CHARS * 4 // 8
_HELLO, _NEXT, _NAME_BYTES, _OPENED_WITH, _NAME = 0, 1, 2, 3, 8
# The longest answer is that to a load; 64 words for the rest of the message and the slot's header.
_ANSWER_WORDS: Final = MAX_WORDS + 64
# The answer's message id, and its length in bytes.
_SLOT_HEADER: Final = struct.Struct("=2q")
# Settings have at most some thirty names and a few lists; a record that is longer is refused.
_RECORD_WORDS: Final = 1 << 15
# What most records take; so much is allocated on disk when the domain is created.
_RECORD_AT_FIRST_WORDS: Final = 1 << 11

AGENT_LAYOUT: Final = Layout(
    {
        "session": (SESSION_WORDS, 1),
        "answers": (2 * WINDOW_ANSWERS, _ANSWER_WORDS),
        "record": (_RECORD_WORDS, 1),
    }
)

# As many as the client library has in flight.
CLIENT_WINDOW: Final = 64
# What changes something is answered with a number or two; longer answers are not kept.
_CLIENT_ANSWER_WORDS: Final = 24


def daemon_layout(limits: Limits) -> Layout:
    """Lay out what is saved of the daemon itself."""
    return Layout(
        {
            "next_event": (1, 1),
            "described": (1 << 18, 1),
            "clients": (limits.clients * SESSION_WORDS, 1),
            "answers": (limits.clients * 2 * CLIENT_WINDOW, _CLIENT_ANSWER_WORDS),
        }
    )


class SavedSession(Session):
    """A session whose every answer is saved before it is sent.

    Args:
        header: a column of words, of which *row* times `SESSION_WORDS` is where this session's begin.
        answers: a column, of which rows from *first_slot* on, twice as many as *window*, are its slots.
    """

    def __init__(self, header: Column[Any], row: int, answers: Column[Any], first_slot: int, window: int) -> None:
        super().__init__(window)
        self._header = header
        self._first = row * SESSION_WORDS
        slots = answers.words[first_slot : first_slot + 2 * window]
        self._slot_count = 2 * window
        self._slots = slots.reshape(-1).data.cast("B")
        self._slot_bytes = slots.shape[1] * 8

    def reload(self, *, is_live: bool) -> bool:
        """Take the saved values, as `load`; *is_live*: a connection holds the session, and goes on with it."""
        if not self.load():
            self.restore("", 0, 0, None, 0)
            self.state = State.NONE
        elif is_live:
            self.state = State.LIVE
        return self.state is not State.NONE

    def load(self) -> bool:
        """Restore what an earlier daemon saved; tells whether there was a session. Raises DamagedState."""
        words = self._words()
        name_bytes = int(words[_NAME_BYTES])
        if name_bytes == 0:
            return False
        hello, due, opened_with = int(words[_HELLO]), int(words[_NEXT]), int(words[_OPENED_WITH]) - 1
        if not 0 < name_bytes <= 4 * MAX_SESSION_CHARS or not (
            0 <= hello < MSGID_LIMIT and 0 <= due < MSGID_LIMIT and -1 <= opened_with < MSGID_LIMIT
        ):
            raise DamagedState("a session makes no sense")
        try:
            name = bytes(words[_NAME:].tobytes()[:name_bytes]).decode()
        except UnicodeDecodeError as error:
            raise DamagedState("a session's name is no text") from error
        kept = min((due - hello - 1) % MSGID_LIMIT, self.window)
        for age in range(1, kept + 1):
            self.kept((due - age) % MSGID_LIMIT)
        self.restore(name, hello, due, None if opened_with < 0 else opened_with, kept)
        return True

    def _words(self) -> Frames:
        return self._header.words[self._first : self._first + SESSION_WORDS]

    def _note_header(self) -> None:
        self._header.note(np.arange(self._first, self._first + SESSION_WORDS, dtype=np.int64))

    def keep(self, answer: bytes) -> None:
        """Write an answer into its slot; no other copy is kept, since a load's may have half a MiB."""
        at = self.next_msgid % self._slot_count * self._slot_bytes
        _SLOT_HEADER.pack_into(self._slots, at, self.next_msgid, len(answer))
        at += _SLOT_HEADER.size
        self._slots[at : at + len(answer)] = answer

    def kept(self, msgid: int) -> bytes:
        """Read an answer from its slot. Raises DamagedState."""
        at = msgid % self._slot_count * self._slot_bytes
        saved_msgid, length_bytes = _SLOT_HEADER.unpack_from(self._slots, at)
        at += _SLOT_HEADER.size
        if saved_msgid != msgid or not 0 <= length_bytes <= self._slot_bytes - _SLOT_HEADER.size:
            raise DamagedState(f"the answer to message {msgid} is not where it was kept")
        return bytes(self._slots[at : at + length_bytes])

    def hello(self, msgid: int, name: str, last_seen: int | None) -> Action:
        """Decide what a hello does, and save the session that it opens."""
        action = super().hello(msgid, name, last_seen)
        if action is Action.BOOT:
            encoded = name.encode()
            self._note_header()
            words = self._words()
            words[_HELLO], words[_NEXT], words[_NAME_BYTES] = self.hello_msgid, self.next_msgid, len(encoded)
            # 0 stands for None.
            words[_OPENED_WITH] = 0 if last_seen is None else last_seen + 1
            words[_NAME:].view(np.uint8)[: len(encoded)] = np.frombuffer(encoded, dtype=np.uint8)
        return action

    def answered(self, answer: bytes) -> None:
        """Keep and save an answer."""
        super().answered(answer)
        self._header.note_row(self._first + _NEXT)
        self._header.words[self._first + _NEXT] = self.next_msgid

    def forget(self) -> None:
        """Clear the session's place, for another one."""
        self._note_header()
        self._words()[:] = 0


def write_map(image: Image, section: Section, name: str, column: Column[Any], entries: dict[str, Any]) -> None:
    """Save a map in *column*, *name* of *section*. Raises BadArgument, OutOfResources: it is too long, the disk is full."""
    packed = msgpack.packb(entries)
    room = column.words.size * 8 - 8
    if len(packed) > room:
        raise BadArgument(f"settings of {len(packed)} bytes", f"at most {room}")
    words = np.zeros(1 + -(-len(packed) // 8), dtype=np.int64)
    words[0] = len(packed)
    words[1:].view(np.uint8)[: len(packed)] = np.frombuffer(packed, dtype=np.uint8)
    if words.size > _RECORD_AT_FIRST_WORDS:
        first, _ = section.span(name)
        with refused("it is not saved"):
            image.allocate(section, (first, first + words.size))
    column.note(np.arange(words.size, dtype=np.int64))
    column.words[: words.size] = words


def read_map(column: Column[Any]) -> dict[str, Any]:
    """Read a map that was saved. Raises DamagedState."""
    length_bytes = int(column.words[0])
    if not 0 <= length_bytes <= column.words.size * 8 - 8:
        raise DamagedState("a record makes no sense")
    if length_bytes == 0:
        return {}
    try:
        # No more than what was written: what never was is a hole, and reading it would take a page on tmpfs.
        entries = msgpack.unpackb(column.words[1 : 1 + -(-length_bytes // 8)].tobytes()[:length_bytes], raw=False)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise DamagedState(f"a record cannot be read: {error}") from error
    if not isinstance(entries, dict):
        raise DamagedState("a record is no map")
    return entries


class SavedAgent:
    """What is saved of a domain's agent: *session*, and a record of settings."""

    def __init__(self, image: Image, section: Section) -> None:
        self._image = image
        self._section = section
        self.session = SavedSession(section.column("session"), 0, section.column("answers"), 0, WINDOW_ANSWERS)
        self._record = section.column("record")

    def write(self, record: dict[str, Any]) -> None:
        """Save the record. Raises BadArgument, OutOfResources: it is too long, the disk is full."""
        write_map(self._image, self._section, "record", self._record, record)

    def read(self) -> dict[str, Any]:
        """Read the record. Raises DamagedState."""
        return read_map(self._record)


class SavedDaemon:
    """What is saved of the daemon itself, in a *section* of *image*."""

    def __init__(self, image: Image, section: Section) -> None:
        self._image = image
        self._section = section
        self._next_event = section.column("next_event")
        self._described = section.column("described")
        self.clients = section.column("clients")
        self.answers = section.column("answers")

    @property
    def next_event(self) -> int:
        """Tell the number of the next event; 0: there was none yet. Raises DamagedState."""
        number = int(self._next_event.words[0])
        if not 0 <= number <= MAX_EVENT_NUMBER:
            raise DamagedState(f"the next event has the number {number}")
        return number

    def write_next_event(self, number: int) -> None:
        """Save the number of the next event."""
        self._next_event.note_row(0)
        self._next_event.words[0] = number

    @property
    def described(self) -> list[str]:
        """Name the guests that the host file has described so far. Raises DamagedState."""
        names = read_map(self._described).get("guests", [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DamagedState("the guests that the host file has described are no list of names")
        return names

    def allocate_client(self, row: int) -> None:
        """Give a client's session its place on the disk. Raises OutOfResources: it can have none."""
        answers, _ = self._section.span("answers")
        answer_words = 2 * CLIENT_WINDOW * _CLIENT_ANSWER_WORDS
        first = answers + row * answer_words
        with refused("no session is opened"):
            self._image.allocate(self._section, (first, first + answer_words))

    def write_described(self, names: list[str]) -> None:
        """Save which guests the host file has described so far. Raises BadArgument, OutOfResources."""
        self._write({"guests": names})

    def _write(self, entries: dict[str, Any]) -> None:
        written = {**read_map(self._described), **entries}
        write_map(self._image, self._section, "described", self._described, written)

    @property
    def host_uuid(self) -> str:
        """Tell the host's UUID; empty where an earlier version saved none. Raises DamagedState."""
        uuid = read_map(self._described).get("uuid", "")
        if not isinstance(uuid, str):
            raise DamagedState("the host's UUID is no text")
        return uuid

    def write_host_uuid(self, uuid: str) -> None:
        """Save the host's UUID. Raises OutOfResources: nothing has changed."""
        self._write({"uuid": uuid})


def agent_section(image: Image, domid: int, *, new: bool) -> SavedAgent:
    """Make, or find, what is saved of a domain's agent.

    Raises OSError, MemoryError: there is no room for a new one; it may be there half, and is to be dropped.
    """
    return SavedAgent(image, _find(image, (Kind.AGENT, domid), AGENT_LAYOUT, ("session",), "record", new=new))


def daemon_section(image: Image, limits: Limits, *, new: bool) -> SavedDaemon:
    """Make, or find, what is saved of the daemon. Raises OSError: there is no room for it."""
    whole = ("next_event", "clients")
    return SavedDaemon(image, _find(image, (Kind.DAEMON, 0), daemon_layout(limits), whole, "described", new=new))


def _find(
    image: Image, key: tuple[Kind, int], layout: Layout, whole: tuple[str, ...], record: str, *, new: bool
) -> Section:
    """Make or open a section, with disk space for its *whole* columns and for what most maps take in its *record*.

    Raises OSError, DamagedState.
    """
    section = image.add_section(*key, layout) if new else image.open_section(*key)
    if section.layout != layout:
        raise DamagedState(f"{key[0].name.lower()}-{key[1]} is laid out as another version of xbd does")
    first, _ = section.span(record)
    image.allocate_once(section, *map(section.span, whole), (first, first + _RECORD_AT_FIRST_WORDS))
    return section
