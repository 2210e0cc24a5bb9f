"""What happened in a run, a line each: the same for the same seed, byte for byte."""

import hashlib
from collections import Counter
from collections.abc import Callable
from typing import Final

# A line that would be longer is cut there: what is beyond says no more.
MAX_LINE_CHARACTERS: Final = 400


class Trace:
    """The lines of a run, their digest, and which points and faults were reached.

    Args:
        now_s: tells the virtual time.
        directory: where the run's files are; in the lines it is called <dir>.
        write: takes each line, or None.

    Attributes: *reached*: counts by point; *happened*: counts by fault; *events*: lines so far.
    """

    def __init__(self, now_s: Callable[[], float], directory: str, write: Callable[[str], None] | None) -> None:
        self._now_s = now_s
        self._directory = directory
        self._write = write
        self._digest = hashlib.sha256()
        self.reached: Counter[str] = Counter()
        self.happened: Counter[str] = Counter()
        self.events = 0

    @property
    def digest(self) -> str:
        """The digest of all lines."""
        return self._digest.hexdigest()[:16]

    def line(self, who: str, what: str) -> None:
        """Add a line."""
        self.events += 1
        said = what.replace(self._directory, "<dir>")[:MAX_LINE_CHARACTERS]
        line = f"{self._now_s():.6f} {who}: {said}"
        self._digest.update(line.encode("utf-8", "backslashreplace") + b"\n")
        if self._write is not None:
            self._write(line)

    def sometimes(self, point: str) -> None:
        """Note that a point was reached; `points.POINTS` lists them all."""
        self.reached[point] += 1

    def fault(self, who: str, kind: str, what: str = "") -> None:
        """Note that a fault happened."""
        self.happened[kind] += 1
        self.line(who, f"! {kind} {what}".rstrip())
