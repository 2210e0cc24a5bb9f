"""Published faults of Xen in grants: the analogue of each fails safely here (semantics, section 7).

Each step is also compared with the model, which knows who maps what and how often.
"""

import numpy as np
import pytest

from tests.machine.compare import frames_of
from tests.machine.twin import Twin, gfns, offsets
from xbd import abi
from xbd.abi import Stop
from xbd.machine import DomainState, HostSettings, Machine
from xbd.units import SUPER_PAGES

OWNER, MAPPER, OTHER = 1, 2, 3
SLOT = 2 * SUPER_PAGES


@pytest.fixture
def twin() -> Twin:
    """Make a host of eight superframes with an owner of two blocks and two others of one, which may grow to three."""
    made = Twin(8)
    made.create(2, most=3, domid=OWNER)
    made.create(1, most=3, domid=MAPPER)
    made.create(1, most=3, domid=OTHER)
    return made


def test_xsa_149_no_memory_is_lost_each_time_a_domain_goes(twin: Twin) -> None:
    """Whether the owner or the mappings of its pages go first, time after time: all frames and arrays come back."""
    machine = twin.machine
    free = machine.statistics().free_frames
    twin.share(OWNER, gfns(0), MAPPER, gfns(SLOT))
    # The mapper is told of each end.
    arrays = {*machine.image.arrays, "domain.2.inbox"}
    for turn in range(6):
        twin.create(1, domid=4)
        twin.share(4, gfns(3, 4), MAPPER, gfns(SLOT + 1, SLOT + 2))
        if turn % 3 == 0:
            twin.unmap_grant(MAPPER, gfns(SLOT + 1, SLOT + 2))
            assert twin.destroy(4) == 0
        else:
            assert twin.destroy(4) == 2
            assert machine.domain_info(4).state == DomainState.ZOMBIE
            assert machine.statistics().free_frames == free - 2
            twin.unmap_grant(MAPPER, gfns(SLOT + 2, SLOT + 1))
        assert machine.statistics().free_frames == free
        assert set(machine.image.arrays) <= arrays


def test_xsa_149_a_mapper_that_goes_lets_go_of_everything(twin: Twin) -> None:
    """The end of a domain ends its mappings: a zombie that only it kept is gone with it, other owners are free."""
    twin.share(OWNER, gfns(5), MAPPER, gfns(SLOT))
    twin.share(OTHER, gfns(5), MAPPER, gfns(SLOT + 1))
    assert twin.destroy(OTHER) == 1
    assert twin.destroy(MAPPER) == 0
    assert twin.machine.domains() == [OWNER]
    assert twin.decrease(OWNER, gfns(5)) == (1, None)
    assert twin.machine.statistics().free_frames == 6 * SUPER_PAGES + 1


def test_xsa_217_a_mapped_page_does_not_move_to_another_domain(twin: Twin) -> None:
    """No operation takes a frame from its owner while another reaches it, so that no third can get it."""
    twin.share(OWNER, gfns(5), MAPPER, gfns(SLOT))
    assert twin.decrease(OWNER, gfns(4, 5, 6)) == (1, Stop.EBUSY)
    assert twin.decrease(OWNER, gfns(0), 9) == (0, Stop.ENOENT)
    assert twin.exchange(OWNER, gfns(5), gfns(SLOT)) == (0, Stop.EBUSY)
    assert twin.swap(OWNER, gfns(SLOT), gfns(5)) == (0, Stop.EBUSY)
    assert twin.destroy(OWNER) == 1
    frame = twin.model.domains[MAPPER].slots[SLOT].frame
    twin.populate(OTHER, offsets(1))
    twin.populate(OTHER, offsets(2))
    assert frame not in frames_of(twin.machine, OTHER)


