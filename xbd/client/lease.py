"""Watching memory that the autoballoon daemon holds free for us: for as long as its connection lasts, and it lives."""

from collections.abc import Mapping
from typing import Any, Final

from xbd.errors import XbdError
from xbd.replaceable import replaceable

# How often the daemon is asked whether it still holds what it has freed.
LOOK_EVERY_S: Final = 1.0
# A daemon that takes longer for that answer hangs, and sees to nothing.
ANSWER_WITHIN_S: Final = 10.0


@replaceable
def why_lost(answer: Mapping[str, Any] | XbdError) -> str:
    """Say why memory is no longer held, by what `reservation` answered or failed with; nothing if it still is."""
    if isinstance(answer, XbdError):
        return str(answer)
    state = answer.get("state")
    return "" if state == "held" else f"the reservation is {state}; was the autoballoon daemon restarted?"
