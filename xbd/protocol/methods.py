"""The table of the protocol, version 1: methods, parameters, answers, notifications and events, each with its bounds.

The daemon checks calls against it; the document `xbd/docs/methods.md` and `xbd protocol --json` are made from it
(`xbd.protocol.description`); tests hold answers and events against it. How messages are framed, what a session is and
what the operations do is in `xbd/docs/protocol.md`.

The version changes when what was said before means something else; methods, keys of answers and
notifications that are new do not change it, so clients ignore what they do not know.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from xbd.abi import (
    LIST_EXTENTS,
    MAX_MESSAGE_WORDS,
    MAX_WORDS,
    ON_CRASH,
    Stop,
)
from xbd.domain import COUNT, DOMAIN, DOMID, INFO_PARTS, MODE, NAME, PAGES, PAGES_OR_NONE, SPEC_PARTS, UUID_TEXT
from xbd.errors import NotSupported
from xbd.protocol.codec import MSGID_LIMIT
from xbd.protocol.fields import FRAMES, WORDS
from xbd.protocol.policy_status import DETAILS
from xbd.shapes import (
    COUNTS,
    FLAG,
    SECONDS,
    SETTINGS,
    SHARE,
    STATISTICS,
    Part,
    Schema,
    array_of,
    choice,
    integer,
    optional,
    record,
    text,
)
from xbd.units import SUPER_ORDER

VERSION: Final = 1
# A UUID has 36 characters; other clients' names may be longer.
MAX_SESSION_CHARS: Final = 64
# Events are numbered from 1; 2**53 is the last whole number that every JSON reader keeps.
MAX_EVENT_NUMBER: Final = 1 << 53
# Where the description has the shapes of domains and events; answers refer to them.
DOMAIN_REF: Final[Schema] = {"$ref": "#/$defs/domain"}
EVENT_REF: Final[Schema] = {"$ref": "#/$defs/event"}
_NOTHING: Final[Schema] = record({})


@dataclass(frozen=True, slots=True)
class Method:
    """One method, notification or event: what it does, its parameters, and what it answers.

    Attributes:
        is_changing: executed twice, it would do something else or be answered otherwise: its answer is kept.
        body: the schema of what it carries, where that is no map of *params*.
    """

    doc: str
    params: Mapping[str, Part] = field(default_factory=dict)
    answer: Schema = field(default_factory=lambda: _NOTHING)
    is_changing: bool = False
    body: Schema | None = None

    @property
    def carried(self) -> Schema:
        """Return the schema of what a call or a notification carries."""
        return record(self.params, closed=True) if self.body is None else self.body


def _map(**parts: Part | Schema) -> Schema:
    return record(parts)


def _bin(of: str, doc: str) -> Schema:
    return {"format": "bin", "x-items": of, "description": doc}


_ORDER: Final = Part(integer(0, SUPER_ORDER), "log2 of the pages in an extent: 0 or 9", default=0)
_VERSION: Final = Part(integer(0, 1 << 31), "the protocol's version that the client speaks")
_LAST_SEEN: Final = Part(optional(integer(0, MSGID_LIMIT - 1)), "msgid of the last answer it has", default=None)
_NUMBER: Final = Part(integer(0, MAX_EVENT_NUMBER), "number of this notification, rising")
_TARGETED: Final = Part(DOMAIN, "the domain's number or its name")
_SPEAKS: Final = Part(integer(VERSION, VERSION), "the protocol's version that the daemon speaks")
_HOST: Final = Part(text(), "the host's name")
_RESUMED: Final = Part(FLAG, "whether the session was known and goes on")
_READONLY: Final = Part(FLAG, "it may only be read", default=False)
_STOP: Final[Schema] = {
    "enum": [None, *(stop.value for stop in Stop)],
    "description": "nil: all is done; BUDGET: the turn is over, call again with the rest; else why the next extent is not",
}
_DONE: Final[Schema] = {**COUNT.schema, "description": "how many extents, pairs, references or words are done"}
_WHY_DROPPED: Final = Method(
    "Why the connection ends.",
    body=_map(reason={"type": "string"}, expected={"type": "string", "description": "what would have been taken"}),
)


def _done(*more: Schema) -> Schema:
    """Make the schema of an operation's answer: an array."""
    return {"type": "array", "prefixItems": [_DONE, _STOP, *more], "minItems": 2 + len(more), "maxItems": 2 + len(more)}


def _pages(doc: str) -> Part:
    return Part(PAGES, doc)


