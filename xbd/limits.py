"""How much of each thing a host has room for: one value that is passed to what uses it.

What both sides of the wire know of is named in `abi`; the reasons of the rest are here.
"""

from dataclasses import dataclass
from typing import Final

from xbd.abi import INBOX_WORDS, MAX_GRANTS, MAX_MAPPINGS

# Toolstack clients: as many as may be connected, and as many again that may come back.
MAX_CLIENTS: Final = 512
# Each may hold a reservation of the autoballoon daemon; more are told to come again.
MAX_RESERVERS: Final = 64
# How long a toolstack may leave its answers unread; a person who stopped one with Ctrl-Z can start it anew.
TOOLSTACK_PATIENCE_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a host; tests and simulations pass smaller ones, so that tables run full and audits are fast.

    *grants* and *mappings* of a domain; *inbox_words*: of its inbox, a multiple of 2; *clients*: sessions of toolstack
    clients; *reservers*: who may reserve memory at once; *toolstack_patience_s*: how long answers may lie unread.
    """

    grants: int = MAX_GRANTS
    mappings: int = MAX_MAPPINGS
    inbox_words: int = INBOX_WORDS
    clients: int = MAX_CLIENTS
    reservers: int = MAX_RESERVERS
    toolstack_patience_s: float = TOOLSTACK_PATIENCE_S


LIMITS: Final = Limits()
