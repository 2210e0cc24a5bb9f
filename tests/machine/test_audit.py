"""The audit must see: each array and counter corrupted by hand is a violation."""

from collections.abc import Callable

import pytest

from tests.machine.twin import gfns
from xbd import abi
from xbd.arrays import MfnKind, SuperKind, from_cells
from xbd.frames import FrameAllocator
from xbd.machine import Machine
from xbd.machine.domain import Domain
from xbd.machine.nodes import Nodes
from xbd.units import SUPER_PAGES

Corruption = Callable[[Machine, Domain], None]


def machine_in_use() -> tuple[Machine, Domain]:
    """Make a host with two domains, leaves, shattered blocks, homes, strays, words, whole and shattered free frames."""
    machine = Machine(8)
    first = machine.create("first", max_pages=2048, target_pages=1024)
    second = machine.create("second", max_pages=1024, target_pages=1024)
    machine.execute(first, abi.Store(gfns(range(1024)), gfns(range(1, 1025)).astype("uint64")))
    machine.execute(first, abi.Decrease(gfns(range(512, 600))))
    machine.execute(first, abi.Populate(gfns(1024 + 3)))
    machine.execute(second, abi.Decrease(gfns(0)))
    assert machine.audit() == []
    domain = machine.domain(first)
    assert domain.p2m.leaf.tolist()[0] > 0 == domain.p2m.leaf[1]
    return machine, domain


def _only_heap(machine: Machine) -> FrameAllocator[MfnKind, SuperKind]:
    heap = machine.host.heap
    assert isinstance(heap, FrameAllocator)
    return heap


def _heap_count(machine: Machine, _: Domain) -> None:
    machine.host.heap.free_count[1] += 1


def _heap_free_frames(machine: Machine, _: Domain) -> None:
    _only_heap(machine).free_frames -= 1


def _used_frame_free(machine: Machine, domain: Domain) -> None:
    machine.host.heap.give(from_cells(domain.p2m.entry[gfns(700)]))


def _free_frame_used(machine: Machine, _: Domain) -> None:
    _only_heap(machine).take(1)


def _free_superframe_used(machine: Machine, _: Domain) -> None:
    _only_heap(machine).take_superframes(1)


def _leaf_free(machine: Machine, domain: Domain) -> None:
    machine.host.heap.give_superframes(domain.p2m.leaf_supers()[:1])


def _frame_owner(machine: Machine, domain: Domain) -> None:
    machine.host.frame_owner[domain.p2m.entry[700] - 1] += 1


def _frame_owner_of_free(machine: Machine, _: Domain) -> None:
    machine.host.frame_owner[512 + 87] = 1


def _whole_owner(machine: Machine, _: Domain) -> None:
    machine.host.whole_owner[0] = 9


def _whole_owner_of_free(machine: Machine, _: Domain) -> None:
    machine.host.whole_owner[7] = 1


def _at_home(machine: Machine, _: Domain) -> None:
    machine.host.at_home[1] -= 1


def _at_home_of_free(machine: Machine, _: Domain) -> None:
    machine.host.at_home[7] = 1


def _unscrubbed(machine: Machine, _: Domain) -> None:
    machine.host.content[512 + 50] = 1


def _populated(_: Machine, domain: Domain) -> None:
    domain.p2m.populated[1] += 1


def _populated_and_counted(_: Machine, domain: Domain) -> None:
    domain.p2m.populated[1] += 1
    domain.tot_pages += 1


def _tot_pages(_: Machine, domain: Domain) -> None:
    domain.tot_pages -= 1


def _leaves(_: Machine, domain: Domain) -> None:
    domain.leaves += 1


def _leaf_moved(_: Machine, domain: Domain) -> None:
    domain.p2m.leaf[0] += SUPER_PAGES


def _leaf_misaligned(_: Machine, domain: Domain) -> None:
    domain.p2m.leaf[0] += 1


def _leaf_outside(_: Machine, domain: Domain) -> None:
    domain.p2m.leaf[0] = 1 + (99 << 9)


def _leaf_twice(_: Machine, domain: Domain) -> None:
    domain.p2m.leaf[3], domain.p2m.home[3] = domain.p2m.leaf[0], domain.p2m.home[0]
    domain.p2m.populated[3] = SUPER_PAGES


def _leaf_not_at_home(_: Machine, domain: Domain) -> None:
    domain.p2m.home[0] = 8


def _home_moved(_: Machine, domain: Domain) -> None:
    domain.p2m.home[1] = 8


def _home_lost(_: Machine, domain: Domain) -> None:
    domain.p2m.home[1] = 0


def _home_of_an_empty_block(_: Machine, domain: Domain) -> None:
    domain.p2m.home[3] = 8


def _home_of_two_blocks(_: Machine, domain: Domain) -> None:
    domain.p2m.home[2] = domain.p2m.home[1]


def _home_outside(_: Machine, domain: Domain) -> None:
    domain.p2m.home[1] = 9


