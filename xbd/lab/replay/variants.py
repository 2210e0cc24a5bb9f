"""Variants of a replay: the interface of the guests, and the way in which ballooned pages migrate.

A variant changes what the host offers, never the driver: on a host without `populate_depopulate` a
driver migrates by `exchange`, without that by two calls, and a virtio domain has nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from xbd.abi import DomainType
from xbd.errors import unknown_name
from xbd.machine import HostSettings


@dataclass(frozen=True, slots=True)
class Variant:
    """What a host offers to its guests; None: as its strategy says."""

    domain_type: DomainType | None = None
    populate_depopulate: bool | None = None
    exchange_translated: bool | None = None

    def apply(self, settings: HostSettings) -> HostSettings:
        """Return the host's settings with what this variant changes of them."""
        if self.populate_depopulate is not None:
            settings = replace(settings, populate_depopulate=self.populate_depopulate)
        if self.exchange_translated is not None:
            settings = replace(settings, exchange_translated=self.exchange_translated)
        return settings


AS_THE_STRATEGY_SAYS: Final = "strategy"
VARIANTS: Final[Mapping[str, Variant]] = {
    AS_THE_STRATEGY_SAYS: Variant(),
    "populate_depopulate": Variant(populate_depopulate=True),
    "exchange": Variant(populate_depopulate=False, exchange_translated=True),
    "two_calls": Variant(populate_depopulate=False, exchange_translated=False),
    "virtio": Variant(DomainType.VIRTIO),
}


def find_variant(name: str) -> Variant:
    """Look a variant up by its name. Raises BadArgument: there is none; names a close one and all known ones."""
    variant = VARIANTS.get(name) if isinstance(name, str) else None
    if variant is None:
        raise unknown_name("variant", name, VARIANTS)
    return variant