_HOST_SCHEMA: Final = record(
    {
        "name": _HOST,
        "uuid": Part(UUID_TEXT, "the host's UUID; one that is begun anew, without its saved state, is another host"),
        "version": Part(text(), "the daemon's own version"),
        "protocol": _SPEAKS,
        "frames": Part(COUNT, "4 KiB frames of the host"),
        "free_frames": Part(COUNT, "frames that nobody holds"),
        "superframes": Part(COUNT, "2 MiB frames of the host"),
        "free_superframes": Part(COUNT, "superframes that are free as a whole"),
        "shattered_superframes": Part(COUNT, "superframes that are held in single frames"),
        "free_in_whole_superframes": Part(SHARE, "share of the free frames; 1.0 when none is free"),
        "claimed_frames": Part(COUNT, "free frames that are promised to a domain"),
        "domains": Part(COUNT, "domains, with zombies"),
        "settings": Part(SETTINGS, "settings of the host"),
    }
)

TOOLSTACK_METHODS: Final[Mapping[str, Method]] = {
    "hello": Method(
        "Agree on the version, and, with a session's name, open or resume that session.",
        {
            "version": _VERSION,
            "session": Part(optional(text(MAX_SESSION_CHARS)), "a name of the client's making", default=None),
            "last_seen": _LAST_SEEN,
            "client": Part(
                optional(NAME), "what it is, such as `xbd mem-set`: told of the targets that it sets", default=None
            ),
        },
        _map(version=_SPEAKS, host=_HOST, resumed=_RESUMED),
    ),
    "list": Method(
        "Describe every domain.",
        answer=_map(domains=array_of(DOMAIN_REF)),
    ),
    "info": Method("Describe one domain.", {"domain": _TARGETED}, DOMAIN_REF),
    "host": Method("Describe the host.", answer=_HOST_SCHEMA),
    "create": Method(
        "Make a domain, populated up to its target, and its socket.",
        SPEC_PARTS,
        _map(domid=Part(DOMID, "its number")),
        is_changing=True,
    ),
    "destroy": Method(
        "End a domain at once and free its memory; what others map of it stays, as a zombie, until they unmap it.",
        {"domid": _TARGETED},
        _map(zombie_pages=Part(COUNT, "how many of its pages others still map")),
        is_changing=True,
    ),
    "shutdown": Method(
        "Ask its guest to stop; without an agent it is stopped.", {"domid": _TARGETED}, is_changing=True
    ),
    "set_target": Method(
        "Set a domain's target.",
        {"domid": _TARGETED, "pages": _pages("the target")},
        _map(pages=_pages("the target")),
        is_changing=True,
    ),
    "set_max": Method(
        "Set a domain's limit, from its minimum to its static maximum; may be below what it holds.",
        {"domid": _TARGETED, "pages": _pages("the limit")},
        _map(pages=_pages("the limit")),
        is_changing=True,
    ),
    "claim": Method(
        "Promise a domain that it can come to hold so much; no other domain gets what is outstanding of it.",
        {"domid": _TARGETED, "pages": Part(PAGES_OR_NONE, "more than it holds, at most max_pages; 0 clears it")},
        _map(claimed_pages=Part(PAGES_OR_NONE, "what is outstanding")),
        is_changing=True,
    ),
    "guest_mode": Method(
        "Change how its guest behaves, for tests of toolstacks.",
        {"domid": _TARGETED, "mode": Part(MODE, "normal, stuck, lies, slow RATE, floor SIZE or ceiling SIZE")},
        _map(mode=Part(MODE, "how it behaves now")),
        is_changing=True,
    ),
    "events": Method(
        "Answer the kept events and subscribe to those to come, which come as notifications `event`.",
        {"since": Part(integer(0, MAX_EVENT_NUMBER), "number of the first one wanted; 0: all", default=0)},
        _map(events=array_of(EVENT_REF), next={**COUNT.schema, "description": "number of the event to come"}),
    ),
    "frames": Method(
        "Say of each superframe what it is and whose.",
        answer=_map(
            superframes=Part(COUNT, "how many there are"),
            kind=_bin("uint8", "0 free, 1 a domain's leaf, 2 shattered"),
            owner=_bin("uint16, little-endian", "domid + 1 of who holds it or most of it, 0 nobody"),
            used=_bin("uint16, little-endian", "frames of it that are not free"),
        ),
    ),
    "audit": Method(
        "Recompute everything.",
        answer=_map(violations={**array_of({"type": "string"}), "description": "what does not hold"}),
    ),
}
# The answers to these are kept: executed twice, they would do something else, or be answered otherwise.
CHANGING_METHODS: Final = frozenset(name for name, method in TOOLSTACK_METHODS.items() if method.is_changing)

