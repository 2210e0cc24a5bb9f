"""Claim sets: promises on nodes and of the whole host, all or nothing, and what redeems, recalls and ends them."""

from contextlib import suppress

import numpy as np
import pytest

from tests.machine.twin import gfns
from xbd.abi import Decrease, MemopResult, Populate, Stop
from xbd.errors import BadArgument, HypercallError, NoSuchDomain, OutOfFrames
from xbd.machine import Machine
from xbd.machine.claims import told
from xbd.machine.nodes import Nodes
from xbd.units import SUPER_PAGES

S = SUPER_PAGES
Entries = list[tuple[int, int | None]]


def two_nodes(target: int = 1) -> tuple[Machine, int, int]:
    """Make a host of two nodes of 4 superframes, with a domain of *target* superframes on each, and room for 6."""
    machine = Machine(8, nodes=Nodes((4, 4)))
    first, second = (
        machine.create(name, max_pages=6 * S, target_pages=target * S, nodes=[node])
        for node, name in enumerate(("first", "second"))
    )
    return machine, first, second


def claims_of(machine: Machine, domid: int) -> Entries:
    """Read a domain's claims back; everything else holds, too."""
    assert machine.audit() == []
    return told(machine.domain(domid))


def test_a_set_replaces_the_one_before_and_is_read_back() -> None:
    """It does not add up; one of nothing clears; what was the domain's own does not stand in its way."""
    machine, first, _ = two_nodes()
    machine.claim_set(first, [(2 * S, 0), (S, None)])
    machine.claim_set(first, [(3 * S, 0), (S, 1)])
    assert claims_of(machine, first) == [(3 * S, 0), (S, 1)]
    assert (machine.host.node_claims, machine.host.claimed_pages) == ([3 * S, S], 4 * S)
    machine.claim_set(first, [])
    assert claims_of(machine, first) == []
    assert (machine.host.node_claims, machine.host.claimed_pages) == ([0, 0], 0)


@pytest.mark.parametrize(
    ("entries", "error", "message"),
    [
        ([(S, 0), (S, 0)], BadArgument, "two claims on node 0"),
        ([(S, None), (S, None)], BadArgument, "two claims of the host"),
        ([(S, 0), (0, 1)], BadArgument, "a claim of 0 pages on node 1"),
        ([(-S, None)], BadArgument, "pages of the host"),
        ([(S, 2)], BadArgument, "node 2"),
        ([(S, -1)], BadArgument, "node -1"),
        ([(3 * S, 0), (3 * S, 1)], BadArgument, "together at most its limit"),
        ([(S, 1), (3 * S + 1, 0)], OutOfFrames, "on node 0"),
        ([(2 * S, 0), (3 * S, None)], OutOfFrames, "in all"),
    ],
)
def test_a_set_that_cannot_be_changes_nothing(entries: Entries, error: type[HypercallError], message: str) -> None:
    """Duplicates, empty entries, nodes that there are not, more than the limit or than is free: refused whole."""
    machine, first, second = two_nodes()
    machine.claim_set(first, [(S, 1)])
    machine.claim_set(second, [(S, None), (1, 0)] if error is OutOfFrames else [])
    before = claims_of(machine, first)
    with pytest.raises(error, match=message):
        machine.claim_set(first, entries)
    assert claims_of(machine, first) == before
    with pytest.raises(NoSuchDomain):
        machine.claim_set(99, [])


