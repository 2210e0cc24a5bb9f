"""The table of a host's events: what each is, and what it says beside what all of them say."""

from collections.abc import Mapping
from typing import Final

from xbd.abi import ON_CRASH, POWEROFF, SHUTDOWN_REASONS
from xbd.domain import COUNT, DOMID, MODE, NAME, PAGES_BY_NODE, PAGES_OR_NONE, UUID_TEXT
from xbd.protocol.codec import MAX_EVENT_NUMBER
from xbd.protocol.methods import RESUMED, Method, pages
from xbd.shapes import FLAG, SECONDS, Part, choice, integer, optional, text

EVENTS: Final[Mapping[str, Method]] = {
    "created": Method(
        "A domain was made.",
        {
            "target_pages": pages("its target"),
            "max_pages": pages("its limit"),
            "autostart": Part(FLAG, "whether the agent host starts an agent for it"),
        },
    ),
    "destroyed": Method("It was ended.", {"zombie_pages": Part(COUNT, "pages of it that others still map")}),
    "vanished": Method("The last of its pages that others mapped was unmapped: the zombie is gone."),
    "shutdown": Method(
        "It has stopped, as asked.",
        {"reason": Part(choice(SHUTDOWN_REASONS), "reboot: another guest boots in it soon", default=POWEROFF)},
    ),
    "started": Method("Another guest may boot in it, after it has stopped or crashed."),
    "renamed": Method("It is called otherwise.", {"before": Part(NAME, "what it was called before")}),
    "paused": Method("It was paused."),
    "unpaused": Method("It may run again."),
    "target": Method(
        "It has a target.",
        {"pages": pages("the target"), "reason": Part(optional(text()), "why, if who set it said so", default=None)},
    ),
    "max": Method("It has a limit.", {"pages": pages("the limit")}),
    "claim": Method(
        "It has a claim, or several, or has lost some.",
        {
            "claimed_pages": Part(PAGES_OR_NONE, "what is outstanding in all"),
            "node_claims": Part(PAGES_BY_NODE, "of these, on each node", default=()),
        },
    ),
    "mode": Method("Its guest behaves so.", {"mode": Part(MODE, "as in guest_mode")}),
    "agent_connected": Method("Its agent has connected.", {"resumed": RESUMED}),
    "agent_lost": Method("Its agent has lost its connection, or is taken for gone."),
    "crashed": Method("Its agent has died.", {"on_crash": Part(choice(ON_CRASH), "what becomes of it")}),
    "settled": Method("It holds what its target says.", {"pages": pages("what it holds")}),
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
