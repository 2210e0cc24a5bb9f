"""The listener: answers what a program and all that it starts ask of Xen, until the last of them is gone.

It is a process of its own, which no signal of the terminal reaches. Whatever a program asks or does, it gets an answer,
an errno at worst, and the next one is served.
"""

import errno
import heapq
import os
import select
import time
from collections.abc import Callable
from itertools import count
from typing import Final

from xbd.hypercalls.caller import BadAddress
from xbd.hypercalls.decoder import Decoder, Hypercall
from xbd.hypercalls.faults import Faults
from xbd.xentools.process_memory import ProcessMemory
from xbd.xentools.seccomp import IOCTL_PRIVCMD_HYPERCALL, Notification, Notifications

# What a program that opens /dev/xen/privcmd gets: an empty file of memory, known by its name.
_PRIVCMD_NAME: Final = "xen-privcmd"
_PRIVCMD_LINK: Final = f"/memfd:{_PRIVCMD_NAME} (deleted)"
# Its name and NUL decide; longer ones are of other directories.
_PATH_BYTES: Final = 64
_XEN_FILES: Final = (b"/dev/xen/", b"/proc/xen/")
# struct privcmd_hypercall: the number and five arguments.
_CALL_WORDS: Final = 6


class Listener:
    """Answers the notifications of one filter."""

    def __init__(self, notifications: Notifications, decoder: Decoder, faults: Faults) -> None:
        self._notifications = notifications
        self._decoder = decoder
        self._faults = faults
        self._files: Final = {
            b"/dev/xen/privcmd": os.memfd_create(_PRIVCMD_NAME, os.MFD_CLOEXEC),
            # Each shared mapping of it is fresh memory, as of Xen's own device.
            b"/dev/xen/hypercall": os.open("/dev/zero", os.O_RDWR | os.O_CLOEXEC),
        }
        # Calls that are answered later: when, in which order they came, which.
        self._later: list[tuple[float, int, Notification]] = []
        self._order = count()

    def run(self, first_ended: Callable[[], None], pid_descriptor: int) -> None:
        """Serve until no process has the filter any more.

        Args:
            first_ended: is called when the process of *pid_descriptor*, the program that was asked for, has ended.
            pid_descriptor: as of `os.pidfd_open`.
        """
        poll = select.poll()
        poll.register(self._notifications.descriptor, select.POLLIN)
        poll.register(pid_descriptor, select.POLLIN)
        is_used, has_first = True, True
        while is_used or has_first:
            for descriptor, what in poll.poll(self._wait_ms()):
                if descriptor == pid_descriptor:
                    poll.unregister(pid_descriptor)
                    has_first = False
                    first_ended()
                elif what & select.POLLIN:
                    self._take_next()
                else:
                    poll.unregister(self._notifications.descriptor)
                    is_used = False
            while self._later and self._later[0][0] <= time.monotonic():
                self._answer(heapq.heappop(self._later)[2])

    def _wait_ms(self) -> float | None:
        return max(self._later[0][0] - time.monotonic(), 0) * 1000 + 1 if self._later else None

    def _take_next(self) -> None:
        one = self._notifications.receive()
        if one is None:
            return
        if one.is_open:
            self._open(one)
            return
        delay_s = self._delay_s(one)
        if delay_s:
            heapq.heappush(self._later, (time.monotonic() + delay_s, next(self._order), one))
        else:
            self._answer(one)

    def _open(self, one: Notification) -> None:
        """Hand out Xen's files; other files of Xen are not there, and what is no file of Xen is left to the kernel."""
        try:
            with ProcessMemory(one.pid) as memory:
                path = memory.read_some(one.path_address, _PATH_BYTES).partition(b"\0")[0]
        except OSError:
            path = b""
        if not path.startswith(_XEN_FILES):
            self._notifications.let_go(one)
        elif path in self._files:
            self._notifications.give_descriptor(one, self._files[path])
        else:
            self._notifications.answer(one, -errno.ENOENT)

    def _delay_s(self, one: Notification) -> float:
        """Tell how long a call is to wait for its answer."""
        if not self._faults.has_delays:
            return 0.0
        try:
            with ProcessMemory(one.pid) as memory:
                return self._faults.delay_s(self._decoder.names_of(_read_call(one, memory), memory))
        except (OSError, BadAddress):
            return 0.0

    def _answer(self, one: Notification) -> None:
        try:
            # Only a descriptor of Xen's file makes hypercalls; of others the kernel knows what this means.
            link = os.readlink(f"/proc/{one.pid}/fd/{one.arguments[0]}")  # noqa: PTH115 - this is in the way of every hypercall
            if link != _PRIVCMD_LINK:
                self._notifications.let_go(one)
                return
            with ProcessMemory(one.pid) as memory:
                if not self._notifications.is_valid(one):
                    return
                result = self._decoder.answer(_read_call(one, memory), memory)
        except BadAddress:
            result = -errno.EFAULT
        except OSError as error:
            result = -(errno.EBADF if error.errno == errno.ENOENT else errno.EIO)
        self._notifications.answer(one, result)


def _read_call(one: Notification, memory: ProcessMemory) -> Hypercall:
    """Read a hypercall's number and arguments. Raises BadAddress."""
    assert one.arguments[1] & 0xFFFFFFFF == IOCTL_PRIVCMD_HYPERCALL, one
    raw = memory.read(one.arguments[2], 8 * _CALL_WORDS)
    number, *arguments = (int.from_bytes(raw[word : word + 8], "little") for word in range(0, 8 * _CALL_WORDS, 8))
    return Hypercall(number, arguments)
