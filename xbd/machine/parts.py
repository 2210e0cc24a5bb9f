"""The classes that a machine is made of: tables that hold its safety mechanisms, each of which can be replaced."""

from dataclasses import dataclass
from typing import Final

from xbd.machine.domain import P2m
from xbd.machine.frame_table import FrameTable
from xbd.machine.grant_tables import GrantTable, MappingTable


@dataclass(frozen=True, slots=True)
class Parts:
    """The classes of a machine's tables; a simulation passes subclasses that lack something, to see that it is missed."""

    frame_table: type[FrameTable] = FrameTable
    p2m: type[P2m] = P2m
    grants: type[GrantTable] = GrantTable
    mappings: type[MappingTable] = MappingTable


PARTS: Final = Parts()
