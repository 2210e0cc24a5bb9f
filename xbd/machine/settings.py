"""Settings of a host: which operations it offers, and how its heap and p2m behave."""

from dataclasses import dataclass
from typing import Literal, get_args

HomeFill = Literal["always", "populate_depopulate", "never"]
HOME_FILLS: tuple[str, ...] = get_args(HomeFill)


@dataclass(frozen=True, slots=True)
class HostSettings:
    """Settings of a host; the defaults are xbd's improvements, `TODAYS_XEN` is Xen as it is.

    Attributes:
        populate_depopulate: whether the host has that hypercall.
        exchange_translated: whether XENMEM_exchange works for translated guests (today's Xen: no).
        home_fill: when a hole is filled with the frame that its superframe misses.
        coalesce: whether a block whose 512 entries are all at home becomes a leaf again (`p2m.coalesce`).
        keep_holes: whether nearly whole superframes are spared by requests that have no home.
    """

    populate_depopulate: bool = True
    exchange_translated: bool = True
    home_fill: HomeFill = "always"
    coalesce: bool = True
    keep_holes: bool = True


TODAYS_XEN = HostSettings(
    populate_depopulate=False, exchange_translated=False, home_fill="never", coalesce=False, keep_holes=False
)