EVENTS: Final[Mapping[str, Method]] = {
    "created": Method(
        "A domain was made.",
        {
            "target_pages": _pages("its target"),
            "max_pages": _pages("its limit"),
            "autostart": Part(FLAG, "whether the agent host starts an agent for it"),
        },
    ),
    "destroyed": Method("It was ended.", {"zombie_pages": Part(COUNT, "pages of it that others still map")}),
    "vanished": Method("The last of its pages that others mapped was unmapped: the zombie is gone."),
    "shutdown": Method("It has stopped, as asked."),
    "target": Method("It has a target.", {"pages": _pages("the target")}),
    "max": Method("It has a limit.", {"pages": _pages("the limit")}),
    "claim": Method("It has a claim.", {"claimed_pages": Part(PAGES_OR_NONE, "what is outstanding of it")}),
    "mode": Method("Its guest behaves so.", {"mode": Part(MODE, "as in guest_mode")}),
    "agent_connected": Method("Its agent has connected.", {"resumed": _RESUMED}),
    "agent_lost": Method("Its agent has lost its connection, or is taken for gone."),
    "crashed": Method("Its agent has died.", {"on_crash": Part(choice(ON_CRASH), "what becomes of it")}),
    "settled": Method("It holds what its target says.", {"pages": _pages("what it holds")}),
}
# What every event has beside its own keys.
EVENT_PARTS: Final[Mapping[str, Part]] = {
    "number": Part(integer(1, MAX_EVENT_NUMBER), "rising by one"),
    "time": Part(SECONDS, "when, in seconds since the epoch"),
    "event": Part(choice(tuple(EVENTS)), "what has happened"),
    "domid": Part(DOMID, "the domain's number"),
    "name": Part(NAME, "the domain's name"),
    "uuid": Part(UUID_TEXT, "the domain's UUID"),
}
TOOLSTACK_NOTIFICATIONS: Final[Mapping[str, Method]] = {
    "event": Method("An event has happened.", body=EVENT_REF),
    "dropped": _WHY_DROPPED,
}

# The autoballoon daemon's, on `autoballoon.sock` beside `hypervisor.sock`.
_RESERVATION: Final[Schema] = {
    **_map(
        state=Part(choice(("none", "pending", "held", "failed")), "none: there is no reservation, and no other key"),
        name=Part(text(), "its name"),
        pages=_pages("how much"),
        cannot_free=Part(COUNTS, "where it failed: needed_pages, and possible_pages, the most there could be"),
        uncooperative={**array_of(DOMID.schema), "description": "where it failed: who does not give memory up"},
    ),
    "required": ["state"],
}
_VERDICTS: Final[Schema] = {
    "type": "object",
    "additionalProperties": {"enum": ["willing", "stuck", "uncooperative", "unable"]},
    "description": "by domid",
}
AUTOBALLOON_METHODS: Final[Mapping[str, Method]] = {
    "hello": Method("Agree on the version.", {"version": _VERSION}, _map(version=_SPEAKS, host=_HOST)),
    "reserve": Method(
        "Free memory and hold it free until this connection ends; one reservation for each connection.",
        {"pages": _pages("how much, in whole superpages")},
        _RESERVATION,
    ),
    "reservation": Method("Describe this connection's reservation.", answer=_RESERVATION),
    "status": Method(
        "Describe how the policy judges each domain, and all reservations.",
        answer=_map(
            domains=_VERDICTS,
            details=DETAILS,
            reservations=array_of(_RESERVATION),
            headroom_pages=Part(COUNT, "free memory that is never handed out"),
            balance=Part(choice(("fair", "demand")), "how memory is shared out"),
        ),
    ),
}