def test_nobody_else_gets_what_is_claimed_on_a_node() -> None:
    """Exactly there it stops with ENOMEM; preferred, it goes elsewhere; a domain that needs that node is not made."""
    machine, first, second = two_nodes()
    machine.claim_set(first, [(2 * S, 0)])
    blocks = np.arange(1, 4) * S
    assert machine.execute(second, Populate(blocks, 9, node=0, exact=True)) == MemopResult(1, Stop.ENOMEM)
    assert machine.execute(second, Populate(gfns(5 * S), node=0)) == MemopResult(1)
    assert list(machine.domain_info(second).node_pages) == [S, S + 1]
    with pytest.raises(OutOfFrames):
        machine.create("third", max_pages=S, target_pages=S, nodes=[0], is_hard=True)
    third = machine.create("third", max_pages=S, target_pages=S, nodes=[0])
    assert list(machine.domain_info(third).node_pages) == [0, S]
    assert machine.execute(first, Populate(np.arange(1, 3) * S, 9, node=0, exact=True)) == MemopResult(2)
    assert claims_of(machine, first) == []


def test_the_host_wide_claim_protects_the_whole() -> None:
    """Wherever others take memory, so much stays free."""
    machine, first, second = two_nodes()
    machine.claim_set(first, [(5 * S, None)])
    assert machine.execute(second, Populate(np.arange(1, 4) * S, 9)) == MemopResult(1, Stop.ENOMEM)
    assert machine.execute(second, Populate(gfns(5 * S))) == MemopResult(0, Stop.ENOMEM)
    assert claims_of(machine, first) == [(5 * S, None)]


def test_redemption_is_by_node_then_host_wide_then_by_other_nodes() -> None:
    """Each allocation uses up first what is claimed where it came from."""
    machine, first, _ = two_nodes()
    machine.claim_set(first, [(100, 0), (60, 1), (50, None)])
    machine.execute(first, Populate(gfns(range(S, S + 70)), node=0))
    assert claims_of(machine, first) == [(30, 0), (60, 1), (50, None)]
    machine.execute(first, Populate(gfns(range(2 * S, 2 * S + 60)), node=0))
    assert claims_of(machine, first) == [(60, 1), (20, None)]
    machine.execute(first, Populate(gfns(range(3 * S, 3 * S + 50)), node=0))
    assert claims_of(machine, first) == [(30, 1)]
    machine.execute(first, Decrease(gfns(range(3 * S, 3 * S + 50))))
    assert claims_of(machine, first) == [(30, 1)]


def test_an_allocation_may_be_larger_than_the_claim() -> None:
    """What is unclaimed covers the rest, and no more than that."""
    machine, first, second = two_nodes()
    machine.claim_set(first, [(S, 0)])
    machine.claim_set(second, [(S, 0)])
    assert machine.execute(first, Populate(np.arange(1, 4) * S, 9, node=0, exact=True)) == MemopResult(2, Stop.ENOMEM)
    assert claims_of(machine, first) == []
    assert claims_of(machine, second) == [(S, 0)]


