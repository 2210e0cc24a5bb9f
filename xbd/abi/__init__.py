"""What guests and hypervisor say to each other: commands, results, errno names, limits.

A guest asks its hypervisor for something by *yielding a command*; a transport (a socket, a direct call, a
simulation) carries it and returns the result. Both sides import this module, and neither imports the other.

Frame lists are (n,) int64 arrays of extent bases in here; on the wire they travel as
little-endian uint64 (see `xbd.protocol.methods`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xbd.abi.words import *  # noqa: F403 - they are names of this package
from xbd.lazy import lazily

if TYPE_CHECKING:
    from xbd.abi.commands import *  # noqa: F403 - as above
    from xbd.arrays import Frames as Frames
    from xbd.arrays import Words as Words

# Who needs but the words waits neither for these nor for numpy.
__getattr__, __dir__ = lazily(
    __name__,
    {
        "xbd.arrays": ("Frames", "Words"),
        "xbd.abi.commands": (
            "BootInfo",
            "Command",
            "Decrease",
            "Deflate",
            "EndGrant",
            "Exchange",
            "Features",
            "Grant",
            "GrantResult",
            "Inflate",
            "Load",
            "LoadResult",
            "MapGrant",
            "MemopResult",
            "Populate",
            "PopulateDepopulate",
            "Receive",
            "Refused",
            "Result",
            "Send",
            "Store",
            "UnmapGrant",
            "message_header",
            "split_header",
            "split_messages",
        ),
    },
)
