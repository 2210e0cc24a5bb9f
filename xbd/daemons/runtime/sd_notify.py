"""Telling the service manager how things stand, where there is one: ready, reloading, stopping, alive.

The watchdog is fed by a task of the daemon's own trio run (`ServiceManager.feed`), and that is what makes
it honest. A trio run has one loop, on one thread, that gives each task its turn: the machine's turns, a
guest's steps, accepting peers and this feeding all happen there, one after the other. A turn that never
ends, a loop without a checkpoint, a blocking call, a process that is stopped: whatever keeps the next peer
from its turn keeps the feeding from its own, and the manager, which has not heard of us, restarts the
daemon. A task that dies of an error ends the whole run, so nothing is left that could go on feeding. A task
that waits for what never comes while the others go on is seen by what it does not do: it does not check in
(`xbd.daemons.runtime.check_in`), and then nobody is fed.

Source: man 3 sd_notify, man 3 sd_watchdog_enabled (systemd 252).
"""

import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import structlog
import trio

from xbd.daemons.runtime.outside import calls
from xbd.errors import ConfigError

_log = structlog.get_logger(__name__)

# As sd_watchdog_enabled recommends: half of the time after which the manager gives us up.
FEEDS_PER_PERIOD: Final = 2
# The manager reads at once, or something is very wrong with it; no guest should wait for that.
SEND_TIMEOUT_S: Final = 1.0
# A status is for people: a burst of changes is told once.
STATUS_PAUSE_S: Final = 1.0


class ServiceManager:
    """Who started this process and wants to hear of it; without one, nothing is sent.

    Args:
        address: its datagram socket, as $NOTIFY_SOCKET spells it; None without one.
        watchdog_s: the time without a feed after which it restarts the daemon; None: it does not watch.
    """

    def __init__(self, address: str | None = None, watchdog_s: float | None = None) -> None:
        self._address = address
        self._watchdog_s = watchdog_s
        self._told_status: str | None = None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], pid: int) -> "ServiceManager":
        """Read $NOTIFY_SOCKET, $WATCHDOG_USEC and $WATCHDOG_PID.

        Raises:
            ConfigError: $WATCHDOG_USEC, meant for us, is no number of microseconds.
        """
        address = environ.get("NOTIFY_SOCKET") or None
        usec = environ.get("WATCHDOG_USEC")
        if usec is None or environ.get("WATCHDOG_PID", str(pid)) != str(pid):
            return cls(address)
        if not (usec.isascii() and usec.isdecimal() and int(usec)):
            raise ConfigError("$WATCHDOG_USEC", "", f"{usec!r:.80} is not a number of microseconds above 0")
        return cls(address, int(usec) / 1e6)

    def ready(self, status: str) -> None:
        """Say that everybody can be served, after the start or a reload, and how things stand."""
        self._told_status = status
        self._send("READY=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        """Say how things stand, in a line for people; nothing when that was the last one."""
        if status != self._told_status:
            self._told_status = status
            self._send(f"STATUS={status}")

    def reloading(self) -> None:
        """Say that settings are being read again; `ready` ends that.

        MONOTONIC_USEC is what systemd 253's Type=notify-reload wants; older ones pass over it.
        """
        usec = int(calls.monotonic() * 1e6)
        self._send("RELOADING=1", f"MONOTONIC_USEC={usec}")

    def stopping(self, status: str) -> None:
        """Say that the daemon ends."""
        self._told_status = status
        self._send("STOPPING=1", f"STATUS={status}")

    async def feed(self, is_well: Callable[[], bool] = lambda: True) -> None:
        """Feed the watchdog while all *is_well*, in turn with the run's other tasks; return when nobody watches."""
        if self._watchdog_s is None or self._address is None:
            return
        while True:
            if is_well():
                self._send("WATCHDOG=1")
            await trio.sleep(self._watchdog_s / FEEDS_PER_PERIOD)

    async def follow(self, changed: Callable[[], Awaitable[None]], describe: Callable[[], str]) -> None:
        """Tell *describe*'s status whenever *changed* returns, until cancelled; return when nobody listens."""
        if self._address is None:
            return
        while True:
            await changed()
            self.status(describe())
            await trio.sleep(STATUS_PAUSE_S)

    def _send(self, *lines: str) -> None:
        """Send one message. A manager that cannot be reached is logged: the daemon is of use without it."""
        if self._address is None:
            return
        # An abstract socket is spelt with an @ for its NUL.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with calls.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notifier:
                notifier.settimeout(SEND_TIMEOUT_S)
                calls.send_to(notifier, "\n".join(lines).encode(), address)
        except OSError as error:
            _log.warning("notify_failed", socket=self._address, said=lines[0], reason=error.strerror or str(error))
