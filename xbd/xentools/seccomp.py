"""Catching the system calls that reach for a hypervisor: a filter, and the notifications that it sends.

The filter stays on a process and on all that it starts. It catches an `ioctl` that makes a hypercall, and the opening of
a file for reading and writing, of which those of /dev/xen matter; all others go their way at full speed.

Source: seccomp_unotify(2), linux/seccomp.h, linux/filter.h; xen/privcmd.h.
"""

import ctypes
import errno
import fcntl
import os
import struct
from dataclasses import dataclass
from typing import Final

from xbd.errors import XbdError

IOCTL_PRIVCMD_HYPERCALL: Final = 0x305000
_SYS_IOCTL: Final = 16
_SYS_OPEN: Final = 2
_SYS_OPENAT: Final = 257
_SYS_SECCOMP: Final = 317
_AUDIT_ARCH_X86_64: Final = 0xC000003E
_SET_MODE_FILTER: Final = 1
_FLAG_NEW_LISTENER: Final = 1 << 3
_FLAG_WAIT_KILLABLE_RECV: Final = 1 << 5
_RET_USER_NOTIF: Final = 0x7FC00000
_RET_ALLOW: Final = 0x7FFF0000
_PR_SET_NO_NEW_PRIVS: Final = 38
_IOCTL_RECV: Final = 0xC0502100
_IOCTL_SEND: Final = 0xC0182101
_IOCTL_ID_VALID: Final = 0x40082102
_IOCTL_ADDFD: Final = 0x40182103
_RESPONSE_CONTINUE: Final = 1
_ADDFD_SEND: Final = 2
# id, pid, flags, number, architecture, instruction, six arguments
_NOTIFICATION: Final = struct.Struct("<QIIiIQ6Q")
_RESPONSE: Final = struct.Struct("<QqiI")
_ADDFD: Final = struct.Struct("<QIIII")
# Loading a word, masking it, skipping steps, skipping them if it equals, returning.
_LOAD, _AND, _JUMP, _JUMP_EQUAL, _RETURN = 0x20, 0x54, 0x05, 0x15, 0x06


class CannotCatch(XbdError):
    """This system does not let a program's hypercalls be caught; the sentence says why."""


def _filter() -> bytes:
    """Assemble the filter. Offsets: of number, architecture and arguments in struct seccomp_data."""
    number, architecture, second, third = 0, 4, 24, 32
    # The last two numbers but one of a jump: how many steps to skip if it is equal, and if it is not.
    program = (
        (_LOAD, 0, 0, architecture),
        (_JUMP_EQUAL, 0, 12, _AUDIT_ARCH_X86_64),
        (_LOAD, 0, 0, number),
        (_JUMP_EQUAL, 3, 0, _SYS_IOCTL),
        (_JUMP_EQUAL, 4, 0, _SYS_OPENAT),
        (_JUMP_EQUAL, 5, 0, _SYS_OPEN),
        (_JUMP, 0, 0, 7),
        (_LOAD, 0, 0, second),
        (_JUMP_EQUAL, 6, 5, IOCTL_PRIVCMD_HYPERCALL),
        (_LOAD, 0, 0, third),
        (_JUMP, 0, 0, 1),
        (_LOAD, 0, 0, second),
        (_AND, 0, 0, os.O_ACCMODE),
        (_JUMP_EQUAL, 1, 0, os.O_RDWR),
        (_RETURN, 0, 0, _RET_ALLOW),
        (_RETURN, 0, 0, _RET_USER_NOTIF),
    )
    return b"".join(struct.pack("<HBBI", *step) for step in program)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))


