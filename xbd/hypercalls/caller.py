"""The memory of the program that makes a hypercall, and what is read from and written to it within bounds.

Each struct is read once, and everything is decided on that copy: the program may change it meanwhile.
"""

from typing import Final, Protocol

from xbd.errors import HypercallError

# A bitmap of so many bits describes more processors or nodes than any machine has.
MAX_BITMAP_BITS: Final = 1 << 16
# 64 bits of address space.
_ADDRESSES: Final = 1 << 64


class Memory(Protocol):
    """A program's memory. Both methods raise BadAddress: not all of it is there; what lies before may be written."""

    def read(self, address: int, size: int) -> bytes:
        """Read *size* bytes."""

    def write(self, address: int, written: bytes) -> None:
        """Write bytes."""


class BadAddress(HypercallError):
    """EFAULT: the program named memory that it has not got."""

    errno = "EFAULT"


def write_array(memory: Memory, address: int, items: bytes) -> None:
    """Write an array that the program has room for; nothing where there is nothing. Raises BadAddress."""
    if items:
        if address + len(items) > _ADDRESSES:
            raise BadAddress(f"{len(items)} bytes at {address:#x}", "memory of the program")
        memory.write(address, items)


def write_bitmap(memory: Memory, address: int, room_bits: int, ones: int) -> None:
    """Write a bitmap whose first *ones* bits are set; as `write_bits`."""
    write_bits(memory, address, room_bits, (1 << min(ones, room_bits)) - 1)


def write_bits(memory: Memory, address: int, room_bits: int, bits: int) -> None:
    """Write a bitmap into room for *room_bits*; the rest of that becomes zero, and what has no room is left out.

    Raises:
        HypercallError: EINVAL, more room than `MAX_BITMAP_BITS`; BadAddress.
    """
    if room_bits > MAX_BITMAP_BITS:
        raise HypercallError(f"a bitmap of {room_bits} bits", f"at most {MAX_BITMAP_BITS}")
    bits &= (1 << room_bits) - 1
    write_array(memory, address, bits.to_bytes(-(-room_bits // 8), "little"))
