"""Grants and mappings one by one; each step of the smaller ones is also compared with the model."""

import numpy as np
import pytest

from tests.machine.twin import Twin, gfns, offsets
from xbd import abi
from xbd.abi import MAX_GRANTS, MAX_MAPPINGS, Stop
from xbd.machine import Machine
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


@pytest.mark.parametrize("count", [0, 1, 511, 512, 513])
def test_as_many_as_a_turn_and_one_more(twin: Twin, count: int) -> None:
    """Grant, map, unmap and end do up to 512 at once, and what is left over in a second turn."""
    pages, slots = gfns(range(count)), gfns(range(SLOT - 100, SLOT - 100 + count))
    first = min(count, 512)
    done = (first, Stop.BUDGET if count > 512 else None)
    refs = twin.grant(OWNER, pages, MAPPER)
    assert refs.size == first
    refs = np.concatenate((refs, twin.grant(OWNER, pages[first:], MAPPER)))
    if count:
        assert twin.map_grant(MAPPER, OWNER, refs, slots) == done
        assert twin.map_grant(MAPPER, OWNER, refs[first:], slots[first:]) == (count - first, None)
    assert twin.machine.domain_info(OWNER).referenced_pages == count
    assert twin.unmap_grant(MAPPER, slots) == done
    assert twin.unmap_grant(MAPPER, slots[first:]) == (count - first, None)
    assert twin.end_grant(OWNER, refs) == done
    assert twin.end_grant(OWNER, refs[first:]) == (count - first, None)


@pytest.mark.parametrize("order", ["as it is", "backwards", "shuffled"])
def test_lists_in_any_order(twin: Twin, order: str) -> None:
    """References and slots are paired as they stand in the lists, whatever their order."""
    twin.do(OWNER, abi.Store(gfns(range(200)), gfns(range(1, 201)).astype(np.uint64)))
    refs, slots = twin.grant(OWNER, gfns(range(200)), MAPPER), gfns(range(SLOT - 100, SLOT + 100))
    chosen = {
        "as it is": np.arange(200),
        "backwards": np.arange(200)[::-1],
        "shuffled": np.random.default_rng(1).permutation(200),
    }[order]
    twin.map_grant(MAPPER, OWNER, refs[chosen], slots)
    assert twin.load(MAPPER, slots) == [number + 1 for number in chosen.tolist()]
    assert twin.unmap_grant(MAPPER, slots[chosen]) == (200, None)


def test_one_page_granted_twice_is_two_grants(twin: Twin) -> None:
    """The same gfn may be granted to two domains, and to one twice; each grant ends for itself."""
    one, two = twin.grant(OWNER, gfns(5), MAPPER), twin.grant(OWNER, gfns(5), OTHER)
    three = twin.grant(OWNER, gfns(5), MAPPER, readonly=True)
    assert twin.machine.domain_info(OWNER).grants == 3
    assert twin.map_grant(MAPPER, OWNER, one, gfns(SLOT)) == (1, None)
    assert twin.map_grant(OTHER, OWNER, two, gfns(SLOT)) == (1, None)
    twin.store(OTHER, gfns(SLOT), 4)
    assert (twin.load(MAPPER, gfns(SLOT)), twin.load(OWNER, gfns(5))) == ([4], [4])
    assert twin.end_grant(OWNER, three) == (1, None)
    assert twin.unmap_grant(MAPPER, gfns(SLOT)) == (1, None)
    assert twin.end_grant(OWNER, np.concatenate((one, two))) == (1, Stop.EBUSY)


def test_read_only_grants_are_not_mapped_to_write(twin: Twin) -> None:
    """What was granted to read is mapped to read; a mapping to read of what was granted to write does not write."""
    to_read, to_write = twin.grant(OWNER, gfns(5), MAPPER, readonly=True), twin.grant(OWNER, gfns(6), MAPPER)
    assert twin.map_grant(MAPPER, OWNER, to_read, gfns(SLOT)) == (0, Stop.EACCES)
    assert twin.map_grant(MAPPER, OWNER, np.concatenate((to_write, to_read)), gfns(SLOT, SLOT + 1)) == (1, Stop.EACCES)
    refs = np.concatenate((to_read, to_write))
    assert twin.map_grant(MAPPER, OWNER, refs, gfns(SLOT + 1, SLOT + 2), readonly=True) == (2, None)
    assert twin.store(MAPPER, gfns(SLOT, SLOT + 1, 3)) == (1, Stop.EACCES)
    assert twin.store(MAPPER, gfns(SLOT + 2)) == (0, Stop.EACCES)
    assert twin.store(MAPPER, gfns(SLOT + 5, SLOT + 1)) == (0, Stop.EFAULT)
    assert twin.load(MAPPER, gfns(SLOT + 1, SLOT + 2, SLOT, SLOT + 9)) == [0, 7, 7]
    assert twin.load(OWNER, gfns(6)) == [7]


