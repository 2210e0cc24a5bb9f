"""Settings of a host: which operations it offers, and how its heap and p2m behave."""

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from xbd.settings import choice, flag

HomeFill = Literal["always", "populate_depopulate", "never"]
HOME_FILLS: tuple[str, ...] = get_args(HomeFill)


@dataclass(frozen=True, slots=True)
class HostSettings:
    """Settings of a host; the defaults are xbd's improvements, `TODAYS_XEN` is Xen as it is."""

    populate_depopulate: Annotated[bool, flag("whether the host has that hypercall")] = True
    exchange_translated: Annotated[
        bool, flag("whether XENMEM_exchange works for translated guests (today's Xen: no)")
    ] = True
    home_fill: Annotated[
        HomeFill, choice("when a hole is filled with the frame that its superframe misses", HOME_FILLS)
    ] = "always"
    coalesce: Annotated[
        bool, flag("whether a block whose 512 entries are all at home becomes one leaf again (Xen: false)")
    ] = True
    keep_holes: Annotated[
        bool, flag("whether nearly whole superframes are spared by requests that have no home (Xen: false)")
    ] = True
    high_first: Annotated[bool, flag("whether the heap hands out its highest frames first (Xen: true)")] = False


TODAYS_XEN = HostSettings(
    populate_depopulate=False,
    exchange_translated=False,
    home_fill="never",
    coalesce=False,
    keep_holes=False,
    high_first=True,
)
