"""What every operation works on: the host, the layouts of a release, the caller's memory."""

from dataclasses import dataclass

from xbd.domain import DOM0, DomainInfo
from xbd.hypercalls.caller import Memory
from xbd.hypercalls.host import HostView
from xbd.hypercalls.layout import Layout, Release


@dataclass(frozen=True, slots=True)
class Context:
    """One hypercall's surroundings; it comes from the control domain."""

    host: HostView
    release: Release
    memory: Memory

    def layout(self, name: str) -> Layout:
        """Name a struct's layout."""
        return self.release.layouts[name]

    def constant(self, name: str) -> int:
        """Name a constant's value."""
        return self.release.constants[name]

    def read(self, name: str, address: int) -> bytes:
        """Read a struct once. Raises BadAddress."""
        return self.memory.read(address, self.layout(name).size)

    def domain(self, domid: int) -> DomainInfo:
        """Describe a domain, or the one that asks. Raises NoSuchDomain."""
        return self.host.domain(self.domid(domid))

    def domid(self, domid: int) -> int:
        """Translate "myself" into a number."""
        return DOM0 if domid == self.constant("DOMID_SELF") else domid
