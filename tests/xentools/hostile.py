"""A program that makes hypercalls by hand, right and wrong ones: run by tests as `xbd xen python3 hostile.py WHAT`.

It stands alone, without xbd, as another person's program does; what it gets it prints.
"""

import ctypes
import errno
import mmap
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

HYPERCALL: Final = 0x305000
MULTICALL, SYSCTL = 13, 35
libc = ctypes.CDLL(None, use_errno=True)


def say(*words: object) -> None:
    """Write a line."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


class Privcmd:
    """An open /dev/xen/privcmd, and two pages of memory for structs."""

    def __init__(self) -> None:
        self.descriptor = os.open("/dev/xen/privcmd", os.O_RDWR | os.O_CLOEXEC)
        buffers = os.open("/dev/xen/hypercall", os.O_RDWR | os.O_CLOEXEC)
        self.page = mmap.mmap(buffers, 12288, mmap.MAP_SHARED)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.page))
        # After the two pages there is nothing.
        libc.munmap(ctypes.c_void_p(self.address + 8192), 4096)

    def raw(self, address: int) -> str:
        """Make the call that lies at *address*; returns its value, or its errno's name."""
        value = libc.ioctl(self.descriptor, ctypes.c_ulong(HYPERCALL), ctypes.c_void_p(address))
        return str(value) if value >= 0 else errno.errorcode[ctypes.get_errno()]

    def call(self, number: int, *words: int) -> str:
        """Make a hypercall."""
        self.page[4096:4144] = struct.pack("<6Q", number, *[*words, 0, 0, 0, 0, 0][:5])
        return self.raw(self.address + 4096)

    def sysctl(self, operation: int, union: bytes = b"") -> str:
        """Make a sysctl whose struct lies at the beginning of the page."""
        self.page[0:136] = struct.pack("<II", operation, 0x15) + union.ljust(128, b"\0")
        return self.call(SYSCTL, self.address)

    def domains(self) -> str:
        """Count the domains; returns the answer and the count."""
        room = ctypes.create_string_buffer(1 << 16)
        answer = self.sysctl(6, struct.pack("<HxxIQI", 0, 500, ctypes.addressof(room), 0))
        return f"{answer}:{struct.unpack_from('<I', self.page, 24)[0]}"


def pointers() -> None:
    """Pass addresses of nothing, of half a struct, and of the kernel."""
    xen = Privcmd()
    wrong = (0, 1, 4096, xen.address + 8190, (1 << 47) - 8, 1 << 63, (1 << 64) - 8)
    say({xen.raw(address) for address in wrong})
    say({xen.call(SYSCTL, address) for address in wrong})
    say({xen.sysctl(6, struct.pack("<HxxIQI", 0, 500, address, 0)) for address in wrong[:3] + wrong[4:]})
    say({xen.call(MULTICALL, address, 1) for address in wrong})
    say(xen.call(MULTICALL, xen.address, 1 << 40), xen.call(99), xen.sysctl(999), xen.domains())


def changing() -> None:
    """Make calls while another thread changes their struct."""
    xen, enough = Privcmd(), threading.Event()

    def change() -> None:
        while not enough.is_set():
            xen.page[0:136] = os.urandom(136)

    other = threading.Thread(target=change)
    other.start()
    answers = {xen.sysctl(6, os.urandom(24)) for _ in range(200)}
    enough.set()
    other.join()
    say(answers <= {"0", *errno.errorcode.values()}, xen.domains())


def ends() -> None:
    """Execute another program, and end, while a call that takes long is under way."""
    xen = Privcmd()
    for act in ("os.execv(sys.executable, [sys.executable, hostile.__file__, 'domains'])", "os._exit(0)"):
        code = f"import os, sys, threading, time; sys.path.insert(0, {str(Path(__file__).parent)!r}); import hostile; "
        code += "xen = hostile.Privcmd(); threading.Thread(target=lambda: xen.sysctl(3), daemon=True).start(); "
        code += f"time.sleep(0.05); {act}"
        subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603 - this program's own
    say(xen.domains())


def other_files() -> None:
    """Make the ioctl on a file that is not Xen's, on none, and open files of Xen that are not there."""
    xen = Privcmd()
    own = xen.descriptor
    for other in (os.open("/dev/null", os.O_RDWR), 999):
        xen.descriptor = other
        say(xen.domains())
    xen.descriptor = own
    try:
        os.open("/dev/xen/evtchn", os.O_RDWR)
    except OSError as error:
        say(errno.errorcode[error.errno or 0])
    say(xen.domains())


def domains() -> None:
    """Count the domains."""
    say(Privcmd().domains())


def one_by_one() -> None:
    """Count the domains, and again each time a line comes."""
    xen = Privcmd()
    say(xen.domains())
    for _ in sys.stdin:
        say(xen.domains())


if __name__ == "__main__":
    {one.__name__: one for one in (pointers, changing, ends, other_files, domains, one_by_one)}[sys.argv[1]]()
