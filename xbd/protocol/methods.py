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
    MAX_NODES,
    POWEROFF,
    SHUTDOWN_REASONS,
)
from xbd.domain import (
    COUNT,
    DOMAIN,
    DOMID,
    INFO_PARTS,
    MODE,
    NAME,
    NODE,
    PAGES,
    PAGES_BY_NODE,
    PAGES_OR_NONE,
    SPEC_PARTS,
    UUID_TEXT,
)
from xbd.errors import BadArgument, NotSupported
from xbd.protocol.codec import MAX_EVENT_NUMBER, MSGID_LIMIT, VERSION
from xbd.shapes import (
    COUNTS,
    FLAG,
    SECONDS,
    SETTINGS,
    SHARE,
    Part,
    Schema,
    Shape,
    array_of,
    choice,
    integer,
    optional,
    record,
    text,
)
from xbd.text import quote

# A UUID has 36 characters; other clients' names may be longer.
MAX_SESSION_CHARS: Final = 64
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


def map_of(**parts: Part | Schema) -> Schema:
    """Make the schema of a map of just these keys."""
    return record(parts)


def packed(of: str, doc: str) -> Schema:
    """Make the schema of a list of numbers in one piece."""
    return {"format": "bin", "x-items": of, "description": doc}


_CLAIM: Final[Mapping[str, Part]] = {
    "pages": Part(PAGES_OR_NONE, "how much"),
    "node": Part(optional(NODE), "on which node; nil: of the whole host", default=None),
}


def _claims(name: str, untrusted: object) -> list[tuple[int, int | None]]:
    """Check a claim set: pairs of pages and a node, or None."""
    if type(untrusted) is not list or len(untrusted) > MAX_NODES + 1:
        raise BadArgument(f"{name} is {quote(untrusted)}", f"a list of at most {MAX_NODES + 1} claims")
    claims = []
    for entry in untrusted:
        if type(entry) is not dict or not {"pages"} <= entry.keys() <= _CLAIM.keys():
            raise BadArgument(f"{name} has {quote(entry)}", "a map of pages, and of node where it is on one")
        pages, node = (_CLAIM[part].check(f"{name}.{part}", entry.get(part)) for part in ("pages", "node"))
        claims.append((pages, node))
    return claims


CLAIMS: Final = Shape(
    _claims, {"type": "array", "items": record(_CLAIM, closed=True), "maxItems": MAX_NODES + 1}, (list,)
)


def _since(name: str, untrusted: object) -> int | str:
    shape = MARK if isinstance(untrusted, str) else EVENT_NUMBER
    checked: int | str = shape.check(name, untrusted)
    return checked


EVENT_NUMBER: Final = integer(0, MAX_EVENT_NUMBER)
# What an answer of `list` says to ask with next: made by the daemon, and read by it alone.
MARK: Final = text(64)
_SINCE: Final = Shape(_since, {"anyOf": [MARK.schema, EVENT_NUMBER.schema]}, (int, str))
VERSION_SPOKEN: Final = Part(integer(0, 1 << 31), "the protocol's version that the client speaks")
LAST_SEEN: Final = Part(optional(integer(0, MSGID_LIMIT - 1)), "msgid of the last answer it has", default=None)
_TARGETED: Final = Part(DOMAIN, "the domain's number or its name")
SPEAKS: Final = Part(integer(VERSION, VERSION), "the protocol's version that the daemon speaks")
HOST_NAME: Final = Part(text(), "the host's name")
RESUMED: Final = Part(FLAG, "whether the session was known and goes on")
_PAUSES: Final = INFO_PARTS["pauses"]
WHY_DROPPED: Final = Method(
    "Why the connection ends.",
    body=map_of(reason={"type": "string"}, expected={"type": "string", "description": "what would have been taken"}),
)


def pages(doc: str) -> Part:
    """Make a part that is a number of pages."""
    return Part(PAGES, doc)


