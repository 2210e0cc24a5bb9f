"""Creating, rebooting, limiting and destroying domains."""

from typing import Any

import numpy as np
import pytest

from tests.machine.twin import Twin, gfns, offsets
from xbd import abi
from xbd.errors import AlreadyExists, BadArgument, NoSuchDomain, OutOfFrames
from xbd.machine import Machine
from xbd.machine.recovery import recover
from xbd.storage.image import Image
from xbd.storage.memory import MemoryStore
from xbd.units import SUPER_PAGES


def test_create_populates_from_the_bottom() -> None:
    """A domain begins with its target in leaves at the bottom; the rest of its gfns is its balloon."""
    twin = Twin(8)
    domid = twin.create(3, most=5, gfn_count=5 * SUPER_PAGES - 40)

    boot = twin.machine.boot_info(domid)
    assert boot.runs.tolist() == [[0, 3 * SUPER_PAGES]]
    assert (boot.gfn_count, boot.target_pages, boot.max_pages) == (2520, 1536, 2560)
    assert twin.leaves(domid) == 3


def test_create_uses_single_frames_when_superframes_run_out() -> None:
    """Order 9 first, then single frames: a domain that fits is made, however shattered the host is."""
    twin = Twin(4)
    first, second = twin.create(2), twin.create(1, domid=2)
    twin.decrease(first, gfns(range(300), range(600, 900)))
    twin.decrease(second, gfns(range(0, 512, 2)))

    twin.create(2, domid=3)
    assert twin.leaves(3) == 1
    with pytest.raises(OutOfFrames):
        twin.machine.create("more", max_pages=512, target_pages=512)


def test_a_create_that_fails_leaves_nothing_behind() -> None:
    """Without enough frames there is no domain, no name, no array and no frame gone."""
    machine = Machine(3)
    machine.create("first", max_pages=1024, target_pages=1024)
    arrays = set(machine.image.arrays)
    with pytest.raises(OutOfFrames, match="4 MiB, the host has 2 MiB free"):
        machine.create("second", max_pages=1024, target_pages=1024)

    assert machine.domains() == [1]
    assert set(machine.image.arrays) == arrays
    assert machine.statistics().free_frames == 512
    assert machine.create("second", max_pages=1024, target_pages=512) == 2


def test_destroy_leaves_nothing_behind() -> None:
    """A hundred domains come and go, fragmented and written; the host and the names are as new."""
    machine = Machine(4)
    arrays = set(machine.image.arrays)
    for number in range(100):
        domid = machine.create(f"guest-{number % 2}", max_pages=2048, target_pages=1024)
        machine.execute(domid, abi.Decrease(gfns(range(number, 600, 3))))
        machine.execute(domid, abi.Populate(gfns(range(1024, 1090))))
        machine.execute(domid, abi.Store(gfns(range(1024, 1030)), np.arange(6, dtype=np.uint64)))
        machine.destroy(domid)

    assert machine.domains() == []
    assert set(machine.image.arrays) == arrays
    assert (machine.statistics().free_frames, machine.statistics().free_superframes) == (2048, 4)
    assert not machine.host.content.any()
    assert machine.audit() == []


def test_a_number_that_is_free_again_rests() -> None:
    """Numbers rise; behind the last one the one comes that has been free the longest, also after a crash."""
    store = MemoryStore()
    machine = Machine(16, image=Image(store))

    def create(domid: int | None = None) -> int:
        made = machine.create(
            f"web{machine.domain_table.births}", max_pages=SUPER_PAGES, target_pages=SUPER_PAGES, domid=domid
        )
        machine.commit()
        return made

    assert [create() for _ in range(4)] == [1, 2, 3, 4]
    for domid in (4, 2):
        machine.destroy(domid)
        create()
    machine.destroy(5)
    machine.commit()
    machine = recover(store)
    assert (machine.domains(), create()) == ([1, 3, 6], 7)
    assert create(abi.MAX_DOMAINS - 1) == abi.MAX_DOMAINS - 1
    assert [create() for _ in range(3)] == [4, 2, 5]
    assert create() == 8
    assert machine.audit() == []


