"""The last lines of a daemon's log, as Xen keeps those of its console in a ring."""

import re
from collections import deque
from typing import Final

from xbd.text import printable

# As much as Xen's ring holds, where nothing else is asked for.
CONSOLE_CHARACTERS: Final = 1 << 14
# What colours a line on a terminal.
_COLOURS: Final = re.compile("\x1b\\[[0-9;]*m")


class Console:
    """The lines that were logged last, as many as have room; *first*: how many characters lay before them, and are gone."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque()
        self._characters = 0
        self.first = 0

    def add(self, lines: str) -> None:
        """Keep what is logged, whole lines, without what a terminal would act upon; the oldest may go, and a part of one too long."""
        shown = printable(_COLOURS.sub("", lines), lines=True)
        kept = shown[-CONSOLE_CHARACTERS:]
        self.first += len(shown) - len(kept)
        self._lines.append(kept)
        self._characters += len(kept)
        while self._characters > CONSOLE_CHARACTERS:
            gone = len(self._lines.popleft())
            self._characters -= gone
            self.first += gone

    @property
    def text(self) -> str:
        """The lines, oldest first."""
        return "".join(self._lines)