def catch() -> int:
    """Put the filter on this process; returns the descriptor that its notifications come from.

    Raises:
        CannotCatch: the kernel has no such filters, does not allow them, or one is on it.
    """
    if os.uname().machine != "x86_64":
        raise CannotCatch(f"Xen's tools are run on x86-64 alone, this is {os.uname().machine}")
    libc = ctypes.CDLL(None, use_errno=True)
    steps = _filter()
    program = _Program(len(steps) // 8, steps)
    for flags in (_FLAG_NEW_LISTENER | _FLAG_WAIT_KILLABLE_RECV, _FLAG_NEW_LISTENER):
        descriptor = libc.syscall(_SYS_SECCOMP, _SET_MODE_FILTER, flags, ctypes.byref(program))
        if descriptor < 0 and ctypes.get_errno() == errno.EACCES:
            # Who is not root gives up what setuid programs give.
            libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            descriptor = libc.syscall(_SYS_SECCOMP, _SET_MODE_FILTER, flags, ctypes.byref(program))
        if descriptor >= 0:
            return int(descriptor)
        reason = ctypes.get_errno()
        if reason == errno.EBUSY:
            raise CannotCatch("something else catches the system calls of this process; run it outside of that")
        if reason != errno.EINVAL:
            break
    raise CannotCatch(
        f"this system does not let a program's hypercalls be caught ({os.strerror(reason)}); "
        "Linux 5.9 or newer with seccomp user notifications is needed, and a container that allows them"
    )


@dataclass(frozen=True, slots=True)
class Notification:
    """A system call that waits for its answer: who makes it, its number and its arguments."""

    id: int
    pid: int
    number: int
    arguments: tuple[int, ...]

    @property
    def is_open(self) -> bool:
        """Whether it opens a file."""
        return self.number != _SYS_IOCTL

    @property
    def path_address(self) -> int:
        """Where the path lies that it opens."""
        return self.arguments[1 if self.number == _SYS_OPENAT else 0]

    @property
    def is_closed_by_exec(self) -> bool:
        """Whether the file that it opens is closed by an exec."""
        return bool(self.arguments[2 if self.number == _SYS_OPENAT else 1] & os.O_CLOEXEC)


class Notifications:
    """The notifications of a filter; all answers may come too late, which is nobody's fault: then nothing happens."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor: Final = descriptor

    def receive(self) -> Notification | None:
        """Receive one; None: its caller is gone meanwhile."""
        room = bytearray(_NOTIFICATION.size)
        try:
            fcntl.ioctl(self.descriptor, _IOCTL_RECV, room)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR):
                return None
            raise
        number, pid, _, call, _, _, *arguments = _NOTIFICATION.unpack(room)
        return Notification(number, pid, call, tuple(arguments))

    def is_valid(self, one: Notification) -> bool:
        """Tell whether its caller still waits; what was read of its memory before is the caller's only then."""
        try:
            fcntl.ioctl(self.descriptor, _IOCTL_ID_VALID, struct.pack("<Q", one.id))
        except OSError:
            return False
        return True

    def answer(self, one: Notification, value: int) -> None:
        """Let the call return: a value of at least 0, or an errno below it."""
        self._send(_RESPONSE.pack(one.id, max(value, 0), min(value, 0), 0))

    def let_go(self, one: Notification) -> None:
        """Let the kernel carry out the call."""
        self._send(_RESPONSE.pack(one.id, 0, 0, _RESPONSE_CONTINUE))

    def give_descriptor(self, one: Notification, descriptor: int) -> None:
        """Let the call return a descriptor of its own for what *descriptor* is."""
        flags = os.O_CLOEXEC if one.is_closed_by_exec else 0
        try:
            fcntl.ioctl(self.descriptor, _IOCTL_ADDFD, _ADDFD.pack(one.id, _ADDFD_SEND, descriptor, 0, flags))
        except OSError as error:
            if error.errno != errno.ENOENT:
                self.answer(one, -(error.errno or errno.EIO))

    def _send(self, response: bytes) -> None:
        try:
            fcntl.ioctl(self.descriptor, _IOCTL_SEND, response)
        except OSError as error:
            # It was killed, or an exec in another thread ended it.
            if error.errno not in (errno.ENOENT, errno.EINPROGRESS):
                raise
