"""The memory of the program that waits for an answer, read and written through /proc."""

import os
from typing import Final, Self

from xbd.hypercalls.caller import BadAddress

# Where Linux refuses to seek.
_ADDRESSES: Final = 1 << 63


class ProcessMemory:
    """The memory of a process, opened for one call: what is opened before an exec is not what is there after it.

    As a context manager it closes what it opened. Raises BadAddress as `xbd.hypercalls.caller.Memory` says.
    """

    def __init__(self, pid: int) -> None:
        self._descriptor = os.open(f"/proc/{pid}/mem", os.O_RDWR | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        """Use it in a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        os.close(self._descriptor)

    def read(self, address: int, size: int) -> bytes:
        """Read *size* bytes, all of them."""
        found = self.read_some(address, size)
        if len(found) < size:
            raise BadAddress(f"{size} bytes at {address:#x}", "memory of the program")
        return found

    def read_some(self, address: int, most: int) -> bytes:
        """Read at most *most* bytes: those up to where the program's memory ends."""
        if address >= _ADDRESSES:
            return b""
        try:
            return os.pread(self._descriptor, most, address)
        except OSError:
            return b""

    def write(self, address: int, written: bytes) -> None:
        """Write bytes, all of them."""
        done = 0
        while done < len(written):
            try:
                count = os.pwrite(self._descriptor, written[done:], address + done) if address < _ADDRESSES else 0
            except OSError:
                count = 0
            if not count:
                raise BadAddress(f"{len(written)} bytes at {address:#x}", "memory of the program")
            done += count