@pytest.mark.parametrize("coalesce", [False, True])
def test_xsa_217_a_superpage_with_a_mapped_page_does_not_move(*, coalesce: bool) -> None:
    """An order-9 extent with one mapped page stays where it is, leaf or spelt out in 512 pages."""
    twin = Twin(8, HostSettings(coalesce=coalesce))
    twin.create(2, most=3, domid=OWNER)
    twin.create(1, most=3, domid=MAPPER)
    twin.decrease(OWNER, gfns(SUPER_PAGES))
    twin.populate(OWNER, gfns(SUPER_PAGES))
    assert twin.leaves(OWNER) == 1 + coalesce
    twin.share(OWNER, gfns(SUPER_PAGES + 511), MAPPER, gfns(SLOT))
    assert twin.exchange(OWNER, gfns(SUPER_PAGES), gfns(SLOT), 9) == (0, Stop.EBUSY)
    assert twin.swap(OWNER, gfns(SLOT), gfns(SUPER_PAGES), 9) == (0, Stop.EBUSY)
    assert twin.decrease(OWNER, gfns(0, SUPER_PAGES), 9) == (1, Stop.EBUSY)
    twin.unmap_grant(MAPPER, gfns(SLOT))
    assert twin.decrease(OWNER, gfns(SUPER_PAGES), 9) == (1, None)


def test_xsa_218_and_228_a_second_unmap_takes_nothing_away(twin: Twin) -> None:
    """A mapping ends once; naming it twice in a call, or again, takes no second reference."""
    refs = twin.share(OWNER, gfns(5, 6), MAPPER, gfns(SLOT, SLOT + 1))
    assert twin.unmap_grant(MAPPER, gfns(SLOT, SLOT)) == "EINVAL"
    assert twin.unmap_grant(MAPPER, gfns(SLOT)) == (1, None)
    assert twin.unmap_grant(MAPPER, gfns(SLOT)) == (0, Stop.EBADF)
    assert twin.unmap_grant(MAPPER, gfns(SLOT + 1, SLOT)) == (1, Stop.EBADF)
    assert twin.end_grant(OWNER, refs) == (2, None)


def test_xsa_228_a_slot_used_again_is_a_new_mapping(twin: Twin) -> None:
    """A slot, and its handle, used again for another owner's page ends that mapping, and not the former one."""
    first = twin.share(OWNER, gfns(5), MAPPER, gfns(SLOT))
    twin.unmap_grant(MAPPER, gfns(SLOT))
    second = twin.share(OTHER, gfns(5), MAPPER, gfns(SLOT))
    twin.map_grant(MAPPER, OWNER, first, gfns(SLOT + 1))
    assert twin.unmap_grant(MAPPER, gfns(SLOT)) == (1, None)
    assert twin.end_grant(OTHER, second) == (1, None)
    assert twin.end_grant(OWNER, first) == (0, Stop.EBUSY)


def test_xsa_224_and_230_references_are_counted_exactly(twin: Twin) -> None:
    """A frame mapped three times by two grants, even in one list, is in use until the third unmap, and free after it."""
    one, two = twin.grant(OWNER, gfns(5), MAPPER), twin.grant(OWNER, gfns(5), MAPPER, readonly=True)
    assert twin.map_grant(MAPPER, OWNER, np.repeat(one, 2), gfns(SLOT, SLOT + 1)) == (2, None)
    assert twin.map_grant(MAPPER, OWNER, two, gfns(SLOT + 2), readonly=True) == (1, None)
    for slot in range(SLOT, SLOT + 3):
        assert twin.machine.domain_info(OWNER).referenced_pages == 1
        assert twin.decrease(OWNER, gfns(5)) == (0, Stop.EBUSY)
        assert twin.end_grant(OWNER, two) == (0, Stop.EBUSY)
        assert twin.unmap_grant(MAPPER, gfns(slot)) == (1, None)
    assert twin.machine.domain_info(OWNER).referenced_pages == 0
    assert twin.decrease(OWNER, gfns(5)) == (1, None)


