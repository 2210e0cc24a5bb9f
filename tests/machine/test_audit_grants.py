"""The audit of grants and messages must see: each array and counter corrupted by hand is a violation, named."""

from collections.abc import Callable

import numpy as np
import pytest

from tests.machine.twin import gfns
from xbd import abi
from xbd.machine import DomainState, Machine
from xbd.machine.grant_tables import GrantTable, MappingTable
from xbd.machine.inbox import Inbox
from xbd.units import SUPER_PAGES


def machine_in_sharing() -> Machine:
    """Make a host where d2 maps pages of d1, one twice, and of d3, a zombie; what a reboot cut off; and a message."""
    machine = Machine(8)
    for domid, blocks in ((1, 2), (2, 1), (3, 1), (4, 1)):
        pages = blocks * SUPER_PAGES
        machine.create(f"d{domid}", max_pages=pages, target_pages=pages, gfn_count=2048, domid=domid)
    for owner, first in ((1, 1024), (3, 1100), (4, 1200)):
        granted = machine.execute(owner, abi.Grant(gfns(range(5, 10)), 2, readonly=owner == 3))
        assert isinstance(granted, abi.GrantResult)
        slots = gfns(range(first, first + 5))
        machine.execute(2, abi.MapGrant(owner, granted.refs, slots, readonly=owner == 3))
        machine.execute(2, abi.MapGrant(owner, granted.refs[:1], slots[:1] + 20, readonly=True))
    machine.execute(1, abi.Grant(gfns(700), 4))
    machine.execute(1, abi.Send(2, gfns(1, 2).astype("uint64")))
    machine.reboot(4)
    assert machine.destroy(3) == 5
    assert machine.audit() == []
    assert machine.domain_info(2).mapped_grants == 18
    return machine


def _slot_lost(machine: Machine) -> None:
    machine.domain(2).p2m.entry[1024] = 0


def _slot_of_no_mapping(machine: Machine) -> None:
    machine.domain(2).p2m.entry[1500] = -100


def _slots_exchanged(machine: Machine) -> None:
    entry = machine.domain(2).p2m.entry
    entry[1024], entry[1025] = entry[1025], entry[1024]


def _slots_of_a_block(machine: Machine) -> None:
    machine.domain(2).p2m.slots[2] += 1


def _slots_of_an_empty_block(machine: Machine) -> None:
    machine.domain(2).p2m.slots[3] += 1


def _mapped(machine: Machine) -> None:
    machine.domain(2).mapped -= 1


def _mapped_of_none(machine: Machine) -> None:
    machine.domain(1).mapped += 1


def _handle_free(machine: Machine) -> None:
    _mappings(machine).free.give(gfns(3))


def _handle_taken(machine: Machine) -> None:
    _mappings(machine).free.take(1)


def _handle_without_a_slot(machine: Machine) -> None:
    _mappings(machine).gfn[3] = 0


def _mapping_of_another_gfn(machine: Machine) -> None:
    _mappings(machine).gfn[3] += 500


def _mapping_of_another_frame(machine: Machine) -> None:
    _mappings(machine).mfn[3] += 100


def _mapping_of_another_owner(machine: Machine) -> None:
    _mappings(machine).owner[3] = 4


def _mapping_of_nobody(machine: Machine) -> None:
    _mappings(machine).owner[3] = 9


def _mapping_by_another_grant(machine: Machine) -> None:
    _mappings(machine).ref[3] += 1


def _mapping_by_no_grant(machine: Machine) -> None:
    _mappings(machine).ref[3] = 900


def _mapping_cut_off(machine: Machine) -> None:
    _mappings(machine).mfn[3] = 0


def _mapping_to_write(machine: Machine) -> None:
    table = _mappings(machine)
    table.readonly[table.owner == 3] = False


def _grant_to_another(machine: Machine) -> None:
    _grants(machine).to[1] = 4


def _grant_to_an_earlier_domain(machine: Machine) -> None:
    _grants(machine).birth[1] += 1


def _grant_of_another_gfn(machine: Machine) -> None:
    _grants(machine).gfn[1] += 50


def _grant_outside(machine: Machine) -> None:
    _grants(machine).gfn[5] = 2049


def _grant_lost(machine: Machine) -> None:
    _grants(machine).gfn[1] = 0


def _grant_free(machine: Machine) -> None:
    _grants(machine).free.give(gfns(5))


def _grant_taken(machine: Machine) -> None:
    _grants(machine).free.take(1)


def _grant_more_in_use(machine: Machine) -> None:
    _grants(machine).mapped[1] += 1


def _grant_less_in_use(machine: Machine) -> None:
    _grants(machine).mapped[0] -= 1


def _grant_of_nobody_in_use(machine: Machine) -> None:
    _grants(machine).mapped[5] = 1


def _references(machine: Machine) -> None:
    machine.host.references[machine.domain(1).p2m.lookup(gfns(5)) - 1] -= 1


def _references_of_a_free_frame(machine: Machine) -> None:
    machine.host.references[7 * SUPER_PAGES] = 1
    machine.host.pinned[7] = 1


def _references_of_an_unmapped_frame(machine: Machine) -> None:
    machine.host.references[machine.domain(1).p2m.lookup(gfns(11)) - 1] = 1


def _pinned(machine: Machine) -> None:
    machine.host.pinned[0] += 1


def _referenced(machine: Machine) -> None:
    machine.domain(1).referenced -= 1


