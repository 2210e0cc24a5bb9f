"""The answer to `frames`, read: of each superframe of a host what it is and whose; pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from xbd.errors import RemoteProtocolError

KINDS: Final = ("free", "whole", "shattered", "offline")
FREE, WHOLE, SHATTERED, OFFLINE = range(4)


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """Per superframe: *kind* uint8 (`KINDS`), *owner* uint16 (domid + 1, 0 nobody), *used* uint16 frames."""

    kind: NDArray[np.uint8]
    owner: NDArray[np.uint16]
    used: NDArray[np.uint16]

    def count(self, kind: int) -> int:
        """Count the superframes of one kind."""
        return int(np.count_nonzero(self.kind == kind))


def frames_of(raw: Mapping[str, Any]) -> Frames:
    """Read the answer to `frames`. Raises RemoteProtocolError: it is none."""
    match raw:
        case {"superframes": int(count), "kind": bytes(kind), "owner": bytes(owner), "used": bytes(used)} if (
            len(kind),
            len(owner),
            len(used),
        ) == (count, 2 * count, 2 * count):
            kinds = np.frombuffer(kind, dtype=np.uint8)
            if not count or int(kinds.max()) < len(KINDS):
                return Frames(kinds, np.frombuffer(owner, dtype="<u2"), np.frombuffer(used, dtype="<u2"))
    raise RemoteProtocolError("a frames answer that is none", "{superframes, kind, owner, used}")