def test_who_may_be_granted_to(twin: Twin) -> None:
    """Nothing is granted to oneself, to nobody, or with a list that makes no sense; the table stays as it was."""
    for to, errno in ((OWNER, "EINVAL"), (9, "ESRCH"), (-1, "ESRCH"), (1 << 40, "ESRCH")):
        assert twin.answer(OWNER, abi.Grant(gfns(5), to)) == errno
    for pages in (gfns(5, 5), gfns(-1), gfns(3 * SUPER_PAGES), gfns(range(100), 50)):
        assert twin.answer(OWNER, abi.Grant(pages, MAPPER)) == "EINVAL"
    assert twin.machine.domain_info(OWNER).grants == 0


def test_who_may_be_mapped_of(twin: Twin) -> None:
    """An owner that is not there, oneself, or one that granted the caller nothing look alike: ESRCH."""
    refs = twin.grant(OWNER, gfns(5), MAPPER)
    for domid, owner in ((OTHER, OWNER), (MAPPER, OTHER), (MAPPER, 9), (OWNER, OWNER), (MAPPER, -1)):
        assert twin.map_grant(domid, owner, refs, gfns(SLOT)) == "ESRCH"
        assert twin.map_grant(domid, owner, gfns(), gfns()) == "ESRCH"
    twin.grant(OWNER, gfns(6), OTHER)
    assert twin.map_grant(OTHER, OWNER, refs, gfns(SLOT)) == (0, Stop.EACCES)


@pytest.mark.parametrize("ref", [-1, -(1 << 63), 1, 700, MAX_GRANTS, 1 << 31, 1 << 62])
def test_bad_references(twin: Twin, ref: int) -> None:
    """A reference that is none is ENOENT, however far it lies outside the table, to map as to end."""
    good = int(twin.grant(OWNER, gfns(5), MAPPER)[0])
    assert twin.map_grant(MAPPER, OWNER, gfns(good, ref), gfns(SLOT, SLOT + 1)) == (1, Stop.ENOENT)
    assert twin.end_grant(OWNER, gfns(ref, good)) == (0, Stop.ENOENT)
    assert twin.end_grant(OTHER, gfns(ref)) == (0, Stop.ENOENT)


def test_a_list_of_references_has_an_end(twin: Twin) -> None:
    """More references in a call than a message holds are EINVAL, to end as to map."""
    refs = np.arange(abi.MAX_EXTENTS + 1, dtype=np.int64)
    twin.grant(OWNER, gfns(5), MAPPER)
    assert twin.end_grant(OWNER, refs) == "EINVAL"
    assert twin.map_grant(MAPPER, OWNER, refs, refs) == "EINVAL"


def test_a_slot_cannot_be_granted_on(twin: Twin) -> None:
    """What a domain maps of another it cannot grant to a third, nor what it has not got."""
    twin.share(OWNER, gfns(5), MAPPER, gfns(SLOT))
    twin.decrease(MAPPER, gfns(7))
    assert twin.answer(MAPPER, abi.Grant(gfns(6, SLOT), OTHER)) == (1, Stop.ENOENT)
    assert twin.answer(MAPPER, abi.Grant(gfns(7), OTHER)) == (0, Stop.ENOENT)


def test_a_granted_page_becomes_a_slot(twin: Twin) -> None:
    """A gfn that was granted, ballooned and then mapped onto is a bad reference: mappings do not chain."""
    refs = twin.grant(MAPPER, gfns(5), OTHER)
    twin.decrease(MAPPER, gfns(5))
    twin.share(OWNER, gfns(5), MAPPER, gfns(5))
    assert twin.map_grant(OTHER, MAPPER, refs, gfns(SLOT)) == (0, Stop.ENOENT)


def test_slots_are_no_pages_of_the_domain(twin: Twin) -> None:
    """A slot counts neither as populated nor against max_pages, and cannot be ballooned, moved or populated."""
    twin.set_max_pages(MAPPER, SUPER_PAGES)
    twin.share(OWNER, gfns(5, 6), MAPPER, gfns(SLOT, SLOT + 1))
    info = twin.machine.domain_info(MAPPER)
    assert (info.tot_pages, info.mapped_grants) == (SUPER_PAGES, 2)
    assert twin.decrease(MAPPER, gfns(0, SLOT)) == (1, Stop.ENOENT)
    assert twin.populate(MAPPER, gfns(0, SLOT)) == (1, Stop.EEXIST)
    assert twin.swap(MAPPER, gfns(SLOT), gfns(3)) == (0, Stop.EEXIST)
    assert twin.swap(MAPPER, gfns(SLOT + 9), gfns(SLOT)) == (0, Stop.ENOENT)
    assert twin.exchange(MAPPER, gfns(3), gfns(SLOT)) == (0, Stop.EEXIST)
    assert twin.unmap_grant(MAPPER, gfns(SLOT, 3)) == (1, Stop.EBADF)