def test_xsa_224_and_230_one_unmap_of_all_counts_each(twin: Twin) -> None:
    """One call that ends many mappings of the same frame takes as many references away as there were."""
    refs = np.repeat(twin.grant(OWNER, gfns(5, 6), MAPPER), 50)
    slots = gfns(range(SLOT, SLOT + 100))
    twin.map_grant(MAPPER, OWNER, refs, slots)
    assert twin.unmap_grant(MAPPER, slots[1:99]) == (98, None)
    assert twin.decrease(OWNER, gfns(5)) == (0, Stop.EBUSY)
    assert twin.unmap_grant(MAPPER, slots[:1]) == (1, None)
    assert twin.decrease(OWNER, gfns(5, 6)) == (1, Stop.EBUSY)
    assert twin.destroy(OWNER) == 1


def test_xsa_235_and_316_a_map_that_stops_leaves_nothing_half_mapped(twin: Twin) -> None:
    """A list that stops keeps what came before and nothing of what stopped it; a refused one changes nothing."""
    refs = twin.grant(OWNER, gfns(5, 6), MAPPER, readonly=True)
    assert twin.map_grant(MAPPER, OWNER, refs, gfns(SLOT, SLOT + 1)) == (0, Stop.EACCES)
    bad = gfns(int(refs[0]), abi.MAX_GRANTS - 1)
    assert twin.map_grant(MAPPER, OWNER, bad, gfns(SLOT, SLOT + 1), readonly=True) == (1, Stop.ENOENT)
    assert twin.map_grant(MAPPER, OWNER, refs, gfns(SLOT + 1, 0), readonly=True) == (1, Stop.EEXIST)
    assert twin.map_grant(MAPPER, OWNER, refs, gfns(SLOT + 2, SLOT + 2), readonly=True) == "EINVAL"
    assert twin.map_grant(MAPPER, OWNER, refs, gfns(SLOT + 2, 3 * SUPER_PAGES), readonly=True) == "EINVAL"
    assert twin.map_grant(MAPPER, OWNER, refs[:1], gfns(SLOT + 2, SLOT + 3), readonly=True) == "EINVAL"
    assert twin.machine.domain_info(MAPPER).mapped_grants == 2
    assert twin.end_grant(OWNER, refs[::-1].copy()) == (1, Stop.EBUSY)


def test_xsa_235_and_316_other_calls_that_stop_leave_nothing_behind(twin: Twin) -> None:
    """The same mistakes made twice are answered alike: grant, end and unmap stop with what came before done."""
    twin.decrease(OWNER, gfns(9))
    for _ in range(2):
        result = twin.do(OWNER, abi.Grant(gfns(8, 9, 10), MAPPER))
        assert isinstance(result, abi.GrantResult)
        assert (result.done, result.stop, result.refs.size) == (1, Stop.ENOENT, 1)
        assert twin.end_grant(OWNER, gfns(int(result.refs[0]), 77)) == (1, Stop.ENOENT)
        assert twin.end_grant(OWNER, gfns(3, 3)) == "EINVAL"
        assert twin.unmap_grant(MAPPER, gfns(SLOT, 3)) == (0, Stop.EBADF)
    assert twin.machine.domain_info(OWNER).grants == 0


def test_xsa_287_exchange_does_not_steal_a_page_in_use(twin: Twin) -> None:
    """Exchange stops at the page that is mapped elsewhere, whole chunks before it done; both still reach the same word."""
    twin.share(OWNER, gfns(300), MAPPER, gfns(SLOT))
    assert twin.exchange(OWNER, gfns(range(299, 310)), gfns(range(SLOT, SLOT + 11))) == (1, Stop.EBUSY)
    twin.store(MAPPER, gfns(SLOT), 9)
    assert twin.load(OWNER, gfns(300)) == [9]
    assert twin.exchange(MAPPER, gfns(5), gfns(SLOT)) == (0, Stop.EEXIST)
    assert twin.exchange(MAPPER, gfns(SLOT), gfns(600)) == (0, Stop.ENOENT)


