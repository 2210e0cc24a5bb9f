"""Following somebody who comes and goes: connected to again with growing pauses, and two lines in the log for each outage.

However often it is tried, the log says once that somebody is lost, and why, and once that they are back. One that comes
back only to leave again is not tried more often for that, and its lines are rationed.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeVar

import structlog
import trio

from xbd.client.client import Client, open_client
from xbd.client.retry import retry
from xbd.control.rate_limit import SourceLog
from xbd.daemons.runtime.check_in import CheckIn
from xbd.daemons.runtime.nurseries import plain_errors
from xbd.errors import ConfigError, XbdError
from xbd.protocol.backoff import Backoff
from xbd.protocol.toolstack_session import ANSWER_TIMEOUT_S

_log = structlog.get_logger(__name__)

T = TypeVar("T")

# Who has stayed for as long is tried at once when it is lost; one that leaves sooner is waited for as one that is away.
STEADY_S: Final = 5.0
# Who follows a hypervisor waits for one answer at a time, each for so long at most; whoever needs longer hangs.
FOLLOW_EVERY_S: Final = 2 * ANSWER_TIMEOUT_S


def _is_a_setting(error: XbdError) -> bool:
    """Tell whether an error is of this daemon's own settings, which no attempt mends."""
    return isinstance(error, ConfigError)


class Follower:
    """Connects to somebody again and again.

    Args:
        who: what the log's lines are called after: `<who>_lost`, `<who>_found`.
        is_final: which errors nobody waits out; they are raised.
        every_s: for how long it may be busy with one thing while it is found; who needs longer hangs, and is named.
        changed: called when somebody was found or lost.
        greets: whether the first connection is worth a line, too.
        source: what each line says besides.

    Attributes: *check_in*: the following task's; it comes by at each attempt, and whenever a session says so.
    """

    def __init__(
        self,
        who: str,
        *,
        is_final: Callable[[XbdError], bool] = _is_a_setting,
        every_s: float = FOLLOW_EVERY_S,
        changed: Callable[[], None] = lambda: None,
        greets: bool = True,
        **source: object,
    ) -> None:
        self._who = who
        self._is_final = is_final
        self.check_in = CheckIn(f"follow the {who}", every_s)
        self._changed = changed
        self._greets = greets
        self._log = SourceLog(_log, None, **source)
        self._backoff = Backoff()
        self._found_at_s: float | None = None
        self._lost_is_said = False

    @property
    def is_found(self) -> bool:
        """Tell whether they are there."""
        return self._found_at_s is not None

    def found(self) -> None:
        """Note that somebody has answered; an attempt calls this once."""
        self._found_at_s = trio.current_time()
        if self._greets or self._lost_is_said:
            self._log.info(self._found_at_s, f"{self._who}_found")
        self._lost_is_said = False
        self._greets = False
        self._changed()

    def _lost(self, error: XbdError) -> None:
        now = trio.current_time()
        if self._found_at_s is not None and now - self._found_at_s >= STEADY_S:
            self._backoff.reset()
        self._found_at_s = None
        if not self._lost_is_said:
            self._log.warning(now, f"{self._who}_lost", reason=str(error))
        self._lost_is_said = True
        self._changed()

    async def follow(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Call *attempt*, which connects and stays connected, until one returns, and return what it does.

        Raises:
            XbdError: one that is final.
        """

        async def one() -> T:
            self.check_in.here()
            with plain_errors():
                return await attempt()

        with self.check_in.watched():
            return await retry(one, self._backoff, self._passes)

    def _passes(self, error: Exception) -> bool:
        """Tell whether an error is waited out; the log then says that somebody is lost."""
        if not isinstance(error, XbdError) or self._is_final(error):
            return False
        self._lost(error)
        return True

    async def follow_hypervisor(
        self, path: Path, session: Callable[[Client], Awaitable[T]], *, resume: bool = False, client: str | None = None
    ) -> T:
        """Run *session* with a client of the hypervisor at *path*, anew after each loss, until one returns.

        Args:
            path: its socket.
            session: what is done while connected.
            resume: as for `open_client`.
            client: as for `open_client`.

        Raises:
            XbdError: one that is final.
        """

        async def attempt() -> T:
            async with open_client(path, resume=resume, client=client) as connected:
                self.found()
                return await session(connected)

        return await self.follow(attempt)
