"""The NUMA nodes of a host: which superframes are whose, how far they are from each other, and in which order they serve.

A node is a range of superframes; together the nodes are the machine. A *request* says from which nodes its frames may
come, and in which sequence these are asked: a tuple of node numbers. On a host of one node nobody asks: there it is
None, and nothing here is called. `node_index` finds the node of frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from xbd.abi import MAX_NODES
from xbd.errors import BadArgument

# As firmware writes distances: a node's own memory is at 10, and 255 would be out of reach.
LOCAL: Final = 10
FARTHEST: Final = 254
# What a distance is where nobody says it.
REMOTE: Final = 20


@dataclass(frozen=True, slots=True)
class Nodes:
    """The nodes of a host: *superframes* of each, and *distances*, a row for each node; the same in both directions."""

    superframes: tuple[int, ...]
    distances: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        count = len(self.superframes)
        if not 1 <= count <= MAX_NODES or min(self.superframes) < 1:
            raise BadArgument(
                f"nodes of {self.superframes} superframes", f"1 to {MAX_NODES} nodes, each of at least one"
            )
        if not self.distances:
            rows = tuple(tuple(LOCAL if one == other else REMOTE for other in range(count)) for one in range(count))
            object.__setattr__(self, "distances", rows)
        for one, row in enumerate(self.distances):
            if len(row) != count or len(self.distances) != count:
                raise BadArgument(f"distances {row} of node {one}", f"{count}, one to each node")
            for other, distance in enumerate(row):
                least, most = (LOCAL, LOCAL) if one == other else (LOCAL + 1, FARTHEST)
                if not least <= distance <= most or distance != self.distances[other][one]:
                    raise BadArgument(
                        f"distance {distance} from node {one} to node {other}",
                        f"{LOCAL} to itself, else {LOCAL + 1} to {FARTHEST}, the same in both directions",
                    )

    @property
    def count(self) -> int:
        """The number of nodes."""
        return len(self.superframes)

    def nearest_first(self, node: int) -> tuple[int, ...]:
        """List all nodes by their distance from *node*, itself first; of several as far, the lowest number first."""
        return tuple(sorted(range(self.count), key=lambda other: (self.distances[node][other], other)))

    def check(self, node: int) -> int:
        """Refuse the number of a node that there is not: BadArgument."""
        if 0 <= node < self.count:
            return node
        raise BadArgument(
            f"node {node}", f"0 to {self.count - 1}" if self.count > 1 else "0, the only one of this host"
        )


@dataclass(frozen=True, slots=True)
class Affinity:
    """Where a domain's memory should lie: on *nodes*, ascending; none: anywhere. *is_hard*: and nowhere else."""

    nodes: tuple[int, ...] = ()
    is_hard: bool = False

    def sequence(self, nodes: Nodes, *, high_first: bool) -> tuple[int, ...]:
        """Say from which nodes a domain's memory comes, in which sequence: its own, and those near its first one."""
        if not self.nodes:
            every = range(nodes.count)
            return tuple(reversed(every)) if high_first else tuple(every)
        if self.is_hard:
            return self.nodes
        return self.nodes + tuple(one for one in nodes.nearest_first(self.nodes[0]) if one not in self.nodes)


ANYWHERE: Final = Affinity()


def affinity_of(nodes: Nodes, named: Sequence[int], *, is_hard: bool) -> Affinity:
    """Make the affinity to the nodes that are *named*. Raises BadArgument: there is no such node, or it is named twice."""
    for node in named:
        nodes.check(node)
    if len(set(named)) < len(named):
        raise BadArgument(f"nodes {list(named)}", "each once")
    if is_hard and not named:
        raise BadArgument("a hard affinity to no node", "the nodes that the memory may lie on")
    return Affinity(tuple(sorted(named)), is_hard)