def test_xsa_318_shared_pages_go_on_where_a_turn_ended(twin: Twin) -> None:
    """What BUDGET reports as done is done and the rest is not: going on from there does each one once."""
    pages, slots = gfns(range(2 * SUPER_PAGES)), gfns(range(SUPER_PAGES, 3 * SUPER_PAGES))
    refs = twin.grant(OWNER, pages, MAPPER)
    assert refs.size == 512
    assert twin.map_grant(MAPPER, OWNER, np.concatenate((refs, refs[:1])), slots[:513]) == (512, Stop.BUDGET)
    assert twin.map_grant(MAPPER, OWNER, refs[:1], slots[512:513]) == (1, None)
    assert twin.unmap_grant(MAPPER, slots[:513]) == (512, Stop.BUDGET)
    assert twin.end_grant(OWNER, np.concatenate((refs[1:], refs[:1]))) == (511, Stop.EBUSY)
    assert twin.unmap_grant(MAPPER, slots[512:513]) == (1, None)
    assert twin.end_grant(OWNER, refs[:1]) == (1, None)
    assert twin.machine.domain_info(MAPPER).extents == {"map_grant": 513, "unmap_grant": 513}
    assert twin.machine.domain_info(OWNER).extents == {"grant": 512, "end_grant": 512}


def test_xsa_45_150_and_380_no_call_on_grants_runs_for_long() -> None:
    """However much a call names, one turn of grant, map, unmap or end does 512 and says BUDGET."""
    machine = Machine(140)
    machine.create("owner", max_pages=65_536, target_pages=65_536, domid=OWNER)
    machine.create("mapper", max_pages=131_072, target_pages=512, domid=MAPPER)
    everything = np.arange(65_536, dtype=np.int64)
    refs = []
    for turn in range(8):
        granted = machine.execute(OWNER, abi.Grant(everything[turn * 512 :], MAPPER))
        assert isinstance(granted, abi.GrantResult)
        assert (granted.done, granted.stop) == (512, Stop.BUDGET)
        refs.append(granted.refs)
    slots = everything + 65_536
    for domid, command in (
        (MAPPER, abi.MapGrant(OWNER, np.resize(np.concatenate(refs), 65_536), slots)),
        (MAPPER, abi.UnmapGrant(slots)),
        (OWNER, abi.EndGrant(np.concatenate(refs))),
    ):
        result = machine.execute(domid, command)
        assert isinstance(result, abi.MemopResult)
        assert (result.done, result.stop) == (512, Stop.BUDGET)
    assert machine.audit() == []


def test_xsa_379_and_387_a_slot_that_was_unmapped_reaches_nothing(twin: Twin) -> None:
    """After an unmap the slot reaches no frame, and can be populated with a frame of its own that reads zero."""
    twin.store(OWNER, gfns(5))
    twin.share(OWNER, gfns(5), MAPPER, gfns(SLOT))
    assert twin.load(MAPPER, gfns(SLOT)) == [7]
    twin.unmap_grant(MAPPER, gfns(SLOT))
    assert twin.load(MAPPER, gfns(SLOT)) == []
    assert twin.store(MAPPER, gfns(SLOT)) == (0, Stop.EFAULT)
    assert twin.populate(MAPPER, gfns(SLOT)) == (1, None)
    assert twin.load(MAPPER, gfns(SLOT)) == [0]