def test_no_two_domains_are_the_same() -> None:
    """What a domain is told by besides its number and name is never used again."""
    machine = Machine(2)
    told = []
    for _ in range(3):
        machine.create("web", max_pages=SUPER_PAGES, target_pages=SUPER_PAGES, domid=1)
        told.append(machine.domain_info(1))
        machine.destroy(1)
    assert len({one.life for one in told}) == len({one.uuid for one in told}) == 3
    assert [one.birth for one in told] == [1, 2, 3]


def test_a_domain_that_follows_a_destroyed_one_reads_zero() -> None:
    """Neither leaves nor single frames carry words from one domain to the next."""
    twin = Twin(2)
    domid = twin.create(2)
    twin.decrease(domid, gfns(3))
    twin.store(domid, gfns(range(4, 1024)))
    twin.destroy(domid)

    domid = twin.create(2)
    assert set(twin.load(domid, gfns(range(1024)))) == {0}


def test_a_reboot_zeroes_all_and_tells_the_map() -> None:
    """A new session finds its memory zeroed and learns which gfns are populated, as ascending runs."""
    twin = Twin(5)
    domid = twin.create(3, most=4)
    twin.decrease(domid, gfns(range(100, 611)))
    twin.decrease(domid, gfns(611, 1000))
    twin.store(domid, gfns(range(100), range(612, 1000), range(1001, 1536)))

    boot = twin.reboot(domid)
    assert boot.runs.tolist() == [[0, 100], [612, 1000], [1001, 1536]]
    assert boot.runs.dtype == np.int64
    assert set(twin.load(domid, gfns(range(100), range(612, 1000)))) == {0}


@pytest.mark.parametrize("blocks", [(), (0,), (0, 1, 2), (0, 2), (2,)])
def test_runs_join_blocks_and_pieces(blocks: tuple[int, ...]) -> None:
    """Runs neither touch nor overlap, whether they are made of leaves, pieces or both."""
    twin = Twin(4)
    domid = twin.create(3)
    twin.decrease(domid, gfns(0, range(300, 310), 511, 512, 1535))
    for block in blocks:
        twin.decrease(domid, offsets(block, range(1, 300)))

    twin.compare()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 65}, "name"),
        ({"name": "12"}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"max_pages": 1000}, "multiples of 2 MiB"),
        ({"target_pages": 100}, "multiples of 2 MiB"),
        ({"target_pages": 0}, "0 < target"),
        ({"target_pages": -512}, "0 < target"),
        ({"target_pages": 2048}, "0 < target"),
        ({"gfn_count": 100}, "gfn space"),
        ({"gfn_count": (1 << 29) + 1}, "gfn space"),
        ({"max_pages": 1 << 40}, "gfn space"),
        ({"max_pages": 2048, "gfn_count": 1024}, "gfn space"),
        ({"domid": -1}, "domid"),
        ({"domid": 32752}, "domid"),
    ],
)
def test_create_refuses_what_makes_no_sense(changes: dict[str, Any], message: str) -> None:
    """Bad names, sizes and numbers are EINVAL, with a message that names them, and change nothing."""
    machine = Machine(4)
    arguments: dict[str, Any] = {"name": "web", "max_pages": 1024, "target_pages": 512}
    with pytest.raises(BadArgument, match=message):
        machine.create(**(arguments | changes))

    assert machine.domains() == []
    assert machine.statistics().free_superframes == 4


def test_names_and_domids_are_taken_once() -> None:
    """A name or domid in use is EEXIST; a free one is found by either."""
    machine = Machine(4)
    domid = machine.create("web", max_pages=512, target_pages=512, domid=9)
    with pytest.raises(AlreadyExists):
        machine.create("web", max_pages=512, target_pages=512)
    with pytest.raises(AlreadyExists):
        machine.create("db", max_pages=512, target_pages=512, domid=9)

    assert machine.find("web") == machine.find("9") == machine.find(9) == domid == 9
    assert machine.create("db", max_pages=512, target_pages=512) == 10
    assert machine.domains() == [9, 10]


