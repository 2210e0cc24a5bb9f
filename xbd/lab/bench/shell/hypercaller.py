"""A program that makes hypercalls, run by the benchmark as `xbd xen`: prints the seconds that one takes, once a line."""

import ctypes
import mmap
import os
import struct
import sys
import time
from typing import Final

from xbd.hypercalls.releases import XEN_4_17
from xbd.xentools.seccomp import IOCTL_PRIVCMD_HYPERCALL

# Where the call lies behind its struct.
_CALL_AT: Final = 2048


def main(domid: int, calls: int, repeats: int) -> None:
    """Ask so often what a domain is, and print how long one call takes, *repeats* times."""
    privcmd = os.open("/dev/xen/privcmd", os.O_RDWR)
    buffers = os.open("/dev/xen/hypercall", os.O_RDWR)
    page = mmap.mmap(buffers, mmap.PAGESIZE, mmap.MAP_SHARED)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    constants, domctl = XEN_4_17.constants, XEN_4_17.layouts["domctl"]
    operation, version = constants["XEN_DOMCTL_getdomaininfo"], constants["XEN_DOMCTL_INTERFACE_VERSION"]
    page[: domctl.size] = domctl.pack(cmd=operation, interface_version=version, domain=domid)
    page[_CALL_AT : _CALL_AT + 48] = struct.pack("<6Q", constants["__HYPERVISOR_domctl"], address, 0, 0, 0, 0)
    ioctl = ctypes.CDLL(None).ioctl
    where = ctypes.c_void_p(address + _CALL_AT)
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(calls):
            if ioctl(privcmd, ctypes.c_ulong(IOCTL_PRIVCMD_HYPERCALL), where):
                sys.exit("a hypercall failed")
        sys.stdout.write(f"{(time.perf_counter() - start) / calls}\n")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
