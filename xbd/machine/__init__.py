"""The hypervisor's memory side: heap, p2m, domains, memory operations, grants, messages, audit. Pure.

`machine` is the whole as others see it. To understand an operation read `operations` (the table of all), `reservation`
(populate and decrease: the pattern that every operation follows) and `extents` (shared validation); below these are
`mapping` (the only writer of p2m entries) and `frame_table` (heap and owners); on hosts of several `nodes`, `placement` says where frames come from, `claims` what is promised of them. Then `exchange`, `grants` with
`grant_tables` and `refcounts`, and `messages` with `inbox`. `audit` recomputes everything; `recovery` rebuilds a
machine from its saved sections.
"""

from typing import TYPE_CHECKING

from xbd.lazy import lazily

if TYPE_CHECKING:
    from xbd.machine.domain import DomainState
    from xbd.machine.machine import Machine
    from xbd.machine.settings import HOME_FILLS, TODAYS_XEN, HomeFill, HostSettings
    from xbd.machine.statistics import HostStatistics

__all__ = [
    "HOME_FILLS",
    "TODAYS_XEN",
    "DomainState",
    "HomeFill",
    "HostSettings",
    "HostStatistics",
    "Machine",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "xbd.machine.domain": ("DomainState",),
        "xbd.machine.machine": ("Machine",),
        "xbd.machine.statistics": ("HostStatistics",),
        "xbd.machine.settings": ("HOME_FILLS", "TODAYS_XEN", "HomeFill", "HostSettings"),
    },
)
