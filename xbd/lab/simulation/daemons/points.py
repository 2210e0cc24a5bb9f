"""States that a simulation of the daemons must reach over its seeds; a run says which it never reached.

A point is noted where it happens: in the simulation, by `Trace.sometimes`, or by a daemon that logs it; production
code has nothing for it.
"""

from typing import Final

# By a daemon's log line: the point that it shows.
LOGGED: Final = {
    "accept_failed": "accepting failed and went on",
    "descriptors_exhausted": "accepting had no descriptor and went on",
    "peer_dropped": "a peer was dropped",
    "peer_refused": "a peer was refused",
    "connection_lost": "an agent lost its connection",
    "hypervisor_lost": "a daemon lost the hypervisor",
    "state_recovered": "a state was recovered",
    "state_dir_full": "the disk was full",
    "state_dir_has_room": "the disk had room again",
    "section_not_removed": "a section could not be removed",
    "xenstore_not_saved": "the store could not be saved",
    "xenstore_saved_again": "the store was saved again",
    "xenstore_domain_unreachable": "the store had no socket for a domain",
    "log_lines_lost": "the log said that lines were lost",
    "nothing_to_reload": "a daemon was told to reload, and had nothing to reload",
    "socket_not_removed": "a socket's file could not be removed",
    "checksums_not_written": "a daemon ended in order, and could not write checksums",
    "policy_failed": "a policy failed, and static went on",
    "reloaded": "a daemon read its file again",
    "agent_ended": "an agent gave its domain up",
    "stop_asked": "a daemon was told to stop",
}
SEEN: Final = frozenset(
    {
        "a create was refused",
        "a destroy was refused",
        "a name was used again at once",
        "a call had no answer",
        "a session was lost for good",
        "the hypervisor was dropped at a note",
        "the hypervisor was dropped at a call",
        "the hypervisor was dropped while it started",
        "a step was undone",
        "a start was refused with a sentence",
        "a start of xenstored was refused with a sentence",
        "a damaged state of the hypervisor was refused",
        "a damaged state of the xenstored was refused",
        "a second hypervisor was refused",
        "a second xenstored was refused",
        "a second autoballoon was refused",
        "a target beyond the limit was refused",
        "an agent resumed its session",
        "a guest booted",
        "a guest stopped as it was asked",
        "a guest reached its target",
        "the policy moved a target",
        "a reservation was held",
        "a reservation was lost while it was held",
        "a reservation could not be held",
        "one of a crowd was turned away",
        "the agents came back",
        "another host was served under a living store",
        "a connection to the store ended with its domain",
        "agents that were stopped were shown as silent",
        "a target in the store was set beyond the limit of before",
        "a client that never reads was dropped",
        "the scraper got a page without a hypervisor",
        "the scraper got a page of the host",
        "the store's client found its keys after a restart",
        "a log line was written in part",
        *(f"the {name} ended in order" for name in ("hypervisor", "autoballoon", "xenstored", "metrics")),
        *(f"the {name} ended in order" for name in ("guests", "guests-2", "guests-3")),
        "one of several agent processes was dropped",
        "the hypervisor was started on a state that ended in order",
    }
)
POINTS: Final = frozenset(LOGGED.values()) | SEEN
