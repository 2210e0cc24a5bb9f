"""A host whose tables are as small as itself: they are audited after every event, and they run full."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from xbd.abi import INBOX_WORDS
from xbd.lab.simulation.switches import instead, replaced
from xbd.machine import audit_grants, domain, grants, inbox, recovery

# Less than the block I/O of a busy guest takes at times.
_GRANTS: Final = 128
_MAPPINGS: Final = 256
# Twice what the senders that there can be may fill.
_INBOX_WORDS: Final = 1 << 15
_RING_BEGINS: Final = inbox.INBOX_COLUMN_WORDS - INBOX_WORDS
_SIZES: Final = (
    (domain, "MAX_GRANTS", _GRANTS),
    (grants, "MAX_GRANTS", _GRANTS),
    (recovery, "MAX_GRANTS", _GRANTS),
    (audit_grants, "MAX_GRANTS", _GRANTS),
    (domain, "MAX_MAPPINGS", _MAPPINGS),
    (inbox, "INBOX_WORDS", _INBOX_WORDS),
    (inbox, "_MESSAGES_MOST_WORDS", _INBOX_WORDS // 2),
    (inbox, "INBOX_COLUMN_WORDS", _RING_BEGINS + _INBOX_WORDS),
    (domain, "INBOX_COLUMN_WORDS", _RING_BEGINS + _INBOX_WORDS),
)


@contextmanager
def small_tables() -> Iterator[None]:
    """Make all machines of this process so, for a while."""
    with ExitStack() as stack:
        for where, name, size in _SIZES:
            stack.enter_context(replaced(where, name, instead(size)))
        yield
