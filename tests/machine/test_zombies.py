"""What is left of a destroyed domain while others map pages of it."""

import pytest

from tests.machine.twin import Twin, gfns, offsets
from xbd import abi
from xbd.abi import Stop
from xbd.errors import AlreadyExists, NoSuchDomain
from xbd.machine import DomainState
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


def test_a_zombie_is_listed_with_what_others_map(twin: Twin) -> None:
    """It holds just those pages, the rest is free at once; it is in the list, not among the living."""
    free = twin.machine.statistics().free_frames
    twin.share(OWNER, gfns(5, 600), MAPPER, gfns(SLOT, SLOT + 1))
    assert twin.destroy(OWNER) == 2
    info = twin.machine.domain_info(OWNER)
    assert (info.state, info.tot_pages, info.referenced_pages) == (DomainState.ZOMBIE, 2, 2)
    assert (info.name, info.leaves) == ("guest 1", 0)
    assert twin.machine.domains() == [OWNER, MAPPER, OTHER]
    assert twin.machine.living_domains() == [MAPPER, OTHER]
    assert twin.machine.statistics().free_frames == free + 2 * SUPER_PAGES - 2


def test_a_domain_that_is_granted_but_not_mapped_is_gone_at_once(twin: Twin) -> None:
    """Grants that nobody has mapped keep nothing; what the dead domain mapped is let go of."""
    twin.grant(OWNER, gfns(5), MAPPER)
    theirs = twin.share(MAPPER, gfns(5), OWNER, gfns(SLOT))
    assert twin.destroy(OWNER) == 0
    assert twin.machine.domains() == [MAPPER, OTHER]
    assert twin.machine.take_vanished() == []
    assert twin.end_grant(MAPPER, theirs) == (1, None)


def test_its_name_is_free_and_its_number_is_not(twin: Twin) -> None:
    """Another domain may have its name, and nobody its number until it is gone; only its number finds it."""
    twin.share(OWNER, gfns(5), MAPPER, gfns(SLOT))
    twin.destroy(OWNER)
    machine = twin.machine
    with pytest.raises(NoSuchDomain):
        machine.find("guest 1")
    assert machine.find("1") == machine.find(1) == OWNER
    with pytest.raises(AlreadyExists):
        machine.create("other", max_pages=SUPER_PAGES, target_pages=SUPER_PAGES, domid=OWNER)
    assert machine.create("guest 1", max_pages=SUPER_PAGES, target_pages=SUPER_PAGES) == 4
    assert machine.find("guest 1") == 4
    machine.execute(MAPPER, abi.UnmapGrant(gfns(SLOT)))
    assert machine.find("guest 1") == 4
    assert machine.create("again", max_pages=SUPER_PAGES, target_pages=SUPER_PAGES, domid=OWNER) == OWNER
    assert machine.audit() == []


def test_its_end_is_told_once(twin: Twin) -> None:
    """A zombie vanishes with the last of its mappings, whoever had that, and that is told once."""
    twin.share(OWNER, gfns(5, 6), MAPPER, gfns(SLOT, SLOT + 1))
    twin.share(OWNER, gfns(6), OTHER, gfns(SLOT))
    assert twin.destroy(OWNER) == 2
    machine = twin.machine
    machine.execute(MAPPER, abi.UnmapGrant(gfns(SLOT, SLOT + 1)))
    assert machine.domain_info(OWNER).tot_pages == 1
    assert (machine.take_vanished(), machine.has_news) == ([], True)
    machine.take_woken()
    news = [machine.has_news]
    machine.execute(OTHER, abi.UnmapGrant(gfns(SLOT)))
    news.append(machine.has_news)
    assert news == [False, True]
    assert (machine.take_vanished(), machine.take_vanished()) == ([OWNER], [])
    assert machine.domains() == [MAPPER, OTHER]
    assert machine.audit() == []


