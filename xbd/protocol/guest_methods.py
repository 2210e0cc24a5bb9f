"""The part of the protocol's table that is spoken on a domain's socket; see `xbd.protocol.methods`."""

from collections.abc import Mapping
from typing import Final

from xbd.abi import LIST_EXTENTS, MAX_MESSAGE_WORDS, MAX_WORDS, MULTICALL_CALLS, MULTICALL_EXTENTS, Stop
from xbd.domain import COUNT, DOMID, INFO_PARTS, MODE, NAME, NODE, UUID_TEXT
from xbd.errors import BadArgument
from xbd.protocol.codec import MAX_EVENT_NUMBER
from xbd.protocol.fields import ERROR, FRAMES, WORDS
from xbd.protocol.methods import (
    LAST_SEEN,
    MAX_SESSION_CHARS,
    RESUMED,
    VERSION_SPOKEN,
    WHY_DROPPED,
    Method,
    map_of,
    packed,
    pages,
)
from xbd.shapes import FLAG, STATISTICS, Part, Schema, Shape, integer, optional, text
from xbd.text import quote
from xbd.units import SUPER_ORDER

_ORDER: Final = Part(integer(0, SUPER_ORDER), "log2 of the pages in an extent: 0 or 9", default=0)
_NUMBER: Final = Part(integer(0, MAX_EVENT_NUMBER), "number of this notification, rising")
_READONLY: Final = Part(FLAG, "it may only be read", default=False)
_STOP: Final[Schema] = {
    "enum": [None, *(stop.value for stop in Stop)],
    "description": "nil: all is done; BUDGET: the turn is over, call again with the rest; else why the next extent is not",
}
_DONE: Final[Schema] = {**COUNT.schema, "description": "how many extents, pairs, references or words are done"}


def _tuple(**named: Schema) -> Schema:
    """Make the schema of an array of just these, in this order."""
    items = [{"title": name, **schema} for name, schema in named.items()]
    return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}


def _done(**more: Schema) -> Schema:
    """Make the schema of an operation's answer: an array."""
    return _tuple(done=_DONE, stop=_STOP, **more)


def _calls(name: str, untrusted: object) -> list[tuple[str, object]]:
    """Check for a list of calls, each a pair of method and parameters; the parameters stay untrusted."""
    if type(untrusted) is not list or not 0 < len(untrusted) <= MULTICALL_CALLS:
        raise BadArgument(f"{name} is {quote(untrusted)}", f"a list of 1 to {MULTICALL_CALLS} calls")
    for index, call in enumerate(untrusted):
        if type(call) is not list or len(call) != 2 or type(call[0]) is not str:
            raise BadArgument(f"{name}[{index}] is {quote(call)}", "[method, params]")
    return [(method, params) for method, params in untrusted]