def test_a_whole_block_is_mapped_at_once(twin: Twin) -> None:
    """All of a leaf, granted and mapped, stays a leaf; it comes back to use with the last unmap."""
    twin.share(OWNER, offsets(1), MAPPER, offsets(2))
    twin.store(MAPPER, offsets(2), 5)
    assert (twin.leaves(OWNER), set(twin.load(OWNER, offsets(1)))) == (2, {5})
    assert twin.unmap_grant(MAPPER, offsets(2, range(1, 512))) == (511, None)
    assert twin.decrease(OWNER, gfns(SUPER_PAGES), 9) == (0, Stop.EBUSY)
    assert twin.unmap_grant(MAPPER, offsets(2, range(1))) == (1, None)
    assert twin.populate(MAPPER, gfns(SLOT), 9) == (1, None)


def test_a_reboot_ends_grants_and_mappings(twin: Twin) -> None:
    """A domain that boots again maps nothing and has granted nothing; the other side finds its pages free."""
    theirs = twin.share(OWNER, gfns(5), MAPPER, gfns(SLOT))
    own = twin.grant(MAPPER, gfns(5), OWNER)
    twin.reboot(MAPPER)
    info = twin.machine.domain_info(MAPPER)
    assert (info.grants, info.mapped_grants) == (0, 0)
    assert twin.end_grant(MAPPER, own) == (0, Stop.ENOENT)
    assert twin.populate(MAPPER, gfns(SLOT)) == (1, None)
    # It is the same domain: what was granted to it, it may map again.
    assert twin.map_grant(MAPPER, OWNER, theirs, gfns(SLOT + 1)) == (1, None)


# -- limits


def test_a_grant_table_is_full_at_its_limit() -> None:
    """MAX_GRANTS grants go into a table, one more is ENOSPC, with what came before done; ending some makes room."""
    machine = Machine(70)
    for domid in (OWNER, MAPPER):
        machine.create(f"d{domid}", max_pages=2 * SUPER_PAGES, target_pages=2 * SUPER_PAGES, domid=domid)
    refs = []
    for _ in range(MAX_GRANTS // 512 - 1):
        granted = machine.execute(OWNER, abi.Grant(offsets(0), MAPPER))
        assert isinstance(granted, abi.GrantResult)
        refs.append(granted.refs)
    for count, done in ((500, 500), (100, 12), (1, 0)):
        granted = machine.execute(OWNER, abi.Grant(gfns(range(count)), MAPPER))
        assert isinstance(granted, abi.GrantResult)
        assert (granted.done, granted.stop) == (done, None if done == count else Stop.ENOSPC)
        refs.append(granted.refs)
    everything = np.concatenate(refs)
    assert np.unique(everything).tolist() == list(range(MAX_GRANTS))
    assert machine.domain_info(OWNER).grants == MAX_GRANTS
    assert machine.execute(OWNER, abi.EndGrant(everything[::100])) == abi.MemopResult(everything[::100].size)
    granted = machine.execute(OWNER, abi.Grant(offsets(0), MAPPER))
    assert isinstance(granted, abi.GrantResult)
    assert (granted.done, granted.stop) == (everything[::100].size, Stop.ENOSPC)
    assert machine.audit() == []


def test_a_domain_maps_no_more_than_its_limit() -> None:
    """MAX_MAPPINGS mappings of one domain, then ENOSPC; all of them are references that end with it."""
    machine = Machine(4)
    machine.create("owner", max_pages=SUPER_PAGES, target_pages=SUPER_PAGES, domid=OWNER)
    machine.create(
        "mapper", max_pages=SUPER_PAGES, target_pages=SUPER_PAGES, domid=MAPPER, gfn_count=MAX_MAPPINGS + 2 * SLOT
    )
    granted = machine.execute(OWNER, abi.Grant(offsets(0), MAPPER))
    assert isinstance(granted, abi.GrantResult)
    for first in range(0, MAX_MAPPINGS - 512, 512):
        result = machine.execute(
            MAPPER, abi.MapGrant(OWNER, granted.refs, gfns(range(SLOT + first, SLOT + first + 512)))
        )
        assert result == abi.MemopResult(512)
    slots = gfns(range(SLOT + MAX_MAPPINGS - 512, SLOT + MAX_MAPPINGS + 1))
    refs = np.concatenate((granted.refs, granted.refs[:1]))
    assert machine.execute(MAPPER, abi.MapGrant(OWNER, refs[:500], slots[:500])) == abi.MemopResult(500)
    assert machine.execute(MAPPER, abi.MapGrant(OWNER, refs[500:], slots[500:])) == abi.MemopResult(12, Stop.ENOSPC)
    assert machine.domain_info(MAPPER).mapped_grants == MAX_MAPPINGS
    assert machine.domain_info(OWNER).referenced_pages == 512
    assert machine.audit() == []
    assert machine.destroy(OWNER) == 512
    assert machine.destroy(MAPPER) == 0
    assert machine.take_vanished() == [OWNER]
    assert machine.statistics().free_superframes == 4
    assert machine.audit() == []