_NODE_SCHEMA: Final = record(
    {
        "frames": Part(COUNT, "4 KiB frames of the node"),
        "free_frames": Part(COUNT, "frames of it that nobody holds"),
        "free_superframes": Part(COUNT, "superframes of it that are free as a whole"),
        "claimed_frames": Part(COUNT, "free frames of it that are promised to a domain on this node"),
        "offline_frames": Part(COUNT, "frames of it that are out of use"),
        "distances": {**array_of(COUNT.schema), "description": "to each node, 10 to itself"},
    }
)
_HOST_SCHEMA: Final = record(
    {
        "name": HOST_NAME,
        "uuid": Part(UUID_TEXT, "the host's UUID; one that is begun anew, without its saved state, is another host"),
        "version": Part(text(), "the daemon's own version"),
        "protocol": SPEAKS,
        "frames": Part(COUNT, "4 KiB frames of the host"),
        "free_frames": Part(COUNT, "frames that nobody holds"),
        "superframes": Part(COUNT, "2 MiB frames of the host"),
        "free_superframes": Part(COUNT, "superframes that are free as a whole"),
        "shattered_superframes": Part(COUNT, "superframes that are held in single frames"),
        "free_in_whole_superframes": Part(SHARE, "share of the free frames; 1.0 when none is free"),
        "claimed_frames": Part(COUNT, "free frames that are promised to a domain"),
        "offline_frames": Part(COUNT, "frames that are out of use"),
        "nodes": {**array_of(_NODE_SCHEMA), "description": "the nodes, by number"},
        "domains": Part(COUNT, "domains, with zombies"),
        "target_waits": Part(
            COUNTS,
            "by upper bound in seconds, how many waits for a target to be reached were as long, and longer than the bound before;"
            " since the daemon was started",
        ),
        "target_waits_s": Part(SECONDS, "how long they took together"),
        "guests_wait": Part(optional(text()), "why calls of guests are not answered at present; null: they are"),
        "settings": Part(SETTINGS, "settings of the host"),
    }
)

