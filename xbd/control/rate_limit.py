"""How often something may happen: so many times at once, then so many times a second.

Plain numbers that are told the time; who waits is a shell's matter.
"""

from collections.abc import Callable
from typing import Final

import structlog

from xbd.replaceable import replaceable

# What one source of trouble may have logged: enough to see what it does, then a line a minute to see that it goes on.
LINES_AT_ONCE: Final = 5
LINES_PER_S: Final = 1 / 60
# Who has waited as long as it was told has what it waited for, although sums of fractions are not exact.
_ROUNDING: Final = 1e-6
# At a domain's socket. An agent connects once, and again when its connection or its host was lost. Each time is two events,
# maybe a reboot of a guest in 4 KiB pieces, 50 ms for 16 GiB; so many at once, then one in two seconds: a guest that does
# nothing but connect takes 3 % of a core with that, and needs hours to fill the event log.
CONNECTS_AT_ONCE: Final = 16
CONNECTS_PER_S: Final = 0.5
# Of those who are gone again before they are let in: accepting and closing one takes some 20 us, so a guest that does
# nothing else takes less than 1 % of a core. As many at once as wait in a listener's queue (`sockets.BACKLOG`).
DEAD_AT_ONCE: Final = 1024
DEAD_PER_S: Final = 200.0
# What all sources of one kind may have logged together. One that goes on for ever takes its own share of it alone; a
# thousand that come and go, each with its first lines, cannot flood the log.
SHARED_LINES_AT_ONCE: Final = 50
SHARED_LINES_PER_S: Final = 0.5


class TokenBucket:
    """A store of permissions that fills up again (a token bucket).

    Args:
        at_once: how many it holds, and has at first.
        per_s: how many a second come back.
    """

    def __init__(self, at_once: int, per_s: float) -> None:
        self._at_once = float(at_once)
        self._per_s = per_s
        self._left = float(at_once)
        self._looked_at: float | None = None

    @replaceable
    def wait_s(self, now: float) -> float:
        """Tell how long it is until one is there; 0: now."""
        if self._looked_at is not None:
            self._left = min(self._at_once, self._left + (now - self._looked_at) * self._per_s)
        self._looked_at = now
        missing = 1.0 - self._left
        return 0.0 if missing < _ROUNDING else missing / self._per_s

    def take(self, now: float) -> bool:
        """Take one if one is there."""
        if self.wait_s(now) > 0.0:
            return False
        self._left -= 1.0
        return True


class SourceLog:
    """Warnings about one source that can cause any number of them: a few are logged, the others are counted.

    The next line that is logged tells as `suppressed` how many were left out before it.

    Args:
        logger: structlog's.
        shared: what sources of its kind may have logged together; None: nobody shares it.
        source: what each line says of where it comes from.
    """

    def __init__(
        self, logger: structlog.typing.FilteringBoundLogger, shared: TokenBucket | None = None, **source: object
    ) -> None:
        self._logger = logger
        self._source = source
        self._bucket = TokenBucket(LINES_AT_ONCE, LINES_PER_S)
        self._shared = shared
        self._suppressed = 0

    def warning(self, now: float, event: str, **details: object) -> None:
        """Log *event*, or count it."""
        self._write(self._logger.warning, now, event, details)

    def info(self, now: float, event: str, **details: object) -> None:
        """Log an *event* that is no trouble, or count it with the others."""
        self._write(self._logger.info, now, event, details)

    def _write(self, write: Callable[..., object], now: float, event: str, details: dict[str, object]) -> None:
        # Its own first: who has used that up takes nothing of what others share.
        if not (self._bucket.take(now) and (self._shared is None or self._shared.take(now))):
            self._suppressed += 1
            return
        more = {"suppressed": self._suppressed} if self._suppressed else {}
        self._suppressed = 0
        write(event, **{**self._source, **details, **more})


def shared_lines() -> TokenBucket:
    """Make what sources of one kind may have logged together."""
    return TokenBucket(SHARED_LINES_AT_ONCE, SHARED_LINES_PER_S)