_BASES: Final = Part(FRAMES, "extent bases")
DOMAIN_METHODS: Final[Mapping[str, Method]] = {
    "hello": Method(
        "Open or resume this domain's session; the answer tells what a booting guest must know.",
        {
            "version": _VERSION,
            "session": Part(text(MAX_SESSION_CHARS), "the session's name, of the client's making"),
            "last_seen": _LAST_SEEN,
            "uuid": Part(optional(UUID_TEXT), "of the domain that is meant; any other one refuses", default=None),
            "report_every_s": Part(
                optional(integer(1, 3600)),
                "how often it reports at least: when it does not for three times as long, it does not answer; nil: it need not",
                default=None,
            ),
        },
        _map(
            resumed=_RESUMED,
            domid=Part(DOMID, "its number"),
            name=Part(NAME, "its name"),
            gfn_count=_pages("its guest frame numbers"),
            runs=_bin("int64 pairs, little-endian", "half-open runs of populated gfns, rising; empty when resumed"),
            target_pages=_pages("its target"),
            max_pages=_pages("its limit"),
            features={
                **_map(populate_depopulate=FLAG.schema, exchange=FLAG.schema, grants=FLAG.schema),
                "description": "which operations the host offers",
            },
            type=INFO_PARTS["type"],
            guest=INFO_PARTS["guest"],
            mode=INFO_PARTS["mode"],
            shutdown=Part(FLAG, "whether it is asked to stop"),
        ),
    ),
    "populate": Method("Back each extent with fresh, zeroed memory.", {"gfns": _BASES, "order": _ORDER}, _done()),
    "decrease": Method("Give the extents' memory back.", {"gfns": _BASES, "order": _ORDER}, _done()),
    "exchange": Method(
        "Unback *gives*, back *gets*: as many pages.",
        {"gives": _BASES, "gets": _BASES, "gives_order": _ORDER, "gets_order": _ORDER},
        _done(),
    ),
    "populate_depopulate": Method(
        "For each pair: back the one, unback the other, in one step.",
        {"populate": _BASES, "depopulate": Part(FRAMES, "extent bases, as many"), "order": _ORDER},
        _done(),
    ),
    "deflate": Method(
        "A virtio balloon's deflate queue: back each extent with fresh, zeroed memory.",
        {"gfns": Part(FRAMES, f"extent bases, at most {LIST_EXTENTS}"), "order": _ORDER},
        _done(),
    ),
    "inflate": Method(
        "A virtio balloon's inflate queue: give the extents' memory back.",
        {"gfns": Part(FRAMES, f"extent bases, at most {LIST_EXTENTS}"), "order": _ORDER},
        _done(),
    ),
    "grant": Method(
        "Let another domain map own pages; answers their references.",
        {
            "gfns": Part(FRAMES, "own populated pages"),
            "to": Part(DOMID, "the domain that may map them"),
            "readonly": _READONLY,
        },
        _done(FRAMES.schema),
    ),
    "end_grant": Method("Take grants back.", {"refs": Part(FRAMES, "their references")}, _done()),
    "map_grant": Method(
        "Map another domain's granted pages at own unpopulated gfns, pair by pair.",
        {
            "owner": Part(DOMID, "the domain that granted them"),
            "refs": Part(FRAMES, "their references"),
            "gfns": Part(FRAMES, "slots, as many"),
            "readonly": _READONLY,
        },
        _done(),
    ),
    "unmap_grant": Method("End mappings.", {"gfns": Part(FRAMES, "the slots")}, _done()),
    "send": Method(
        "Put a message into another domain's inbox, whole or not at all.",
        {
            "to": Part(DOMID, "the domain that is to have it"),
            "words": Part(WORDS, f"1 to {MAX_MESSAGE_WORDS} words"),
        },
        _done(),
    ),
    "receive": Method(
        "Take whole messages out of the own inbox, oldest first; before each a word: sender x 2^32 + length.",
        {"most": Part(integer(1, MAX_WORDS), "how many words at most", default=MAX_WORDS)},
        _done(WORDS.schema),
    ),
    "load": Method("Read content words.", {"gfns": Part(FRAMES, "pages")}, _done(WORDS.schema)),
    "store": Method(
        "Write content words.", {"gfns": Part(FRAMES, "pages"), "words": Part(WORDS, "as many words")}, _done()
    ),
}
# From the guest to the daemon, which drops a peer that sends others.
GUEST_NOTIFICATIONS: Final[Mapping[str, Method]] = {
    "report": Method("Its statistics, a flat map; the latest wins, a few a second at most.", body=STATISTICS.schema),
    "unchanged": Method("Its last report still holds."),
    "leaving": Method("The agent goes, and the guest has not crashed: another agent may boot it."),
    "stopped": Method("It has stopped, as asked: the domain's state is shutdown from now on."),
}
# From the daemon to the guest; the latest of a kind wins.
DOMAIN_NOTIFICATIONS: Final[Mapping[str, Method]] = {
    "target": Method("Its target is now so much.", {"number": _NUMBER, "pages": _pages("the target")}),
    "limit": Method("Its limit is now so much.", {"number": _NUMBER, "pages": _pages("the limit")}),
    "mode": Method("Its mode is now so.", {"number": _NUMBER, "mode": Part(MODE, "as in guest_mode")}),
    "messages": Method("There are messages in its inbox.", {"number": _NUMBER}),
    "memory": Method("A populate of it was refused with ENOMEM, and the host has memory again.", {"number": _NUMBER}),
    "shutdown": Method("It is asked to stop.", {"number": _NUMBER}),
    "dropped": _WHY_DROPPED,
}


def check_version(version: int) -> None:
    """Refuse a protocol version that is not spoken here. Raises NotSupported, naming the one that is."""
    if version != VERSION:
        raise NotSupported(f"protocol version {version} is not spoken here", f"version {VERSION}")
