"""The size of the guest that floods its socket; `shell/flooder.py` is its process."""

from typing import Final

from xbd.abi import MAX_EXTENTS

# What its domain holds, and its maximum: the longest calls move as many pages between its two halves.
FLOOD_PAGES: Final = MAX_EXTENTS
FLOOD_MAX_PAGES: Final = 2 * MAX_EXTENTS