_CALLS: Final = Shape(
    _calls,
    {
        "type": "array",
        "items": _tuple(method={"type": "string"}, params={}),
        "minItems": 1,
        "maxItems": MULTICALL_CALLS,
    },
    (list,),
)
_ANSWERS: Final[Schema] = {
    "type": "array",
    "items": _tuple(error={"anyOf": [{"type": "null"}, ERROR]}, result={}),
    "description": "for each call; one of the two is nil",
}
MULTICALL: Final = "multicall"
_BASES: Final = Part(FRAMES, "extent bases")
_NODE: Final = Part(
    optional(NODE), "the node that the new memory is to be of; nil: as the operation has it without", default=None
)
_EXACT: Final = Part(
    FLAG, "whether it is to be of that node alone, or else stops; others serve it otherwise", default=False
)
_ON_NODE: Final[Mapping[str, Part]] = {"node": _NODE, "exact": _EXACT}
DOMAIN_METHODS: Final[Mapping[str, Method]] = {
    "hello": Method(
        "Open or resume this domain's session; the answer tells what a booting guest must know.",
        {
            "version": VERSION_SPOKEN,
            "session": Part(text(MAX_SESSION_CHARS), "the session's name, of the client's making"),
            "last_seen": LAST_SEEN,
            "uuid": Part(optional(UUID_TEXT), "of the domain that is meant; any other one refuses", default=None),
            "report_every_s": Part(
                optional(integer(1, 3600)),
                "how often it reports at least: when it does not for three times as long, it does not answer; nil: it need not",
                default=None,
            ),
        },
        map_of(
            resumed=RESUMED,
            domid=Part(DOMID, "its number"),
            name=Part(NAME, "its name"),
            gfn_count=pages("its guest frame numbers"),
            runs=packed("int64 pairs, little-endian", "half-open runs of populated gfns, rising; empty when resumed"),
            target_pages=pages("its target"),
            max_pages=pages("its limit"),
            features={
                **map_of(populate_depopulate=FLAG.schema, exchange=FLAG.schema, grants=FLAG.schema),
                "description": "which operations the host offers",
            },
            type=INFO_PARTS["type"],
            guest=INFO_PARTS["guest"],
            mode=INFO_PARTS["mode"],
            shutdown=Part(FLAG, "whether it is asked to stop"),
            paused=Part(
                FLAG, "whether it is paused: it does nothing, and its calls are answered afterwards", default=False
            ),
            multicall=Part(integer(1, MULTICALL_CALLS), "how many operations a multicall may carry", default=1),
        ),
    ),
    "populate": Method(
        "Back each extent with fresh, zeroed memory.", {"gfns": _BASES, "order": _ORDER, **_ON_NODE}, _done()
    ),
    "decrease": Method("Give the extents' memory back.", {"gfns": _BASES, "order": _ORDER}, _done()),
    "exchange": Method(
        "Unback *gives*, back *gets*: as many pages; without a node each stays on its own.",
        {"gives": _BASES, "gets": _BASES, "gives_order": _ORDER, "gets_order": _ORDER, **_ON_NODE},
        _done(),
    ),
    "populate_depopulate": Method(
        "For each pair: back the one, unback the other, in one step, on the node of the latter.",
        {"populate": _BASES, "depopulate": Part(FRAMES, "extent bases, as many"), "order": _ORDER},
        _done(),
    ),
    "deflate": Method(
        "A virtio balloon's deflate queue: back each extent with fresh, zeroed memory.",
        {"gfns": Part(FRAMES, f"extent bases, at most {LIST_EXTENTS}"), "order": _ORDER, **_ON_NODE},
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
        _done(references=FRAMES.schema),
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
        _done(words=WORDS.schema),
    ),
    "load": Method("Read content words.", {"gfns": Part(FRAMES, "pages")}, _done(words=WORDS.schema)),
    "store": Method(
        "Write content words.", {"gfns": Part(FRAMES, "pages"), "words": Part(WORDS, "as many words")}, _done()
    ),
    MULTICALL: Method(
        f"Do several of these in order, in one turn of {MULTICALL_EXTENTS:,} extents in all; what has no place in it is answered BUDGET.",
        {"calls": Part(_CALLS, "each as if it were called alone; one that is refused does not stop the next")},
        _ANSWERS,
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
    "target": Method("Its target is now so much.", {"number": _NUMBER, "pages": pages("the target")}),
    "limit": Method("Its limit is now so much.", {"number": _NUMBER, "pages": pages("the limit")}),
    "mode": Method("Its mode is now so.", {"number": _NUMBER, "mode": Part(MODE, "as in guest_mode")}),
    "paused": Method(
        "It is paused, or may go on.",
        {"number": _NUMBER, "paused": Part(FLAG, "whether it is to do nothing; its calls are answered afterwards")},
    ),
    "messages": Method("There are messages in its inbox.", {"number": _NUMBER}),
    "memory": Method("A populate of it was refused with ENOMEM, and the host has memory again.", {"number": _NUMBER}),
    "shutdown": Method("It is asked to stop.", {"number": _NUMBER}),
    "dropped": WHY_DROPPED,
}
