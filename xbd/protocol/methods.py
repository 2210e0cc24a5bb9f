"""The wire, described for other implementers. Version 1.

The version changes when what was said before means something else; methods, keys of answers and
notifications that are new do not change it, so clients ignore what they do not know.

**Transport.** Unix stream sockets in the host's run-time directory: `hypervisor.sock` for the
toolstack, `domains/<domid>.sock` for the guest of each domain. The domain's socket *is* its
identity. The peer must run as the daemon's user or as root (SO_PEERCRED); `hypervisor.sock` may be
opened to a group.

**Messages** are MessagePack-RPC, one after the other, with nothing between:

    request       [0, msgid, method, params]     msgid: uint32
    response      [1, msgid, error, result]      one of error and result is nil
    notification  [2, method, params]            no answer

*params* is an array that holds one map, name to value (`[{"domid": 3}]`); the bare map is accepted
too, and `[]` where no parameter is needed. Results are maps, except those of memory operations.
Unknown parameters are refused, unknown notifications are ignored by clients. Extension types are
not used.

**Errors** are maps `{errno, message, expected}`: a Xen errno name, a sentence that names what was
wrong, and what would have been accepted. An error means that nothing was tried. What is not even a
message (garbage, too long, nested too deeply, a message id out of turn, a call before `hello`) ends
the connection, after one notification `dropped {reason, expected}`.

**hello first.** On either socket the first call is `hello {version, ...}`. A version that the
daemon does not speak is refused with EOPNOTSUPP, naming the one that it speaks.

**Lists of gfns** (and of content words) are bin: little-endian uint64, eight bytes each, no header.
A gfn is below 2**63. `runs` are pairs of little-endian int64: half-open runs of populated gfns,
ascending.

**Memory operations** answer `[done, stop]`: how many extents (pairs, input extents) are done, and
why it stopped: nil (all done), "BUDGET" (the turn is over: call again with the rest) or the errno
name for extent number *done* (E2BIG, ENOMEM, EEXIST, ENOENT, EBUSY; load and store: EFAULT, EACCES;
grants: ENOSPC, EACCES, EBADF; messages: EAGAIN). `load` answers `[done, stop, words]`. Orders are 0 (4 KiB) and 9 (2 MiB). One call does one turn at
most: 512 order-0 extents; calls of one domain run in the order sent.

**Types of domains.** What hello answers as `type` says what a domain may call: `pvh` and `pv` all but
`deflate` and `inflate`, `virtio` those two, `load` and `store`. What else a host does not offer is in
`features`; a call of it is EOPNOTSUPP.

**Grants.** `grant` makes references, which the other domain is told by a message; with `map_grant` it
maps the pages at gfns of its own that nothing backs, its slots, where load and store reach them, until
`unmap_grant`. A page that others map can be neither given up nor exchanged (EBUSY). When its owner
reboots, a mapping reaches nothing any more (EFAULT), but stays until it is unmapped; when its owner is
destroyed, what is mapped remains, as a zombie, until the last unmap.

**Messages** are copied into the receiver's inbox by the daemon, which says truly who sent them. An
inbox, or a sender's share of it, that is full is EAGAIN. A message of no words from a domain means that
this domain is gone, or has rebooted. The notification `messages` is only a hint to call `receive`.

**Memory that becomes free.** A guest whose populate stopped with ENOMEM, and that holds less than its target and its
limit allow, is told by the notification `memory` when the host has some again: as much as it lacks, or a superframe. It is
no promise: other guests may be quicker. It comes once for each refusal, to those first who have waited longest, and to no more
at a time than there is memory for; a guest that has not called `populate` within a second loses its turn to the next. Who was
refused with E2BIG hears of it by `limit`.

**Sessions** (domain sockets). `hello {version, session, last_seen}` opens a session under a name
that the client makes up (a UUID, say), with `last_seen` nil. The calls that follow it number on
from the msgid of that hello, rising by one, modulo 2**32. The daemon keeps the last 8 answers.
After a lost connection the client connects anew and says hello with the same session and, as
`last_seen`, the msgid of the last answer that it has (nil if it has not even hello's); this hello's
own msgid is free and counts for nothing. If the answer says `resumed: true`, the client sends again
what was not answered, with the same msgids: what was done is answered from the 8 kept answers, the
rest is done now; nothing is done twice. If it says `resumed: false`, the daemon did not know the
session: this is a reboot, whatever the client believed its memory to be is gone. At most 8 calls may
be unanswered; one who sends more may find after a loss that the answers are not kept any more: EINVAL,
and only a new session helps. The same hello again, with no call in between, opens the session anew: its
answer was not heard. While a session's connection lives, any other hello on that domain is
EBUSY. A *new* session is a reboot: memory reads zero, and the answer tells the map, the target and
the limit; what is unpopulated is the guest's balloon.

A daemon whose state is saved keeps sessions and answers through its own restarts.

A toolstack client may open a session, too, and then numbers its calls in the same way; 64 answers are kept, of
calls that change something (a call that only reads is executed again). Without a session nothing is kept.

**Events** (toolstack). `events {since}` answers the kept events from number *since* on, and makes
this connection a subscriber: each later event comes as a notification `event`. A subscriber that
does not read is dropped. Each event is a map `{number, event, domid, name, ...}`.

**Limits** are constants: `MAX_HELLO_BYTES` (until hello was accepted), `MAX_CALL_BYTES`, `MAX_ANSWER_BYTES`, `MAX_NESTING`,
`MAX_CALL_ITEMS` in `codec`, `MAX_TEXT_CHARS`, `MAX_MAP_ENTRIES`, `MAX_REPORT_BYTES` in `fields`, `WINDOW_ANSWERS` in `session`, and
`MAX_EXTENTS`, `MAX_WORDS`, `MAX_IN_FLIGHT`, `TURN_EXTENTS`, `LIST_EXTENTS`, `MAX_GRANTS`, `MAX_MAPPINGS`,
`MAX_MESSAGE_WORDS`, `SENDER_WORDS`, `INBOX_WORDS`, `MAX_DOMAINS`, `MAX_DOMAIN_PAGES`, `MAX_NAME_CHARS` in `xbd.abi`.

Timeouts and rates: hello within 10 s, at most 8 of them refused on a connection, answers read within 60 s by an agent and
10 s by a toolstack; an agent may connect 16 times at once, then once in two seconds.

The methods, their parameters and answers are the tables below; the daemon checks calls against them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from xbd.abi import (
    LIST_EXTENTS,
    MAX_DOMAIN_PAGES,
    MAX_DOMAINS,
    MAX_MESSAGE_WORDS,
    MAX_NAME_CHARS,
    MAX_WORDS,
    ON_CRASH,
    DomainType,
)
from xbd.errors import NotSupported
from xbd.protocol import fields
from xbd.protocol.codec import MSGID_LIMIT
from xbd.protocol.fields import Param
from xbd.units import SUPER_ORDER

VERSION: Final = 1
# A UUID has 36 characters; other clients' names may be longer.
MAX_SESSION_CHARS: Final = 64
# Events are numbered from 1; 2**53 is the last whole number that every JSON reader keeps.
MAX_EVENT_NUMBER: Final = 1 << 53


@dataclass(frozen=True, slots=True)
class Method:
    """One method or notification: what it does, its parameters, and what it answers."""

    doc: str
    params: Mapping[str, Param] = field(default_factory=dict)
    answer: str = "{}"


_ORDER: Final = Param(fields.integer(0, SUPER_ORDER), "log2 of the pages in an extent: 0 or 9", default=0)
_PAGES: Final = fields.integer(1, MAX_DOMAIN_PAGES)
_DOMAIN: Final = Param(fields.domain, "its number or its name")
_VERSION: Final = Param(fields.integer(0, 1 << 31), "the protocol's version that the client speaks")
_DOMID: Final = fields.integer(0, MAX_DOMAINS - 1)
_LAST_SEEN: Final = Param(
    fields.optional(fields.integer(0, MSGID_LIMIT - 1)), "msgid of the last answer it has", default=None
)
_NUMBER: Final = Param(fields.integer(0, MAX_EVENT_NUMBER), "number of this notification, rising")

_DOMAIN_MAP: Final = (
    "{domid, name, type, state, tot_pages, target_pages, min_pages, max_pages, gfn_count, leaves, superpage_coverage,"
    " grants, mapped_grants, referenced_pages, claimed_pages, agent, autostart, mode, on_crash, guest, hypercalls, extents, report}; state:"
    " running | waiting (no agent) | lost (its agent is gone, and may come back) | crashed (preserved) | shutdown | zombie (destroyed, but others map pages of it); report: what the agent"
    " last reported (not to be trusted) or nil"
)

TOOLSTACK_METHODS: Final[Mapping[str, Method]] = {
    "hello": Method(
        "Agree on the version, and, with a session's name, open or resume that session.",
        {
            "version": _VERSION,
            "session": Param(
                fields.optional(fields.text(MAX_SESSION_CHARS)), "a name of the client's making", default=None
            ),
            "last_seen": _LAST_SEEN,
        },
        "{version, host, resumed}",
    ),
    "list": Method("Describe every domain.", answer=f"{{domains: [domain]}}, a domain being {_DOMAIN_MAP}"),
    "info": Method("Describe one domain.", {"domain": _DOMAIN}, _DOMAIN_MAP),
    "host": Method(
        "Describe the host.",
        answer="{name, version, frames, free_frames, superframes, free_superframes, free_in_whole_superframes, claimed_frames,"
        " domains, settings, ...}",
    ),
    "create": Method(
        "Make a domain, populated up to its target, and its socket.",
        {
            "name": Param(fields.text(MAX_NAME_CHARS), "unique; not all digits"),
            "max_pages": Param(_PAGES, "its maximum, and its limit at first, in whole superpages (multiples of 512)"),
            "target_pages": Param(_PAGES, "its target: what it holds at first, in whole superpages, at most max_pages"),
            "min_pages": Param(
                fields.integer(0, MAX_DOMAIN_PAGES),
                "its minimum: no target is set below it, in whole superpages",
                default=0,
            ),
            "type": Param(fields.choice(tuple(DomainType)), "pvh | pv | virtio", default=DomainType.PVH.value),
            "autostart": Param(fields.flag, "whether the agent host starts an agent for it", default=True),
            "guest": Param(fields.settings, "settings of its guest, kept and handed to its agent", default={}),
            "on_crash": Param(
                fields.choice(ON_CRASH),
                "what becomes of it when its agent dies: another may boot it | it is destroyed | it stays as it was",
                default="restart",
            ),
        },
        "{domid}",
    ),
    "destroy": Method(
        "End a domain at once and free its memory; what others map of it stays, as a zombie, until they unmap it.",
        {"domid": _DOMAIN},
        "{zombie_pages}",
    ),
    "shutdown": Method("Ask its guest to stop; without an agent it is stopped.", {"domid": _DOMAIN}),
    "set_target": Method("Set a domain's target.", {"domid": _DOMAIN, "pages": Param(_PAGES, "the target")}, "{pages}"),
    "set_max": Method(
        "Set a domain's limit; may be below what it holds.",
        {"domid": _DOMAIN, "pages": Param(_PAGES, "the limit")},
        "{pages}",
    ),
    "claim": Method(
        "Promise a domain that it can come to hold so much; no other domain gets what is outstanding of it.",
        {
            "domid": _DOMAIN,
            "pages": Param(fields.integer(0, MAX_DOMAIN_PAGES), "more than it holds, at most max_pages; 0 clears it"),
        },
        "{claimed_pages}: what is outstanding",
    ),
    "guest_mode": Method(
        "Change how its guest behaves, for tests of toolstacks.",
        {
            "domid": _DOMAIN,
            "mode": Param(fields.text(64), "normal | stuck | lies | slow RATE | floor SIZE | ceiling SIZE"),
        },
        "{mode}",
    ),
    "events": Method(
        "Answer the kept events and subscribe to those to come.",
        {"since": Param(fields.integer(0, MAX_EVENT_NUMBER), "number of the first one wanted; 0: all", default=0)},
        "{events: [event], next}; next: number of the event to come",
    ),
    "frames": Method(
        "Say of each superframe what it is and whose.",
        answer="{superframes, kind, owner, used}, bin each: kind uint8 (0 free, 1 a domain's leaf, 2 shattered), owner uint16"
        " (domid + 1 of who holds it or most of it, 0 nobody), used uint16 (frames that are not free)",
    ),
    "audit": Method("Recompute everything.", answer="{violations: [text]}"),
}
# The answers to these are kept: executed twice, they would do something else, or be answered otherwise.
CHANGING_METHODS: Final = frozenset({"create", "destroy", "shutdown", "set_target", "set_max", "claim", "guest_mode"})
TOOLSTACK_NOTIFICATIONS: Final[Mapping[str, Method]] = {
    "event": Method(
        "An event: created, destroyed, vanished (a zombie), shutdown, target, max, claim, mode,"
        " agent_connected, agent_lost, crashed, settled."
    ),
    "dropped": Method("Why the connection ends: {reason, expected}."),
}

# The autoballoon daemon's, on `autoballoon.sock` beside `hypervisor.sock`.
_RESERVATION: Final = (
    "{name, pages, state: pending | held | failed, cannot_free: {needed_pages, possible_pages} or uncooperative: [domid]"
    " where it failed}; {state: none} where there is none"
)
AUTOBALLOON_METHODS: Final[Mapping[str, Method]] = {
    "hello": Method("Agree on the version.", {"version": _VERSION}, "{version, host}"),
    "reserve": Method(
        "Free memory and hold it free until this connection ends; one reservation for each connection.",
        {"pages": Param(_PAGES, "how much, in whole superpages")},
        _RESERVATION,
    ),
    "reservation": Method("Describe this connection's reservation.", answer=_RESERVATION),
    "status": Method(
        "Describe how the policy judges each domain, and all reservations.",
        answer="{domains: {domid: willing | stuck | uncooperative | unable}, reservations: [reservation],"
        " headroom_pages, balance}",
    ),
}

DOMAIN_METHODS: Final[Mapping[str, Method]] = {
    "hello": Method(
        "Open or resume this domain's session.",
        {
            "version": _VERSION,
            "session": Param(fields.text(MAX_SESSION_CHARS), "the session's name, of the client's making"),
            "last_seen": _LAST_SEEN,
        },
        "{resumed, domid, name, gfn_count, runs, target_pages, max_pages, features: {populate_depopulate, exchange,"
        " grants}, type, guest, mode, shutdown}; runs is empty when resumed",
    ),
    "populate": Method(
        "Back each extent with fresh, zeroed memory.",
        {"gfns": Param(fields.frames, "extent bases"), "order": _ORDER},
        "[done, stop]",
    ),
    "decrease": Method(
        "Give the extents' memory back.",
        {"gfns": Param(fields.frames, "extent bases"), "order": _ORDER},
        "[done, stop]",
    ),
    "exchange": Method(
        "Unback *gives*, back *gets*: as many pages.",
        {
            "gives": Param(fields.frames, "extent bases"),
            "gets": Param(fields.frames, "extent bases"),
            "gives_order": _ORDER,
            "gets_order": _ORDER,
        },
        "[done, stop]",
    ),
    "populate_depopulate": Method(
        "For each pair: back the one, unback the other, in one step.",
        {
            "populate": Param(fields.frames, "extent bases"),
            "depopulate": Param(fields.frames, "extent bases, as many"),
            "order": _ORDER,
        },
        "[done, stop]",
    ),
    "deflate": Method(
        "A virtio balloon's deflate queue: back each extent with fresh, zeroed memory.",
        {"gfns": Param(fields.frames, f"extent bases, at most {LIST_EXTENTS}"), "order": _ORDER},
        "[done, stop]",
    ),
    "inflate": Method(
        "A virtio balloon's inflate queue: give the extents' memory back.",
        {"gfns": Param(fields.frames, f"extent bases, at most {LIST_EXTENTS}"), "order": _ORDER},
        "[done, stop]",
    ),
    "grant": Method(
        "Let another domain map own pages.",
        {
            "gfns": Param(fields.frames, "own populated pages"),
            "to": Param(_DOMID, "the domain that may map them"),
            "readonly": Param(fields.flag, "it may only read them", default=False),
        },
        "[done, stop, refs]",
    ),
    "end_grant": Method("Take grants back.", {"refs": Param(fields.frames, "their references")}, "[done, stop]"),
    "map_grant": Method(
        "Map another domain's granted pages at own unpopulated gfns, pair by pair.",
        {
            "owner": Param(_DOMID, "the domain that granted them"),
            "refs": Param(fields.frames, "their references"),
            "gfns": Param(fields.frames, "slots, as many"),
            "readonly": Param(fields.flag, "map them to be read only", default=False),
        },
        "[done, stop]",
    ),
    "unmap_grant": Method("End mappings.", {"gfns": Param(fields.frames, "the slots")}, "[done, stop]"),
    "send": Method(
        "Put a message into another domain's inbox, whole or not at all.",
        {
            "to": Param(_DOMID, "the domain that is to have it"),
            "words": Param(fields.words, f"1 to {MAX_MESSAGE_WORDS} words"),
        },
        "[done, stop], done in words",
    ),
    "receive": Method(
        "Take whole messages out of the own inbox, oldest first.",
        {"most": Param(fields.integer(1, MAX_WORDS), "how many words at most", default=MAX_WORDS)},
        "[done, stop, words], done in words; before each message a word: its sender << 32 | its length",
    ),
    "load": Method("Read content words.", {"gfns": Param(fields.frames, "pages")}, "[done, stop, words]"),
    "store": Method(
        "Write content words.",
        {"gfns": Param(fields.frames, "pages"), "words": Param(fields.words, "as many words")},
        "[done, stop]",
    ),
}
# From the guest to the daemon, which drops a peer that sends others.
GUEST_NOTIFICATIONS: Final[Mapping[str, Method]] = {
    "report": Method("Its statistics, a flat map; the latest wins, a few a second at most."),
    "leaving": Method("The agent goes, and the guest has not crashed: another agent may boot it."),
    "stopped": Method("It has stopped, as asked: the domain's state is shutdown from now on."),
}
# From the daemon to the guest; the latest of a kind wins.
DOMAIN_NOTIFICATIONS: Final[Mapping[str, Method]] = {
    "target": Method("Its target is now so much.", {"number": _NUMBER, "pages": Param(_PAGES, "the target")}),
    "limit": Method("Its limit is now so much.", {"number": _NUMBER, "pages": Param(_PAGES, "the limit")}),
    "mode": Method("Its mode is now so.", {"number": _NUMBER, "mode": Param(fields.text(64), "as in guest_mode")}),
    "messages": Method("There are messages in its inbox.", {"number": _NUMBER}),
    "memory": Method("A populate of it was refused with ENOMEM, and the host has memory again.", {"number": _NUMBER}),
    "shutdown": Method("It is asked to stop.", {"number": _NUMBER}),
    "dropped": Method("Why the connection ends: {reason, expected}."),
}


def check_version(version: int) -> None:
    """Refuse a protocol version that is not spoken here. Raises NotSupported, naming the one that is."""
    if version != VERSION:
        raise NotSupported(f"protocol version {version} is not spoken here", f"version {VERSION}")
