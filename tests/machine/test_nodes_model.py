"""Hosts of several nodes against a naive model: random populates, moves, claims, offlining, births and deaths.

`python -m tests.machine.test_nodes_model 1000000` does a million operations.
"""

import sys
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.machine.node_model import ModelDomain, NodeModel
from xbd.abi import Decrease, Exchange, MemopResult, Populate, PopulateDepopulate, Refused, Stop
from xbd.errors import BadArgument, OutOfFrames
from xbd.machine import TODAYS_XEN, HostSettings, Machine
from xbd.machine.claims import Target, told
from xbd.machine.nodes import Nodes
from xbd.units import SUPER_PAGES

S = SUPER_PAGES
NODES = Nodes((2, 3, 2), ((10, 21, 31), (21, 10, 16), (31, 16, 10)))
DOMIDS = (1, 2, 3)
# The model does not say which pages are at home: there it says only from which nodes they may come.
NO_HOMES = replace(HostSettings(), home_fill="never")


class NodeChaos:
    """Does random operations on a host and its model, and compares."""

    def __init__(self, seed: int, settings: HostSettings = NO_HOMES, *, audit_every: int = 1) -> None:
        self.rng = np.random.default_rng(seed)
        self.machine = Machine(sum(NODES.superframes), settings=settings, nodes=NODES)
        self.model = NodeModel(NODES)
        self.audit_every = audit_every
        self.done: dict[str, int] = {}

    def steps(self, count: int) -> None:
        """Do so many operations."""
        for number in range(count):
            self.step()
            self.compare(audited=number % self.audit_every == 0)

    def step(self) -> None:
        """Do one operation."""
        domid = int(self.rng.choice(DOMIDS))
        kinds = {"create": self.create} if domid not in self.model.domains else {
            "populate": self.populate, "decrease": self.decrease, "exchange": self.exchange, "swap": self.swap,
            "claim": self.claim, "old claim": self.old_claim, "limit": self.limit, "offline": self.offline,
            "destroy": self.destroy,
        }  # fmt: skip
        shares = {"populate": 6, "decrease": 4, "exchange": 3, "swap": 2, "claim": 3}
        weights = np.array([shares.get(kind, 1) for kind in kinds], dtype=float)
        kind = str(self.rng.choice(list(kinds), p=weights / weights.sum()))
        self.done[kind] = self.done.get(kind, 0) + 1
        kinds[kind](domid)

    def any_node(self) -> int | None:
        """Choose a node, or none."""
        return None if self.rng.random() < 0.4 else int(self.rng.integers(NODES.count))

    def create(self, domid: int) -> None:
        """Make a domain on some nodes, if they have the memory."""
        nodes = sorted(self.rng.permutation(NODES.count)[: int(self.rng.integers(0, 3))].tolist())
        is_hard = bool(nodes) and self.rng.random() < 0.4
        near = NODES.distances[nodes[0]] if nodes else ()
        every = list(range(NODES.count))
        rest = sorted((node for node in every if node not in nodes), key=lambda one: (near[one], one)) if nodes else []
        if not nodes and self.machine.settings.high_first:
            every.reverse()
        sequence = (*nodes, *([] if is_hard else rest)) if nodes else tuple(every)
        blocks = int(self.rng.integers(1, 3))
        domain = ModelDomain(np.full(4 * S, -1, dtype=np.int64), 4 * S, sequence, self.model.births + 1)
        room = sum(max(self.model.free(node) - self.model.claimed(node), 0) for node in sequence)
        free = sum(map(self.model.free, range(NODES.count))) - self.model.claimed_in_all()
        make = {"max_pages": 4 * S, "target_pages": blocks * S, "nodes": nodes, "is_hard": is_hard, "domid": domid}
        if blocks * S > min(room, free):
            with pytest.raises(OutOfFrames):
                self.machine.create(f"guest {domid}", **make)  # type: ignore[arg-type]  # of several types
            return
        self.machine.create(f"guest {domid}", **make)  # type: ignore[arg-type]  # as above
        self.model.births += 1
        self.model.domains[domid] = domain
        assert self.model.read_back(self.machine, domid).tolist() == list(range(blocks * S))

    def destroy(self, domid: int) -> None:
        """End a domain, now and then."""
        if self.rng.random() < 0.2:
            self.machine.destroy(domid)
            self.model.forget(domid)

    def gfns(self, domid: int, *, populated: bool, order: int = 0) -> NDArray[np.int64]:
        """Choose extents, mostly such as can be populated or decreased."""
        held = self.model.domains[domid].frames >= 0
        if order:
            blocks = held.reshape(-1, S)
            fitting = np.flatnonzero(blocks.all(axis=1) if populated else ~blocks.any(axis=1))
            return self.rng.permutation(fitting)[: int(self.rng.integers(1, 4))] * S
        fitting = np.flatnonzero(held == populated)
        count = int(self.rng.choice((1, 7, 100, 512)))
        first = int(self.rng.integers(0, max(fitting.size - count, 0) + 1))
        chosen = self.rng.permutation(fitting)[:count] if self.rng.random() < 0.2 else fitting[first : first + count]
        if chosen.size > 1 and self.rng.random() < 0.03:
            chosen[-1] = int(self.rng.integers(held.size))
            chosen = np.unique(chosen)
        return chosen.astype(np.int64)

    def populate(self, domid: int) -> None:
        """Populate, preferred or exactly, and compare how far it came and from which nodes."""
        domain, order = self.model.domains[domid], 9 if self.rng.random() < 0.3 else 0
        node = self.any_node()
        exact = node is not None and node in domain.sequence and self.rng.random() < 0.5
        command = Populate(self.gfns(domid, populated=False, order=order), order, node, exact)
        before = domain.frames
        came, stop = self.model.populate(domain, command)
        result = self.machine.execute(domid, command)
        assert result == MemopResult(len(came), stop)
        self.model.read_back(self.machine, domid)
        new = domain.frames[(before < 0) & (domain.frames >= 0)]
        nodes = np.searchsorted(self.model.starts, new, side="right") - 1
        found = np.bincount(nodes, minlength=NODES.count).tolist()
        if self.machine.settings.home_fill == "never" or exact or order:
            assert found == (np.bincount(np.array(came, dtype=np.int64), minlength=NODES.count) << order).tolist()
        assert set(nodes.tolist()) <= set(self.model.request(domain, command))
        self.model.redeem(domain, found)

    def decrease(self, domid: int) -> None:
        """Give extents back."""
        order = 9 if self.rng.random() < 0.3 else 0
        gfns = self.gfns(domid, populated=True, order=order)
        result = self.machine.execute(domid, Decrease(gfns, order))
        assert isinstance(result, MemopResult)
        before = self.model.domains[domid].pages
        self.model.read_back(self.machine, domid)
        assert self.model.domains[domid].pages == before - (result.done << order)

    def pairs(self, domid: int, order: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Choose as many extents that are populated as such that are not."""
        gives, gets = (self.gfns(domid, populated=populated, order=order) for populated in (True, False))
        count = min(gives.size, gets.size)
        return np.unique(gives[:count]), gets[: np.unique(gives[:count]).size]

    def exchange(self, domid: int) -> None:
        """Exchange pages for others of the same nodes, or of one that is named."""
        order = 9 if self.rng.random() < 0.3 else 0
        domain, node = self.model.domains[domid], None if self.rng.random() < 0.6 else self.any_node()
        exact = node is not None and node in domain.sequence and self.rng.random() < 0.5
        gives, gets = self.pairs(domid, order)
        whole = [self.model.whole(one) for one in range(NODES.count)]
        before, unclaimed = (
            domain.frames,
            [self.model.free(one) - self.model.claimed(one) for one in range(NODES.count)],
        )
        result = self.machine.execute(domid, Exchange(gives, gets, order, order, node, exact))
        if isinstance(result, Refused) and result.errno == "EOPNOTSUPP":
            assert not self.machine.settings.exchange_translated
            return
        if not isinstance(result, MemopResult):
            assert np.intersect1d(gives, gets).size or np.unique(gets).size < gets.size
            return
        self.model.read_back(self.machine, domid)
        for given, got in zip(gives[: result.done].tolist(), gets[: result.done].tolist(), strict=True):
            was, now = (self.model.node_of(int(frames[gfn])) for frames, gfn in ((before, given), (domain.frames, got)))
            assert now == node if exact else node is not None or order or now == was
        if result.stop is Stop.ENOMEM and node is None and not order:
            assert self.model.free(self.model.node_of(int(domain.frames[gives[result.done]]))) == 0
        if result.stop is Stop.ENOMEM and exact and not result.done:
            assert min(unclaimed[node or 0] >> order, whole[node or 0] if order else S) <= 0

    def swap(self, domid: int) -> None:
        """Populate and depopulate pairs: each page stays on its node."""
        domain = self.model.domains[domid]
        drains, fills = self.pairs(domid, 0)
        before = domain.frames
        result = self.machine.execute(domid, PopulateDepopulate(fills, drains))
        self.model.read_back(self.machine, domid)
        if isinstance(result, MemopResult):
            for drained, filled in zip(drains[: result.done].tolist(), fills[: result.done].tolist(), strict=True):
                assert self.model.node_of(int(before[drained])) == self.model.node_of(int(domain.frames[filled]))

    def claim(self, domid: int) -> None:
        """Claim a set, often one that cannot be."""
        targets: list[Target] = [None, 0, 1, 2, *([3] if self.rng.random() < 0.05 else [])]
        entries = [
            (int(self.rng.choice((0, 1, 90, S, S + 9, 2 * S), p=(0.03, 0.17, 0.2, 0.3, 0.2, 0.1))), targets[index])
            for index in self.rng.integers(0, len(targets), int(self.rng.integers(0, 4))).tolist()
        ]
        domain = self.model.domains[domid]
        refused = self.model.refusal(domain, entries)
        if refused is not None:
            with pytest.raises(refused):
                self.machine.claim_set(domid, entries)
            return
        self.machine.claim_set(domid, entries)
        domain.claims = {target: pages for pages, target in entries}

    def old_claim(self, domid: int) -> None:
        """Claim in the old form."""
        domain, pages = self.model.domains[domid], int(self.rng.integers(0, 5)) * S
        if pages == 0:
            domain.claims = {}
            self.machine.claim(domid, 0)
            return
        is_refused = bool(domain.claims) or pages <= domain.pages or pages > domain.max_pages
        if is_refused or self.model.refusal(domain, [(pages - domain.pages, None)]):
            with pytest.raises((BadArgument, OutOfFrames)):
                self.machine.claim(domid, pages)
            return
        self.machine.claim(domid, pages)
        domain.claims = {None: pages - domain.pages}

    def limit(self, domid: int) -> None:
        """Set a limit, often below what the domain holds or claims."""
        domain = self.model.domains[domid]
        domain.max_pages = int(self.rng.integers(1, 5)) * S - 50 * int(self.rng.random() < 0.3)
        self.machine.set_max_pages(domid, domain.max_pages)
        self.model.fit(domain)

    def offline(self, _domid: int) -> None:
        """Take superframes of a node out of use, or all back."""
        node = int(self.rng.integers(NODES.count))
        if self.rng.random() < 0.5:
            with suppress(OutOfFrames):
                self.machine.come_online(node, S)
            self.model.read_offline(self.machine, node)
        elif self.model.whole(node):
            lost = self.machine.go_offline(node, S)
            self.model.read_offline(self.machine, node)
            assert lost == self.model.offline(node)
        else:
            with pytest.raises(OutOfFrames):
                self.machine.go_offline(node, S)

    def compare(self, *, audited: bool) -> None:
        """Compare all counts by node, and all claims, with the model; let the machine audit itself."""
        for domid, domain in self.model.domains.items():
            real = self.machine.domain(domid)
            nodes = np.searchsorted(self.model.starts, domain.frames[domain.frames >= 0], side="right") - 1
            assert real.node_pages == np.bincount(nodes, minlength=NODES.count).tolist()
            assert {target: pages for pages, target in told(real)} == domain.claims
            assert real.tot_pages + real.claimed_pages <= max(domain.max_pages, real.tot_pages)
        for node in range(NODES.count):
            free, claimed = self.model.free(node), self.model.claimed(node)
            assert (self.machine.host.free_on(node), self.machine.host.node_claims[node]) == (free, claimed)
            assert claimed <= free
        assert self.machine.host.claimed_pages == self.model.claimed_in_all()
        if audited:
            assert self.machine.audit() == []


@pytest.mark.parametrize("settings", [NO_HOMES, HostSettings(), TODAYS_XEN], ids=["no homes", "homes", "xen"])
@pytest.mark.parametrize("seed", range(2))
def test_random_operations_by_node(seed: int, settings: HostSettings) -> None:
    """Whatever domains, claims and nodes come and go, memory comes from where the model says, and promises hold."""
    chaos = NodeChaos(seed, settings, audit_every=10)
    chaos.steps(700)
    assert len(chaos.done) == 10
    for domid in list(chaos.model.domains):
        chaos.machine.destroy(domid)
    assert chaos.machine.host.node_claims == [0, 0, 0]


def main(count: int, seeds: int = 10) -> None:
    """Do so many operations, divided among some seeds."""
    for seed in range(seeds):
        chaos = NodeChaos(seed, (NO_HOMES, HostSettings())[seed % 2], audit_every=100)
        chaos.steps(count // seeds)
        sys.stdout.write(f"seed {seed}: {sum(chaos.done.values())} operations, {chaos.done}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