def _zombie_with_more(machine: Machine) -> None:
    machine.domain(1).state = DomainState.ZOMBIE


def _owner_forgotten(machine: Machine) -> None:
    machine.domain(1).grants = None


def _inbox_words(machine: Machine) -> None:
    _inbox(machine).used_words -= 1


def _inbox_share(machine: Machine) -> None:
    _inbox(machine).shares[1] += 1


def _inbox_share_of_nobody(machine: Machine) -> None:
    _inbox(machine).shares[7] = 3


def _inbox_ring(machine: Machine) -> None:
    _inbox(machine)._ring[0] = abi.message_header(1, 3)


def _mappings(machine: Machine) -> MappingTable:
    table = machine.domain(2).mappings
    assert table is not None
    return table


def _grants(machine: Machine) -> GrantTable:
    table = machine.domain(1).grants
    assert table is not None
    return table


def _inbox(machine: Machine) -> Inbox:
    inbox = machine.domain(2).inbox
    assert inbox is not None
    return inbox


@pytest.mark.parametrize(
    ("corrupt", "named"),
    [
        (_slot_lost, "d2: 18 mappings counted, 17 slots"),
        (_slot_of_no_mapping, "d2: 18 mappings counted"),
        (_slots_exchanged, "a mapping's slot does not point back"),
        (_slots_of_a_block, "the count of slots of a block"),
        (_slots_of_an_empty_block, "the count of slots of a block"),
        (_mapped, "d2: 17 mappings counted"),
        (_mapped_of_none, "d1: 1 mappings counted"),
        (_handle_free, "d2: 18 handles have a slot, 17 are in use"),
        (_handle_taken, "rows"),
        (_handle_without_a_slot, "handles have a slot"),
        (_mapping_of_another_gfn, "a mapping's slot does not point back"),
        (_mapping_of_another_frame, "does not hold where it was granted"),
        (_mapping_of_another_owner, "d2: maps by a grant of d4 that is not there"),
        (_mapping_of_nobody, "d9, which is not there"),
        (_mapping_by_another_grant, "does not hold where it was granted"),
        (_mapping_by_no_grant, "d2: maps by a grant of d1 that is not there"),
        (_mapping_cut_off, "d1: grant 3 counts 1 mappings, there are 0"),
        (_mapping_to_write, "maps to write what d3 granted to read"),
        (_grant_to_another, "maps by a grant of d1 to somebody else"),
        (_grant_to_an_earlier_domain, "maps by a grant of d1 to somebody else"),
        (_grant_of_another_gfn, "does not hold where it was granted"),
        (_grant_outside, "d1: the gfn of a grant lies outside"),
        (_grant_lost, "grants name a page"),
        (_grant_free, "d1: 6 grants name a page, 5 are in use"),
        (_grant_taken, "d1: 6 grants name a page, 7 are in use"),
        (_grant_more_in_use, "d1: grant 1 counts 2 mappings, there are 1"),
        (_grant_less_in_use, "d1: grant 0 counts 1 mappings, there are 2"),
        (_grant_of_nobody_in_use, "d1: grant 5 counts 1 mappings, there are 0"),
        (_references, "a frame's references are not the number of its mappings"),
        (_references_of_a_free_frame, "superframe 0x7: 1 referenced frames counted, 0 are"),
        (_references_of_an_unmapped_frame, "references on frames"),
        (_pinned, "superframe 0x0: 6 referenced frames counted, 5 are"),
        (_referenced, "d1: 4 referenced frames counted, 5 are"),
        (_zombie_with_more, "a zombie holds 1024 pages, 5 of them mapped"),
        (_owner_forgotten, "d1, which is not there or grants nothing"),
        (_inbox_words, "d2: inbox"),
        (_inbox_share, "d2: inbox"),
        (_inbox_share_of_nobody, "d2: inbox"),
        (_inbox_ring, "d2: inbox"),
    ],
)
def test_the_audit_names_each_fault_of_sharing(corrupt: Callable[[Machine], None], named: str) -> None:
    """Whatever is wrong with who maps what, how often, and what waits in an inbox, one violation names it."""
    machine = machine_in_sharing()

    corrupt(machine)

    violations = machine.audit()
    assert any(named in violation for violation in violations), violations


@pytest.mark.parametrize("number", [-3, 1 << 40])
@pytest.mark.parametrize(
    ("table", "column", "named"),
    [
        (_mappings, "gfn", "d2: the slot of a mapping"),
        (_mappings, "mfn", "d2: the frame of a mapping"),
        (_mappings, "ref", "d2: the reference of a mapping"),
        (_grants, "gfn", "d1: the gfn of a grant"),
    ],
)
def test_the_audit_names_what_lies_outside(
    table: Callable[[Machine], MappingTable | GrantTable], column: str, named: str, number: int
) -> None:
    """A number that points out of its table, p2m or host is named, and followed nowhere."""
    machine = machine_in_sharing()

    table(machine).rows[column][3] = min(number, np.iinfo(table(machine).rows[column].dtype).max)

    violations = machine.audit()
    assert any(violation.startswith(named) for violation in violations), violations


def test_the_audit_of_sharing_changes_nothing() -> None:
    """Looking twice gives the same, and the state is as it was."""
    machine = machine_in_sharing()
    before = {name: array.copy() for name, array in machine.image.arrays.items()}

    assert machine.audit() == machine.audit() == []
    assert all((machine.image.arrays[name] == array).all() for name, array in before.items())
