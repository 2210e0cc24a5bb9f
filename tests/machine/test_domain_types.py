"""Types of domains: which operations each has, and what bounds its target."""

from dataclasses import replace

import numpy as np
import pytest

from tests.machine.twin import Twin, gfns, offsets
from xbd import abi
from xbd.abi import DomainType, Stop
from xbd.errors import BadArgument
from xbd.machine import TODAYS_XEN, HostSettings, Machine
from xbd.units import SUPER_PAGES

XEN_TYPES = (DomainType.PV, DomainType.PVH)


@pytest.mark.parametrize(
    "command",
    [
        abi.Populate(gfns(600)),
        abi.Decrease(gfns(1)),
        abi.Exchange(gfns(1), gfns(600)),
        abi.PopulateDepopulate(gfns(600), gfns(1)),
        abi.Grant(gfns(1), 2),
        abi.EndGrant(gfns(0)),
        abi.MapGrant(2, gfns(0), gfns(600)),
        abi.UnmapGrant(gfns(600)),
        abi.Send(2, np.ones(1, dtype=np.uint64)),
        abi.Receive(),
        abi.Receive(-1),
        abi.Populate(gfns(-1), 77),
    ],
    ids=lambda command: type(command).__name__,
)
def test_a_virtio_domain_has_its_two_queues_only(command: abi.Command) -> None:
    """Whatever else it asks is EOPNOTSUPP, sensible or not, and changes and wakes nothing; it is counted."""
    twin = Twin(4)
    twin.create(1, most=2, domain_type=DomainType.VIRTIO)
    twin.create(1, domid=2)
    result = twin.machine.execute(1, command)
    assert isinstance(result, abi.Refused)
    assert result.errno == "EOPNOTSUPP"
    info = twin.machine.domain_info(1)
    assert (info.tot_pages, info.hypercalls, info.extents) == (SUPER_PAGES, {"unsupported:EOPNOTSUPP": 1}, {})
    assert not twin.machine.has_news
    assert twin.machine.audit() == []


@pytest.mark.parametrize("domain_type", XEN_TYPES)
@pytest.mark.parametrize("queue", [abi.Inflate, abi.Deflate])
def test_xens_types_have_no_queues(domain_type: DomainType, queue: type[abi.Inflate | abi.Deflate]) -> None:
    """Inflate and deflate are EOPNOTSUPP for a pv or pvh domain."""
    twin = Twin(4)
    twin.create(1, most=2, domain_type=domain_type)
    for bases in (gfns(1), gfns(600), gfns(), gfns(-1)):
        assert twin.answer(1, queue(bases)) == "EOPNOTSUPP"


def test_a_list_on_a_queue_is_at_most_256_extents() -> None:
    """256 pages are inflated or deflated at a time; of 257 none is."""
    twin = Twin(4)
    twin.create(2, most=3, domain_type=DomainType.VIRTIO)
    assert twin.answer(1, abi.Inflate(gfns(range(257)))) == "EINVAL"
    assert twin.answer(1, abi.Inflate(gfns(range(256)))) == (256, None)
    assert twin.answer(1, abi.Inflate(gfns(300, 5))) == (1, Stop.ENOENT)
    assert twin.answer(1, abi.Deflate(gfns(range(257)))) == "EINVAL"
    assert twin.answer(1, abi.Deflate(gfns(range(256)))) == (256, None)
    assert twin.answer(1, abi.Deflate(gfns(300, 5))) == (1, Stop.EEXIST)
    assert twin.answer(1, abi.Inflate(gfns(4, 4))) == "EINVAL"


def test_queues_take_superpages() -> None:
    """A list of 2 MiB extents gives leaves back and makes them, within the limit and what the host has."""
    twin = Twin(4)
    twin.create(2, most=4, domain_type=DomainType.VIRTIO)
    twin.create(1, domid=2)
    assert twin.answer(1, abi.Inflate(gfns(512, 0), 9)) == (2, None)
    assert twin.answer(1, abi.Deflate(gfns(512, 1024, 0, 1536), 9)) == (3, Stop.ENOMEM)
    twin.set_max_pages(1, 3 * SUPER_PAGES)
    twin.destroy(2)
    assert twin.answer(1, abi.Deflate(gfns(1536), 9)) == (0, Stop.E2BIG)
    assert twin.answer(1, abi.Inflate(gfns(513), 9)) == "EINVAL"
    assert twin.leaves(1) == 3


