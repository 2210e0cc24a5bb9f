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

import os
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
# A few lines, of which the status is the longest.
MAX_MESSAGE_BYTES: Final = 4096
# What a service manager passes to the one process that it has started (man 3 sd_notify, sd_listen_fds).
_OF_ONE_PROCESS: Final = frozenset(
    {"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"}
)


class ServiceManager:
    """Who started this process and wants to hear of it; without one, nothing is sent.

    Args:
        address: its datagram socket, as $NOTIFY_SOCKET spells it; None without one.
        watchdog_s: the time without a feed after which it restarts the daemon; None: it does not watch.
        parent: what to tell it on instead, where it is another daemon.
    """

    def __init__(
        self, address: str | None = None, watchdog_s: float | None = None, parent: socket.socket | None = None
    ) -> None:
        self._address = address
        self.watchdog_s = watchdog_s
        self._parent = parent
        self._told_status: str | None = None

    @classmethod
    def from_environment(
        cls, environ: Mapping[str, str], pid: int, parent: socket.socket | None = None
    ) -> "ServiceManager":
        """Read $NOTIFY_SOCKET, $WATCHDOG_USEC and $WATCHDOG_PID; a *parent* is told instead of who listens at the socket.

        Raises:
            ConfigError: $WATCHDOG_USEC, meant for us, is no number of microseconds.
        """
        address = environ.get("NOTIFY_SOCKET") or None
        usec = environ.get("WATCHDOG_USEC")
        if usec is None or environ.get("WATCHDOG_PID", str(pid)) != str(pid):
            return cls(address, None, parent)
        if not (usec.isascii() and usec.isdecimal() and int(usec)):
            raise ConfigError("$WATCHDOG_USEC", "", f"{usec!r:.80} is not a number of microseconds above 0")
        return cls(address, int(usec) / 1e6, parent)

    @property
    def _listens(self) -> bool:
        """Whether there is anybody to tell."""
        return self._address is not None or self._parent is not None

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
        if self.watchdog_s is None or not self._listens:
            return
        while True:
            if is_well():
                self._send("WATCHDOG=1")
            await trio.sleep(self.watchdog_s / FEEDS_PER_PERIOD)

    async def follow(self, changed: Callable[[], Awaitable[None]], describe: Callable[[], str]) -> None:
        """Tell *describe*'s status whenever *changed* returns, until cancelled; return when nobody listens."""
        if not self._listens:
            return
        while True:
            await changed()
            self.status(describe())
            await trio.sleep(STATUS_PAUSE_S)

    def _send(self, *lines: str) -> None:
        """Send one message. A manager that cannot be reached is logged: the daemon is of use without it."""
        message = "\n".join(lines).encode()
        try:
            if self._parent is not None:
                # It hears in turn with all else that it does; one that does not must not hold up its child.
                calls.send(self._parent, message, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            elif self._address is not None:
                # An abstract socket is spelt with an @ for its NUL.
                address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
                with calls.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notifier:
                    notifier.settimeout(SEND_TIMEOUT_S)
                    calls.send_to(notifier, message, address)
        except BrokenPipeError:
            # The parent is gone: its child ends, too, and says so.
            return
        except OSError as error:
            told = "parent" if self._parent is not None else self._address
            _log.warning("notify_failed", socket=told, said=lines[0], reason=error.strerror or str(error))


def parent_on(descriptor: int) -> socket.socket | None:
    """Copy a descriptor on which a parent hears its child, as `xbd.daemons.runtime.children` makes it; None: it is none."""
    try:
        copy = calls.duplicate(descriptor)
    except OSError:
        return None
    try:
        connection = calls.socket(fileno=copy)
    except OSError:
        os.close(copy)  # a pipe, a terminal, a file
        return None
    if (connection.family, connection.type) == (socket.AF_UNIX, socket.SOCK_SEQPACKET):
        return connection
    connection.close()
    return None


def for_child(environ: Mapping[str, str], watchdog_s: float | None) -> dict[str, str]:
    """Make the environment of a child from its parent's: what was passed to the parent alone is not in it.

    Args:
        environ: the parent's.
        watchdog_s: how often at least the child is to say that it is well; None: it need not.
    """
    passed = {name: text for name, text in environ.items() if name not in _OF_ONE_PROCESS}
    return passed if watchdog_s is None else passed | {"WATCHDOG_USEC": str(int(watchdog_s * 1e6))}


def parse_message(message: bytes) -> dict[str, str]:
    """Split what a daemon tells its manager, or its parent, into its lines, by name; what is no text is replaced."""
    return dict(line.partition("=")[::2] for line in message.decode(errors="replace").split("\n"))