def test_it_does_nothing_and_nothing_is_done_to_it(twin: Twin) -> None:
    """Every operation by it or on it is ESRCH, and changes nothing."""
    refs = twin.share(OWNER, gfns(5), MAPPER, gfns(SLOT))
    twin.destroy(OWNER)
    for command in (
        *(abi.Populate(gfns(7)), abi.Decrease(gfns(5)), abi.Load(gfns(5)), abi.Grant(gfns(5), MAPPER)),
        *(abi.EndGrant(refs), abi.UnmapGrant(gfns(SLOT)), abi.Receive(), abi.Inflate(gfns(5))),
        abi.Send(MAPPER, gfns(1).astype("uint64")),
    ):
        result = twin.machine.execute(OWNER, command)
        assert isinstance(result, abi.Refused)
        assert result.errno == "ESRCH"
    assert twin.map_grant(MAPPER, OWNER, refs, gfns(SLOT + 1)) == "ESRCH"
    assert twin.answer(MAPPER, abi.Grant(gfns(5), OWNER)) == "ESRCH"
    sent = twin.machine.execute(MAPPER, abi.Send(OWNER, gfns(1).astype("uint64")))
    assert isinstance(sent, abi.Refused)
    assert sent.errno == "ESRCH"
    for operation in (twin.machine.destroy, twin.machine.reboot, twin.machine.boot_info, twin.machine.living):
        with pytest.raises(NoSuchDomain, match="4 KiB of it are still mapped"):
            operation(OWNER)
    for setting in (twin.machine.set_target, twin.machine.set_max_pages):
        with pytest.raises(NoSuchDomain):
            setting(OWNER, SUPER_PAGES)


def test_its_pages_are_read_and_written_until_they_are_let_go(twin: Twin) -> None:
    """Who maps a page of a dead domain goes on with it; let go, the frame is scrubbed before another has it."""
    twin.store(OWNER, gfns(5), 9)
    twin.share(OWNER, gfns(5), MAPPER, gfns(SLOT))
    twin.destroy(OWNER)
    assert twin.load(MAPPER, gfns(SLOT)) == [9]
    assert twin.store(MAPPER, gfns(SLOT), 8) == (1, None)
    assert twin.load(MAPPER, gfns(SLOT)) == [8]
    twin.unmap_grant(MAPPER, gfns(SLOT))
    assert not twin.machine.host.content.any()


@pytest.mark.parametrize("letting_go", [1, 511, 512])
def test_a_block_that_is_wholly_mapped_stays_a_leaf(twin: Twin, letting_go: int) -> None:
    """A zombie's superpage of which every page is mapped is a leaf until the first of them is let go."""
    twin.share(OWNER, offsets(1), MAPPER, offsets(2))
    assert twin.destroy(OWNER) == SUPER_PAGES
    assert twin.leaves(OWNER) == 1
    assert twin.unmap_grant(MAPPER, offsets(2, range(letting_go))) == (letting_go, None)
    if letting_go == SUPER_PAGES:
        assert twin.machine.domains() == [MAPPER, OTHER]
    else:
        info = twin.machine.domain_info(OWNER)
        assert (info.leaves, info.tot_pages) == (0, SUPER_PAGES - letting_go)


def test_zombies_go_with_the_domain_that_kept_them(twin: Twin) -> None:
    """One domain's end, or reboot, lets go of all the zombies that only it kept; each is told once."""
    twin.share(OWNER, gfns(5), MAPPER, gfns(SLOT))
    twin.share(OTHER, gfns(5), MAPPER, gfns(SLOT + 1))
    assert (twin.machine.destroy(OWNER), twin.machine.destroy(OTHER)) == (1, 1)
    twin.machine.reboot(MAPPER)
    assert sorted(twin.machine.take_vanished()) == [OWNER, OTHER]
    assert twin.machine.domains() == [MAPPER]
    assert twin.machine.audit() == []


def test_two_that_map_each_other_leave_nothing(twin: Twin) -> None:
    """Of two domains that map each other's pages the first to go is a zombie until the second goes."""
    twin.share(OWNER, gfns(5), MAPPER, gfns(SLOT))
    twin.share(MAPPER, gfns(5), OWNER, gfns(SLOT))
    assert twin.destroy(OWNER) == 1
    assert twin.destroy(MAPPER) == 0
    assert twin.machine.domains() == [OTHER]


def test_what_a_reboot_cut_off_keeps_no_zombie(twin: Twin) -> None:
    """A mapping that was cut off holds nothing: its owner is gone when it is destroyed, and the slot is let go of later."""
    twin.share(OWNER, gfns(5), MAPPER, gfns(SLOT))
    twin.reboot(OWNER)
    assert twin.destroy(OWNER) == 0
    twin.create(1, domid=OWNER)
    assert twin.unmap_grant(MAPPER, gfns(SLOT)) == (1, None)
    assert twin.unmap_grant(MAPPER, gfns(SLOT)) == (0, Stop.EBADF)
