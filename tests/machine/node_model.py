"""What a host of several nodes must do, said with one array of owners and a dict of claims; nothing is counted ahead.

The model says from which node each extent of a populate comes, one after the other, what that redeems, and what is
refused. Which frame of a node it is it reads back, and holds against what was free.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xbd.abi import Populate, Stop
from xbd.arrays import from_cells
from xbd.errors import BadArgument, OutOfFrames
from xbd.machine import Machine
from xbd.machine.claims import Target
from xbd.machine.nodes import Nodes
from xbd.units import SUPER_PAGES

_OFFLINE = -1


@dataclass
class ModelDomain:
    """A domain: the frame behind each gfn (-1: none), its limit, its nodes in sequence, and what it claims, by target."""

    frames: NDArray[np.int64]
    max_pages: int
    sequence: tuple[int, ...]
    birth: int
    claims: dict[Target, int] = field(default_factory=dict)

    @property
    def pages(self) -> int:
        """Count what it holds."""
        return int((self.frames >= 0).sum())


class NodeModel:
    """A host: who owns each frame (domid + 1, 0 nobody, -1 offline), and its domains."""

    def __init__(self, nodes: Nodes) -> None:
        self.nodes = nodes
        self.starts = [SUPER_PAGES * sum(nodes.superframes[:node]) for node in range(nodes.count + 1)]
        self.owner: NDArray[np.int64] = np.zeros(self.starts[-1], dtype=np.int64)
        self.domains: dict[int, ModelDomain] = {}
        self.births = 0

    def frames_of(self, node: int) -> NDArray[np.int64]:
        """Show the owners of a node's frames."""
        return self.owner[self.starts[node] : self.starts[node + 1]]

    def free(self, node: int) -> int:
        """Count the free frames of a node."""
        return int((self.frames_of(node) == 0).sum())

    def whole(self, node: int) -> int:
        """Count the superframes of a node that are free as a whole."""
        return int((self.frames_of(node).reshape(-1, SUPER_PAGES) == 0).all(axis=1).sum())

    def claimed(self, target: Target, but: ModelDomain | None = None) -> int:
        """Count what all domains, *but* one, claim of a target."""
        return sum(domain.claims.get(target, 0) for domain in self.domains.values() if domain is not but)

    def claimed_in_all(self, but: ModelDomain | None = None) -> int:
        """Count what all domains, *but* one, claim."""
        return sum(sum(domain.claims.values()) for domain in self.domains.values() if domain is not but)

    def node_of(self, frame: int) -> int:
        """Name the node of a frame."""
        return next(node for node in range(self.nodes.count) if frame < self.starts[node + 1])

    # -- claims

    def refusal(self, domain: ModelDomain, entries: Sequence[tuple[int, Target]]) -> type[Exception] | None:
        """Say why a claim set is refused; None: it is not."""
        targets = [target for _, target in entries]
        wanted = sum(pages for pages, _ in entries)
        known = all(target is None or 0 <= target < self.nodes.count for target in targets)
        if len(set(targets)) < len(targets) or any(pages < 1 for pages, _ in entries) or not known:
            return BadArgument
        if domain.pages + wanted > min(domain.max_pages, -(-domain.frames.size // SUPER_PAGES) * SUPER_PAGES):
            return BadArgument
        for pages, target in entries:
            if target is not None and pages > self.free(target) - self.claimed(target, domain):
                return OutOfFrames
        free = sum(map(self.free, range(self.nodes.count)))
        return OutOfFrames if wanted > free - self.claimed_in_all(domain) else None

    def redeem(self, domain: ModelDomain, came: Sequence[int]) -> None:
        """Use claims up for the pages that came from each node."""
        rest = sum(pages - self.lower(domain, (node,), pages) for node, pages in enumerate(came))
        self.lower(domain, (None, *range(self.nodes.count)), rest)

    def lower(self, domain: ModelDomain, targets: Sequence[Target], pages: int) -> int:
        """Take claims back, of targets in sequence; returns how much."""
        taken = 0
        for target in targets:
            used = min(max(pages - taken, 0), domain.claims.get(target, 0))
            if used:
                domain.claims[target] -= used
                taken += used
        domain.claims = {target: left for target, left in domain.claims.items() if left}
        return taken

    def fit(self, domain: ModelDomain) -> None:
        """Take back what a domain claims beyond its limit."""
        most = min(domain.max_pages, -(-domain.frames.size // SUPER_PAGES) * SUPER_PAGES)
        self.lower(
            domain,
            (None, *range(self.nodes.count)),
            sum(domain.claims.values()) + domain.pages - max(most, domain.pages),
        )

    def offline(self, node: int) -> dict[int, int]:
        """Say who loses how many claimed pages, now that so much of a node is offline."""
        lost: dict[int, int] = {}
        youngest = sorted(self.domains, key=lambda domid: -self.domains[domid].birth)
        for domid in youngest:
            over = self.claimed(node) - self.free(node)
            lost[domid] = self.lower(self.domains[domid], (node,), over)
        for domid in youngest:
            over = self.claimed_in_all() - sum(map(self.free, range(self.nodes.count)))
            lost[domid] += self.lower(self.domains[domid], (None,), over)
        return {domid: pages for domid, pages in lost.items() if pages}

    # -- populates

    def request(self, domain: ModelDomain, command: Populate) -> tuple[int, ...]:
        """Say which nodes are asked, in which sequence."""
        if command.node is None:
            return domain.sequence
        if command.exact:
            return (command.node,)
        near = self.nodes.distances[command.node]
        return tuple(sorted(domain.sequence, key=lambda node: (near[node], node)))

    def populate(self, domain: ModelDomain, command: Populate) -> tuple[list[int], Stop | None]:
        """Say from which node each extent comes where no home decides, and what stops it."""
        size = 1 << command.order
        nodes = self.request(domain, command)
        free = {node: self.free(node) for node in nodes}
        whole = {node: self.whole(node) for node in nodes}
        in_all, pages = sum(map(self.free, range(self.nodes.count))), domain.pages
        others = {node: self.claimed(node, domain) for node in nodes}
        others_in_all = self.claimed_in_all(domain)
        came: list[int] = []
        for gfn in command.gfns.tolist():
            if (domain.frames[gfn : gfn + size] >= 0).any():
                return came, Stop.EEXIST
            if pages + size > domain.max_pages:
                return came, Stop.E2BIG
            fitting = [
                node
                for node in nodes
                if free[node] - others[node] >= size and in_all - others_in_all >= size and (size == 1 or whole[node])
            ]
            if not fitting:
                return came, Stop.ENOMEM
            node = fitting[0]
            free[node] -= size
            whole[node] -= size > 1
            in_all, pages = in_all - size, pages + size
            came.append(node)
        return came, None

    # -- reading back

    def read_back(self, machine: Machine, domid: int) -> NDArray[np.int64]:
        """Take what is behind a domain's gfns now; frames that came were free. Returns the gfns that are populated."""
        domain = self.domains[domid]
        gfns: NDArray[Any] = np.arange(domain.frames.size, dtype=np.int64)
        now: NDArray[Any] = from_cells(machine.domain(domid).p2m.lookup(gfns))
        if (now == domain.frames).all():
            return np.flatnonzero(now >= 0)
        self.owner[domain.frames[domain.frames >= 0]] = 0
        held = now[now >= 0]
        assert (self.owner[held] == 0).all(), "a frame came that was not free"
        assert np.unique(held).size == held.size, "a frame came twice"
        self.owner[held] = domid + 1
        domain.frames = now
        return np.flatnonzero(now >= 0)

    def forget(self, domid: int) -> None:
        """End a domain."""
        domain = self.domains.pop(domid)
        self.owner[domain.frames[domain.frames >= 0]] = 0

    def read_offline(self, machine: Machine, node: int) -> None:
        """Take which superframes of a node are offline; they were free, or offline before."""
        mine = machine.host.offline.repeat(SUPER_PAGES)[self.starts[node] : self.starts[node + 1]]
        frames = self.frames_of(node)
        assert ((frames == 0) | (frames == _OFFLINE))[mine].all()
        frames[frames == _OFFLINE] = 0
        frames[mine] = _OFFLINE
