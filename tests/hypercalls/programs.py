"""A program that makes hypercalls, in this process, and a host's client that asks the real daemon's core beside it."""

from typing import Any

from tests.peer import listed
from xbd.client.calls import Blocking, HypervisorMethods, Request, T
from xbd.control.controller import Controller
from xbd.hypercalls.caller import BadAddress
from xbd.hypercalls.decoder import Decoder, Hypercall
from xbd.hypercalls.faults import Faults
from xbd.hypercalls.host import HostView, Processors
from xbd.hypercalls.releases import XEN_4_17

# Where the program's memory begins, and how much it has.
BASE = 0x10000
MEMORY_BYTES = 1 << 20
# Where it puts what a struct points to.
ROOM = BASE + 4096
UNION_AT = {"sysctl": 8, "domctl": 16}


class InProcess(HypervisorMethods, Blocking):
    """A client of a controller in this process; *asked* has the methods that were called."""

    def __init__(self, controller: Controller) -> None:
        self.controller = controller
        self.asked: list[str] = []

    def ask(self, request: Request[T]) -> T:
        """Make a call."""
        self.asked.append(request.method)
        if request.method == "list":
            # It is answered packed.
            return request.read({"domains": listed(self.controller)})
        return request.read(self.controller.call(request.method, dict(request.params)))


class Program:
    """A program with some memory, on a host with two processors."""

    def __init__(self, controller: Controller, faults: Faults | None = None) -> None:
        self.client = InProcess(controller)
        self.decoder = Decoder(HostView(self.client, Processors(2, 2_400_000), lambda: self.now_s), XEN_4_17, faults)
        self.memory = bytearray(MEMORY_BYTES)
        self.now_s = 0.0

    def read(self, address: int, size: int) -> bytes:
        """Read memory. Raises BadAddress."""
        return bytes(self.memory[self._checked(address, size)])

    def write(self, address: int, written: bytes) -> None:
        """Write memory. Raises BadAddress."""
        self.memory[self._checked(address, len(written))] = written

    def _checked(self, address: int, size: int) -> slice:
        if not BASE <= address <= address + size <= BASE + MEMORY_BYTES:
            raise BadAddress(f"{size} bytes at {address:#x}")
        return slice(address - BASE, address - BASE + size)

    def call(self, name: str, *words: int) -> int:
        """Make a hypercall by its C name, without __HYPERVISOR_."""
        number = XEN_4_17.constants[f"__HYPERVISOR_{name}"]
        return self.decoder.answer(Hypercall(number, [*words, 0, 0, 0, 0, 0][:5]), self)

    def ctl(self, kind: str, operation: str, struct: str = "", *, domid: int = 0, **asked: int) -> dict[str, Any]:
        """Make a sysctl or a domctl; returns what it returned as `result`, and the fields of its struct."""
        layouts, constants = XEN_4_17.layouts, XEN_4_17.constants
        union = layouts[struct].pack(**asked) if struct else b""
        prefix = f"XEN_{kind.upper()}_"
        head = {"cmd": constants[prefix + operation], "interface_version": constants[f"{prefix}INTERFACE_VERSION"]}
        whose = {"domain": domid} if kind == "domctl" else {}
        self.write(BASE, layouts[kind].pack(**head, **whose, u=union))
        result = self.call(kind, BASE)
        union = self.read(BASE + UNION_AT[kind], 128)
        return {"result": result, **(layouts[struct].unpack(union) if struct else {})}