TOOLSTACK_METHODS: Final[Mapping[str, Method]] = {
    "hello": Method(
        "Agree on the version, and, with a session's name, open or resume that session.",
        {
            "version": VERSION_SPOKEN,
            "session": Part(optional(text(MAX_SESSION_CHARS)), "a name of the client's making", default=None),
            "last_seen": LAST_SEEN,
            "client": Part(
                optional(NAME), "what it is, such as `xbd mem-set`: told of the targets that it sets", default=None
            ),
        },
        map_of(version=SPEAKS, host=HOST_NAME, resumed=RESUMED),
    ),
    "list": Method(
        "Describe every domain, or those that have changed.",
        {
            "since": Part(
                optional(_SINCE),
                "`next` of an earlier answer, or the number of an event; 0: nothing is known yet; nil: only all domains are told",
                default=None,
            )
        },
        {
            **map_of(
                domains={**array_of(DOMAIN_REF), "description": "by number; with *since* those that have changed"},
                gone={**array_of(DOMID.schema), "description": "numbers that no domain has any more"},
                next=Part(MARK, "what to ask with next"),
                is_whole=Part(FLAG, "whether these are all domains: how it was then is not known"),
            ),
            "required": ["domains"],
        },
    ),
    "info": Method("Describe one domain.", {"domain": _TARGETED}, DOMAIN_REF),
    "host": Method("Describe the host.", answer=_HOST_SCHEMA),
    "create": Method(
        "Make a domain, populated up to its target, and its socket.",
        SPEC_PARTS,
        map_of(domid=Part(DOMID, "its number")),
        is_changing=True,
    ),
    "destroy": Method(
        "End a domain at once and free its memory; what others map of it stays, as a zombie, until they unmap it.",
        {"domid": _TARGETED},
        map_of(zombie_pages=Part(COUNT, "how many of its pages others still map")),
        is_changing=True,
    ),
    "shutdown": Method(
        "Ask its guest to stop; without an agent it is stopped.",
        {
            "domid": _TARGETED,
            "reason": Part(choice(SHUTDOWN_REASONS), "reboot: another one boots then", default=POWEROFF),
        },
        is_changing=True,
    ),
    "start": Method(
        "Have the agent host boot a domain whose guest has stopped or crashed, or that was made without autostart.",
        {"domid": _TARGETED},
        is_changing=True,
    ),
    "pause": Method(
        "Let a domain's guest do nothing until it was unpaused as often as it was paused, as in Xen.",
        {"domid": _TARGETED},
        map_of(pauses=_PAUSES),
        is_changing=True,
    ),
    "unpause": Method("Take a pause back.", {"domid": _TARGETED}, map_of(pauses=_PAUSES), is_changing=True),
    "rename": Method(
        "Call a guest otherwise.",
        {"domid": _TARGETED, "name": Part(NAME, "its new name, unique; not all digits")},
        is_changing=True,
    ),
    "set_target": Method(
        "Set a domain's target.",
        {
            "domid": _TARGETED,
            "pages": pages("the target"),
            "reason": Part(optional(text()), "why, in a few words, for those who follow events", default=None),
        },
        map_of(pages=pages("the target")),
        is_changing=True,
    ),
    "set_max": Method(
        "Set a domain's limit, from its minimum on; may be below what it holds, and beyond its static maximum.",
        {"domid": _TARGETED, "pages": pages("the limit")},
        map_of(pages=pages("the limit")),
        is_changing=True,
    ),
    "claim": Method(
        "Promise a domain that it can come to hold so much, the old form: host-wide, and refused while it claims anything.",
        {"domid": _TARGETED, "pages": Part(PAGES_OR_NONE, "more than it holds, at most max_pages; 0 clears it")},
        map_of(claimed_pages=Part(PAGES_OR_NONE, "what is outstanding")),
        is_changing=True,
    ),
    "claim_set": Method(
        "Promise a domain memory beside what it holds, on nodes and of the whole host, in place of all that it claimed.",
        {
            "domid": _TARGETED,
            "claims": Part(CLAIMS, "each of a page or more, no target twice; none: nothing is claimed any more"),
        },
        map_of(
            claimed_pages=Part(PAGES_OR_NONE, "what is outstanding in all"),
            node_claims=Part(PAGES_BY_NODE, "of these, on each node"),
        ),
        is_changing=True,
    ),
    "offline": Method(
        "Take free superframes of a node out of use; claims that do not fit any more are taken back, host-wide ones first.",
        {"node": Part(NODE, "the node"), "pages": Part(PAGES, "how much, in whole superpages")},
        map_of(recalled=Part(COUNTS, "by domid, as text, how many claimed pages a domain lost")),
        is_changing=True,
    ),
    "online": Method(
        "Take superframes of a node into use again.",
        {"node": Part(NODE, "the node"), "pages": Part(PAGES, "how much, in whole superpages")},
        is_changing=True,
    ),
    "guest_mode": Method(
        "Change how its guest behaves, for tests of toolstacks.",
        {"domid": _TARGETED, "mode": Part(MODE, "normal, stuck, lies, slow RATE, floor SIZE or ceiling SIZE")},
        map_of(mode=Part(MODE, "how it behaves now")),
        is_changing=True,
    ),
    "events": Method(
        "Answer the kept events and subscribe to those to come, which come as notifications `event`.",
        {"since": Part(EVENT_NUMBER, "number of the first one wanted; 0: all", default=0)},
        map_of(events=array_of(EVENT_REF), next={**COUNT.schema, "description": "number of the event to come"}),
    ),
    "frames": Method(
        "Say of each superframe what it is and whose.",
        answer=map_of(
            superframes=Part(COUNT, "how many there are"),
            kind=packed("uint8", "0 free, 1 a domain's leaf, 2 shattered, 3 offline"),
            owner=packed("uint16, little-endian", "domid + 1 of who holds it or most of it, 0 nobody"),
            used=packed("uint16, little-endian", "frames of it that are not free"),
        ),
    ),
    "superframe": Method(
        "Say whose each frame of one superframe is.",
        {"index": Part(COUNT, "which one, from 0 on")},
        map_of(owner=packed("uint16, little-endian", "of each of its 512 frames domid + 1 of who holds it, 0 nobody")),
    ),
    "blocks": Method(
        "Say of each 2 MiB block of a domain's gfns what it is.",
        {"domain": _TARGETED},
        map_of(
            blocks=Part(COUNT, "how many there are"),
            kind=packed("uint8", "0 nothing is populated, 1 a leaf, 2 populated in pieces"),
            populated=packed("uint16, little-endian", "gfns of it that are populated"),
            slots=packed("uint16, little-endian", "gfns of it that map frames of other domains"),
        ),
    ),
    "console": Method(
        "Tell the last lines of the daemon's log.",
        answer=map_of(
            text={"type": "string", "description": "the lines, oldest first"},
            first=Part(COUNT, "how many characters lay before them, and are kept no more"),
        ),
    ),
    "audit": Method(
        "Recompute everything.",
        answer=map_of(violations={**array_of({"type": "string"}), "description": "what does not hold"}),
    ),
}
# The answers to these are kept: executed twice, they would do something else, or be answered otherwise.
CHANGING_METHODS: Final = frozenset(name for name, method in TOOLSTACK_METHODS.items() if method.is_changing)

TOOLSTACK_NOTIFICATIONS: Final[Mapping[str, Method]] = {
    "event": Method("An event has happened.", body=EVENT_REF),
    "dropped": WHY_DROPPED,
}


def check_version(version: int) -> None:
    """Refuse a protocol version that is not spoken here. Raises NotSupported, naming the one that is."""
    if version != VERSION:
        raise NotSupported(f"protocol version {version} is not spoken here", f"version {VERSION}")