def test_a_lower_limit_takes_back_what_is_beyond_it_host_wide_first() -> None:
    """What a domain holds and claims is never more than its limit."""
    machine, first, _ = two_nodes()
    machine.claim_set(first, [(S, 0), (S, 1), (S, None)])
    machine.set_max_pages(first, 3 * S)
    assert claims_of(machine, first) == [(S, 0), (S, 1)]
    machine.set_max_pages(first, 2 * S - 10)
    assert claims_of(machine, first) == [(S - 10, 1)]
    machine.set_max_pages(first, S // 2)
    assert claims_of(machine, first) == []


def test_the_old_claim_beside_a_set() -> None:
    """It is refused while a set is outstanding, is host-wide, counts what the domain holds, and 0 clears either."""
    machine, first, _ = two_nodes()
    machine.claim_set(first, [(S, 0)])
    with pytest.raises(BadArgument, match="2 MiB are outstanding"):
        machine.claim(first, 3 * S)
    machine.claim(first, 0)
    machine.claim(first, 3 * S)
    assert claims_of(machine, first) == [(2 * S, None)]
    machine.claim_set(first, [(S, 1)])
    assert claims_of(machine, first) == [(S, 1)]
    machine.destroy(first)
    assert (machine.host.node_claims, machine.host.claimed_pages) == ([0, 0], 0)


def test_offlining_recalls_what_does_not_fit_host_wide_first() -> None:
    """What the node cannot keep goes in any case, of the youngest domain first; for the rest host-wide claims pay."""
    machine, first, second = two_nodes()
    machine.claim_set(first, [(S, 0), (2 * S, None)])
    machine.claim_set(second, [(S, 0), (2 * S, 1)])
    assert machine.go_offline(0, S) == {first: S}
    assert claims_of(machine, first) == [(S, 0), (S, None)]
    assert machine.go_offline(0, S) == {second: S}
    assert claims_of(machine, first) == [(S, 0), (S, None)]
    assert claims_of(machine, second) == [(2 * S, 1)]
    with pytest.raises(OutOfFrames, match="2 MiB in superframes"):
        machine.go_offline(0, 2 * S)


def test_what_is_offline_nobody_gets_until_it_is_back() -> None:
    """It is no longer free, owned by nobody, counted, drawn, and serves again when it is online."""
    machine, first, _ = two_nodes()
    machine.go_offline(0, 3 * S)
    assert machine.execute(first, Populate(gfns(S), node=0, exact=True)) == MemopResult(0, Stop.ENOMEM)
    assert machine.statistics().offline_frames == machine.node_statistics()[0].offline_frames == 3 * S
    assert np.count_nonzero(machine.frame_map().kind == 3) == 3
    for node, pages, error in (
        (0, 4 * S, OutOfFrames),
        (1, S, OutOfFrames),
        (0, 100, BadArgument),
        (2, S, BadArgument),
    ):
        with pytest.raises(error):
            machine.come_online(node, pages)
    machine.come_online(0, 3 * S)
    assert machine.execute(first, Populate(np.arange(1, 4) * S, 9, node=0, exact=True)) == MemopResult(3)
    assert claims_of(machine, first) == []


@pytest.mark.parametrize("pages", [0, -S, 100])
def test_only_whole_superframes_go_offline(pages: int) -> None:
    """Anything else is refused, and so is a node that there is not."""
    machine, _, _ = two_nodes()
    with pytest.raises(BadArgument):
        machine.go_offline(0, pages)
    with pytest.raises(BadArgument):
        machine.go_offline(2, S)


def storm(claims: bool, domains: int = 40) -> list[tuple[int, list[int]]]:  # noqa: FBT001 -- both cases of one test
    """Create 40 domains at once on two nodes, built in turns; returns of each what it is to hold, and what lies where.

    Each is promised all of its memory first: on the node that has most of it free and unclaimed, or host-wide. Who is refused is
    destroyed at once.
    """
    machine = Machine(256, nodes=Nodes((128, 128)))
    sizes = np.random.default_rng(24).integers(4, 17, domains).tolist()
    wanted = {}
    for number, blocks in enumerate(sizes):
        free = [node.free_frames - node.claimed_frames for node in machine.node_statistics()]
        node = int(np.argmax(free))
        with suppress(OutOfFrames):
            domid = machine.create(f"guest {number}", max_pages=blocks * S, target_pages=S, nodes=[node])
            try:
                machine.claim_set(domid, [((blocks - 1) * S, node if claims else None)])
                wanted[domid] = blocks
            except OutOfFrames:
                machine.destroy(domid)
    for block in range(1, 16):
        for domid, blocks in wanted.items():
            if block < blocks:
                assert machine.execute(domid, Populate(gfns(block * S), 9)) == MemopResult(1)
    assert machine.audit() == []
    return [(blocks * S, list(machine.domain_info(domid).node_pages)) for domid, blocks in wanted.items()]


def test_a_boot_storm_with_claim_sets_spreads_nobody() -> None:
    """Each domain is wholly on one node or refused; with host-wide claims all are built, too, and some are spread."""
    local, anywhere = storm(claims=True), storm(claims=False)
    assert all(sum(held) == wanted for wanted, held in (*local, *anywhere))
    assert [held for _, held in local if min(held)] == []
    assert [held for _, held in anywhere if min(held)]
    assert len(local) < 40
