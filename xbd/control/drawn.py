"""A host as it is drawn: the answers to `frames`, `superframe` and `blocks`, a few packed bytes for each part of it."""

from typing import Any

from numpy.typing import NDArray

from xbd.machine import Machine
from xbd.machine.frame_map import block_map, superframe_owners


def tell_frames(machine: Machine) -> dict[str, object]:
    """Tell of each superframe of the host what it is, whose, and how many of its frames are used."""
    drawn = machine.frame_map()
    owner, used = (_packed(part) for part in (drawn.owner, drawn.used))
    return {"superframes": drawn.kind.size, "kind": drawn.kind.tobytes(), "owner": owner, "used": used}


def tell_superframe(machine: Machine, index: int) -> dict[str, object]:
    """Tell whose each frame of one superframe is. Raises HypercallError: there is no such superframe."""
    return {"owner": _packed(superframe_owners(machine.host, index))}


def tell_blocks(machine: Machine, domain: int | str) -> dict[str, object]:
    """Tell of each block of a domain what it is, and how many of its pages are populated or slots. Raises HypercallError."""
    drawn = block_map(machine.domain(machine.find(domain)))
    populated, slots = (_packed(part) for part in (drawn.populated, drawn.slots))
    return {"blocks": drawn.kind.size, "kind": drawn.kind.tobytes(), "populated": populated, "slots": slots}


def _packed(counts: NDArray[Any]) -> bytes:
    """Pack counts, or domids, as uint16, the first byte the least."""
    return counts.astype("<u2", copy=False).tobytes()