def test_xsa_379_and_387_a_reboot_cuts_others_off(twin: Twin) -> None:
    """After its owner's reboot a slot stays taken, reaches nothing, and holds none of the owner's pages up."""
    twin.share(OWNER, gfns(5, 6), MAPPER, gfns(SLOT, SLOT + 1), readonly=True)
    twin.reboot(OWNER)
    assert twin.load(MAPPER, gfns(SLOT)) == []
    assert twin.store(MAPPER, gfns(SLOT)) == (0, Stop.EFAULT)
    assert twin.populate(MAPPER, gfns(SLOT)) == (0, Stop.EEXIST)
    assert twin.decrease(OWNER, gfns(6)) == (1, None)
    again = twin.share(OWNER, gfns(5), MAPPER, gfns(SLOT + 2))
    assert twin.unmap_grant(MAPPER, gfns(SLOT, SLOT + 1)) == (2, None)
    assert twin.end_grant(OWNER, again) == (0, Stop.EBUSY)


def test_xsa_379_and_387_what_was_granted_to_a_number_dies_with_its_domain(twin: Twin) -> None:
    """A domain that gets the number of a gone one maps nothing that was granted to that."""
    refs = twin.grant(OWNER, gfns(5), MAPPER)
    twin.destroy(MAPPER)
    twin.create(1, most=3, domid=MAPPER)
    assert twin.map_grant(MAPPER, OWNER, refs, gfns(SLOT)) == "ESRCH"
    twin.grant(OWNER, gfns(6), MAPPER)
    assert twin.map_grant(MAPPER, OWNER, refs, gfns(SLOT)) == (0, Stop.EACCES)


def test_xsa_379_and_387_a_granted_page_that_was_ballooned_is_a_bad_reference(twin: Twin) -> None:
    """A grant names a gfn: unbacked it maps nothing, backed anew it maps the new frame, and never the old one."""
    twin.store(OWNER, gfns(5))
    refs = twin.grant(OWNER, gfns(5), MAPPER)
    twin.exchange(OWNER, gfns(5), gfns(SLOT))
    assert twin.map_grant(MAPPER, OWNER, refs, gfns(SLOT)) == (0, Stop.ENOENT)
    twin.populate(OWNER, gfns(5))
    assert twin.map_grant(MAPPER, OWNER, refs, gfns(SLOT)) == (1, None)
    assert twin.load(MAPPER, gfns(SLOT)) == [0]


def test_xsa_388_and_389_a_leaf_with_a_mapped_page_is_changed_around_it(twin: Twin) -> None:
    """A leaf of which one page is mapped gives up its other pages by 4 KiB, up to that one; it stays what it is."""
    twin.share(OWNER, gfns(5), MAPPER, gfns(SLOT))
    twin.store(OWNER, gfns(5), 8)
    assert twin.leaves(OWNER) == 2
    assert twin.decrease(OWNER, offsets(0)) == (5, Stop.EBUSY)
    assert twin.decrease(OWNER, offsets(0, range(6, 512))) == (506, None)
    assert twin.load(MAPPER, gfns(SLOT)) == [8]
    assert twin.populate(OWNER, offsets(0, range(5), range(6, 512))) == (511, None)
    assert twin.leaves(OWNER) == 2
    assert twin.load(MAPPER, gfns(SLOT)) == [8]


def test_xsa_388_and_389_slots_keep_a_superpage_out_of_their_block(twin: Twin) -> None:
    """A block with one slot in use gets no 2 MiB extent by any operation, and its other gfns get single pages."""
    twin.share(OWNER, gfns(5), MAPPER, gfns(SLOT + 511))
    assert twin.populate(MAPPER, gfns(SUPER_PAGES, SLOT), 9) == (1, Stop.EEXIST)
    assert twin.exchange(MAPPER, gfns(0), gfns(SLOT), 9) == (0, Stop.EEXIST)
    assert twin.swap(MAPPER, gfns(SLOT), gfns(0), 9) == (0, Stop.EEXIST)
    assert twin.decrease(MAPPER, gfns(SLOT), 9) == (0, Stop.ENOENT)
    assert twin.populate(MAPPER, offsets(2)) == (511, Stop.EEXIST)
    assert twin.decrease(MAPPER, gfns(SLOT), 9) == (0, Stop.ENOENT)
    assert twin.leaves(MAPPER) == 2