@pytest.mark.parametrize("name", ["nosuch", "7", 7, "", "-1", "\u0669"])
def test_unknown_domains_are_named(name: str | int) -> None:
    """Looking for a domain that is not there is ESRCH, in xl's words."""
    with pytest.raises(NoSuchDomain, match=f"{name} is an invalid domain identifier"):
        Machine(1).find(name)


def test_operations_on_domains_that_are_gone() -> None:
    """Everything that names a destroyed domain says ESRCH."""
    machine = Machine(2)
    domid = machine.create("web", max_pages=512, target_pages=512)
    machine.destroy(domid)

    result = machine.execute(domid, abi.Populate(gfns(0)))
    assert isinstance(result, abi.Refused)
    assert result.errno == "ESRCH"
    for operation in (machine.destroy, machine.reboot, machine.boot_info, machine.domain_info, machine.living):
        with pytest.raises(NoSuchDomain):
            operation(domid)
    for setting in (machine.set_max_pages, machine.set_target):
        with pytest.raises(NoSuchDomain):
            setting(domid, 512)


def test_targets_stay_within_the_gfn_space() -> None:
    """A target of nothing, or beyond the gfn space, is EINVAL and changes nothing; a cap may be any that a domain can have."""
    machine = Machine(3)
    domid = machine.create("web", max_pages=1024, target_pages=512, gfn_count=1000)
    for pages in (0, -512, 1025, 1 << 60):
        with pytest.raises(BadArgument):
            machine.set_target(domid, pages)
    for pages in (0, -512, abi.MAX_DOMAIN_PAGES + 1):
        with pytest.raises(BadArgument):
            machine.set_max_pages(domid, pages)
    machine.set_target(domid, 1024)
    machine.set_max_pages(domid, 100)

    info = machine.domain_info(domid)
    assert (info.max_pages, info.target_pages, info.tot_pages) == (100, 1024, 512)


def test_neither_limit_nor_target_is_below_the_minimum() -> None:
    """Whoever asks the machine for less than the minimum is refused, and nothing has changed."""
    machine = Machine(3)
    domid = machine.create("web", max_pages=1024, target_pages=1024, min_pages=512)
    for setting in (machine.set_max_pages, machine.set_target):
        with pytest.raises(BadArgument, match="below its minimum"):
            setting(domid, 511)
        setting(domid, 512)

    info = machine.domain_info(domid)
    assert (info.max_pages, info.target_pages) == (512, 512)


def test_a_limit_beyond_the_gfn_space_promises_no_more() -> None:
    """Toolstacks set target + 1 MiB: the domain comes to its maximum, claims no more than that, and is recovered so."""
    store = MemoryStore()
    machine = Machine(3, image=Image(store))
    domid = machine.create("web", max_pages=1024, target_pages=512)
    machine.set_max_pages(domid, 1024 + 256)

    with pytest.raises(BadArgument, match="at most its limit, 4 MiB"):
        machine.claim(domid, 1025)
    machine.claim(domid, 1024)
    assert machine.execute(domid, abi.Populate(gfns(512), 9)) == abi.MemopResult(1, None)
    assert isinstance(machine.execute(domid, abi.Populate(gfns(1024), 9)), abi.Refused)
    machine.commit()
    found = recover(store)
    assert (found.domain_info(domid).max_pages, found.audit()) == (1280, [])


def test_a_host_has_at_least_one_superframe() -> None:
    """A host of nothing is EINVAL."""
    with pytest.raises(BadArgument):
        Machine(0)


def test_the_last_odd_block_holds_single_pages_only() -> None:
    """A gfn space that ends within a block has no order-9 extent there; single gfns up to its end work."""
    twin = Twin(3)
    domid = twin.create(1, most=2, gfn_count=700)

    assert twin.populate(domid, gfns(512), 9) == "EINVAL"
    assert twin.populate(domid, gfns(700)) == "EINVAL"
    assert twin.populate(domid, gfns(range(512, 700))) == (188, None)
    assert twin.machine.boot_info(domid).runs.tolist() == [[0, 700]]