def test_a_virtio_domain_reads_and_writes_its_memory() -> None:
    """Load and store are everybody's; what was inflated reads zero when it comes back."""
    twin = Twin(3)
    twin.create(1, most=2, domain_type=DomainType.VIRTIO)
    assert twin.store(1, offsets(0), 4) == (512, None)
    twin.answer(1, abi.Inflate(gfns(5)))
    assert twin.store(1, gfns(5)) == (0, Stop.EFAULT)
    twin.answer(1, abi.Deflate(gfns(5)))
    assert twin.load(1, gfns(4, 5, 6)) == [4, 0, 4]


def test_nothing_is_shared_with_a_virtio_domain() -> None:
    """Granting to it, mapping of it or sending to it is ESRCH: it has no part in that."""
    twin = Twin(4)
    twin.create(1, domain_type=DomainType.VIRTIO)
    twin.create(1, most=2, domid=2)
    assert twin.answer(2, abi.Grant(gfns(1), 1)) == "ESRCH"
    assert twin.map_grant(2, 1, gfns(0), gfns(600)) == "ESRCH"
    sent = twin.machine.execute(2, abi.Send(1, np.ones(1, dtype=np.uint64)))
    assert isinstance(sent, abi.Refused)
    assert sent.errno == "ESRCH"


@pytest.mark.parametrize("domain_type", list(DomainType))
@pytest.mark.parametrize("settings", [HostSettings(), TODAYS_XEN, replace(TODAYS_XEN, exchange_translated=True)])
def test_a_domain_is_told_what_it_has(domain_type: DomainType, settings: HostSettings) -> None:
    """A pv domain always has exchange, a pvh one where the host offers it; what it is told is what it then gets."""
    twin = Twin(4, settings)
    twin.create(1, most=2, domain_type=domain_type)
    boot = twin.machine.boot_info(1)
    xen = domain_type is not DomainType.VIRTIO
    exchange = xen and (domain_type is DomainType.PV or settings.exchange_translated)
    assert boot.domain_type is domain_type
    assert twin.machine.domain_info(1).type == domain_type
    assert boot.features == abi.Features(xen and settings.populate_depopulate, exchange, grants=xen)
    assert twin.exchange(1, gfns(1), gfns(600)) == ((1, None) if exchange else "EOPNOTSUPP")
    swapped = twin.swap(1, gfns(601), gfns(2))
    assert swapped == ((1, None) if boot.features.populate_depopulate else "EOPNOTSUPP")


def test_types_share_with_each_other() -> None:
    """A pv and a pvh domain map each other's pages and send each other messages."""
    twin = Twin(4)
    twin.create(1, most=2, domain_type=DomainType.PV)
    twin.create(1, most=2, domid=2)
    twin.share(1, gfns(5), 2, gfns(600))
    twin.share(2, gfns(5), 1, gfns(600))
    assert twin.machine.execute(1, abi.Send(2, np.ones(3, dtype=np.uint64))) == abi.MemopResult(3)


# -- the least a domain is asked to hold


def test_min_pages_bounds_the_target() -> None:
    """A target below min_pages is EINVAL and changes nothing; one at it is noted."""
    machine = Machine(4)
    pages = SUPER_PAGES
    machine.create("guest", max_pages=3 * pages, target_pages=3 * pages, domid=1, min_pages=2 * pages)
    for target in (2 * pages - 1, pages, 1):
        with pytest.raises(BadArgument, match="below its minimum"):
            machine.set_target(1, target)
    assert machine.domain_info(1).target_pages == 3 * pages
    machine.set_target(1, 2 * pages)
    info = machine.domain_info(1)
    assert (info.target_pages, info.min_pages) == (2 * pages, 2 * pages)


@pytest.mark.parametrize("min_pages", [-512, 1, 511, 513, 1536])
def test_create_refuses_a_minimum_that_makes_no_sense(min_pages: int) -> None:
    """A minimum is whole superframes, not below 0 nor above the target; else there is no domain."""
    machine = Machine(4)
    with pytest.raises(BadArgument, match="minimum"):
        machine.create("guest", max_pages=1536, target_pages=1024, min_pages=min_pages)
    assert machine.domains() == []
    assert machine.statistics().free_superframes == 4
