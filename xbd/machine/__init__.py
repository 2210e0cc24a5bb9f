"""The hypervisor: heap, p2m, domains, memory operations, audit. Pure."""

from xbd.machine.domain import DomainInfo, DomainState
from xbd.machine.machine import HostStatistics, Machine
from xbd.machine.settings import HOME_FILLS, TODAYS_XEN, HomeFill, HostSettings

__all__ = [
    "HOME_FILLS",
    "TODAYS_XEN",
    "DomainInfo",
    "DomainState",
    "HomeFill",
    "HostSettings",
    "HostStatistics",
    "Machine",
]