def _home_negative(_: Machine, domain: Domain) -> None:
    domain.p2m.home[1] = -1


def _entry_lost(_: Machine, domain: Domain) -> None:
    domain.p2m.entry[700] = 0


def _entry_elsewhere(_: Machine, domain: Domain) -> None:
    domain.p2m.entry[700] = 7 * SUPER_PAGES


def _entry_outside(_: Machine, domain: Domain) -> None:
    domain.p2m.entry[700] = 1 << 40


def _entry_twice(_: Machine, domain: Domain) -> None:
    domain.p2m.entry[701] = domain.p2m.entry[700]


def _entries_exchanged(_: Machine, domain: Domain) -> None:
    domain.p2m.entry[700], domain.p2m.entry[701] = domain.p2m.entry[701], domain.p2m.entry[700]


def _entry_of_another(machine: Machine, domain: Domain) -> None:
    domain.p2m.entry[700] = machine.domain(2).p2m.entry[5]


def _domain_forgotten(machine: Machine, domain: Domain) -> None:
    del machine._domains[domain.domid]


@pytest.mark.parametrize(
    "corrupt",
    [
        _heap_count,
        _heap_free_frames,
        _used_frame_free,
        _free_frame_used,
        _free_superframe_used,
        _leaf_free,
        _frame_owner,
        _frame_owner_of_free,
        _whole_owner,
        _whole_owner_of_free,
        _at_home,
        _at_home_of_free,
        _unscrubbed,
        _populated,
        _populated_and_counted,
        _tot_pages,
        _leaves,
        _leaf_moved,
        _leaf_misaligned,
        _leaf_outside,
        _leaf_twice,
        _leaf_not_at_home,
        _home_moved,
        _home_lost,
        _home_of_an_empty_block,
        _home_of_two_blocks,
        _home_outside,
        _home_negative,
        _entry_lost,
        _entry_elsewhere,
        _entry_outside,
        _entry_twice,
        _entries_exchanged,
        _entry_of_another,
        _domain_forgotten,
    ],
)
def test_the_audit_sees_each_corruption(corrupt: Corruption) -> None:
    """Nothing that the machine counts or maps can be wrong without a violation, named in a sentence."""
    machine, domain = machine_in_use()

    corrupt(machine, domain)

    violations = machine.audit()
    assert violations
    assert all(isinstance(violation, str) and violation for violation in violations)


def _pages_by_node(_: Machine, domain: Domain) -> None:
    assert domain.by_node is not None
    domain.by_node.pages[:] = domain.by_node.pages[::-1].copy()


def _claims_of_a_node(machine: Machine, _: Domain) -> None:
    machine.host.node_claims = machine.host.node_claims[::-1]


def _claims_beyond_the_limit(_: Machine, domain: Domain) -> None:
    domain.max_pages = domain.tot_pages


def _more_on_nodes_than_in_all(machine: Machine, domain: Domain) -> None:
    domain.node_claims[0] += 60
    machine.host.node_claims[0] += 60


def _claimed_and_not_free(machine: Machine, _: Domain) -> None:
    machine.host.node_heap.take_on(0, machine.host.free_on(0) - 99)


def _offline_and_free(machine: Machine, _: Domain) -> None:
    machine.host.offline[-1] = True


@pytest.mark.parametrize(
    "corrupt",
    [
        _pages_by_node,
        _claims_of_a_node,
        _claims_beyond_the_limit,
        _more_on_nodes_than_in_all,
        _claimed_and_not_free,
        _offline_and_free,
    ],
)
def test_the_audit_sees_what_is_wrong_by_node(corrupt: Corruption) -> None:
    """What a domain holds and claims on each node, and what is offline, is recomputed, too."""
    machine = Machine(8, nodes=Nodes((4, 4)))
    domain = machine.domain(machine.create("guest", max_pages=2048, target_pages=1024, nodes=[0]))
    machine.claim_set(domain.domid, [(100, 0), (50, None)])
    assert machine.audit() == []

    corrupt(machine, domain)

    assert machine.audit()


def test_the_audit_sees_a_leaf_that_should_be() -> None:
    """A block that is wholly at home but still spelt out is a violation where the host coalesces."""
    machine = Machine(2)
    domain = machine.domain(machine.create("guest", max_pages=512, target_pages=512))
    domain.p2m.rows[0] = gfns(range(1, 513))
    domain.p2m.leaf[0] = 0
    domain.leaves = 0
    machine.host.shatter(gfns(0), domain.domid)

    assert machine.audit() == ["a block is wholly at home, but no leaf"]


def test_the_audit_changes_nothing() -> None:
    """Looking twice gives the same, and the state is as it was."""
    machine, _ = machine_in_use()
    before = {name: array.copy() for name, array in machine.image.arrays.items()}

    assert machine.audit() == machine.audit() == []
    assert all((machine.image.arrays[name] == array).all() for name, array in before.items())
