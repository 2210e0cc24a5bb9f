"""Claims: what is promised to one domain nobody else can have, and nothing is promised twice."""

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xbd.abi import Decrease, Exchange, MemopResult, Populate, PopulateDepopulate, Stop
from xbd.errors import BadArgument, HypercallError, NoSuchDomain, OutOfFrames
from xbd.machine import Machine
from xbd.units import SUPER_PAGES

SUPERFRAMES = 8


def pages(first: int, count: int) -> np.ndarray:
    """List *count* gfns from *first* on."""
    return np.arange(first, first + count, dtype=np.int64)


def two_domains(target: int = 2) -> tuple[Machine, int, int]:
    """Make a host of 8 superframes with two domains of up to 8, each holding *target*."""
    machine = Machine(SUPERFRAMES)
    first, second = (
        machine.create(name, max_pages=SUPERFRAMES * SUPER_PAGES, target_pages=target * SUPER_PAGES)
        for name in ("first", "second")
    )
    return machine, first, second


def test_what_is_claimed_is_not_there_for_others() -> None:
    """Another domain's populate, by pages and by superpages, stops with ENOMEM where the promise begins."""
    machine, first, second = two_domains()
    machine.claim(first, 5 * SUPER_PAGES)

    blocks = pages(2, 3) * SUPER_PAGES
    assert machine.execute(second, Populate(blocks, 9)) == MemopResult(1, Stop.ENOMEM)
    assert machine.execute(second, Populate(pages(4 * SUPER_PAGES, 3))) == MemopResult(0, Stop.ENOMEM)
    with pytest.raises(OutOfFrames, match="0 KiB free and unclaimed"):
        machine.create("third", max_pages=SUPER_PAGES, target_pages=SUPER_PAGES)
    assert machine.audit() == []


def test_its_own_populates_consume_a_claim() -> None:
    """What is outstanding falls with every page that comes, and does not rise when one is given back."""
    machine, first, second = two_domains()
    machine.claim(first, 5 * SUPER_PAGES)
    machine.execute(first, Populate(pages(2, 2) * SUPER_PAGES, 9))
    machine.execute(first, Populate(pages(4 * SUPER_PAGES, 511)))
    assert machine.domain_info(first).claimed_pages == 1

    machine.execute(first, Decrease(pages(0, 100)))
    assert machine.domain_info(first).claimed_pages == 1
    assert machine.execute(second, Populate(pages(2 * SUPER_PAGES, 512))) == MemopResult(512)
    assert machine.statistics().claimed_frames == 1
    assert machine.audit() == []


def test_a_claim_is_cleared_by_0_and_by_death() -> None:
    """Then the memory is everybody's again."""
    machine, first, second = two_domains()
    machine.claim(first, 6 * SUPER_PAGES)
    machine.claim(first, 0)
    machine.claim(second, 6 * SUPER_PAGES)
    machine.destroy(second)

    assert machine.statistics().claimed_frames == 0
    assert machine.execute(first, Populate(pages(2, 6) * SUPER_PAGES, 9)) == MemopResult(6)
    assert machine.audit() == []


def test_moving_pages_asks_no_claims() -> None:
    """Exchange and populate_depopulate leave the page count as it is, and work where all that is free is promised."""
    machine, first, second = two_domains()
    machine.claim(first, 6 * SUPER_PAGES)

    assert machine.execute(second, Exchange(pages(0, 9), pages(2000, 9))) == MemopResult(9)
    assert machine.execute(second, PopulateDepopulate(pages(0, 9), pages(2000, 9))) == MemopResult(9)
    assert machine.statistics().claimed_frames == 4 * SUPER_PAGES
    assert machine.audit() == []


@pytest.mark.parametrize(
    ("superframes", "error"), [(2, BadArgument), (1, BadArgument), (9, BadArgument), (7, OutOfFrames)]
)
def test_a_claim_that_cannot_be_changes_nothing(superframes: int, error: type[HypercallError]) -> None:
    """Not above what it holds, beyond its limit, more than is free: each is refused whole."""
    machine, first, _ = two_domains()
    with pytest.raises(error):
        machine.claim(first, superframes * SUPER_PAGES)
    assert machine.statistics().claimed_frames == 0


def test_a_second_claim_is_refused_while_one_is_outstanding() -> None:
    """It is neither added nor exchanged; 0 clears the first."""
    machine, first, _ = two_domains()
    machine.claim(first, 3 * SUPER_PAGES)
    with pytest.raises(BadArgument, match="2 MiB are outstanding"):
        machine.claim(first, 4 * SUPER_PAGES)
    with pytest.raises(NoSuchDomain):
        machine.claim(99, 0)
    assert machine.domain_info(first).claimed_pages == SUPER_PAGES


OPERATIONS = st.sampled_from(["claim", "populate", "decrease", "clear"])


@given(st.lists(st.tuples(OPERATIONS, st.booleans(), st.integers(0, 2000), st.integers(1, 900)), max_size=25))
def test_promises_are_kept_whatever_others_do(steps: list[tuple[str, bool, int, int]]) -> None:
    """After any steps of two domains, who has a claim can populate all that is outstanding of it."""
    machine, *domids = two_domains(target=1)
    for operation, which, first, count in steps:
        domid = domids[which]
        match operation:
            case "claim":
                with suppress(BadArgument, OutOfFrames):
                    machine.claim(domid, count * 4)
            case "populate":
                machine.execute(domid, Populate(pages(first, count)))
            case "decrease":
                machine.execute(domid, Decrease(pages(first, count)))
            case _:
                machine.claim(domid, 0)
        assert machine.audit() == []
    for domid in domids:
        outstanding = machine.domain_info(domid).claimed_pages
        empty = np.flatnonzero(machine.domain(domid).p2m.lookup(pages(0, 4096)) == 0)[:outstanding]
        while empty.size:
            result = machine.execute(domid, Populate(empty))
            assert isinstance(result, MemopResult)
            assert result.done
            empty = empty[result.done :]
        assert machine.domain_info(domid).claimed_pages == 0


def test_a_refused_claim_is_said_in_the_unit_that_people_type() -> None:
    """`xbd claim d1 16g` is answered in GiB and MiB, not in pages."""
    machine, first, _ = two_domains()
    with pytest.raises(BadArgument) as refused:
        machine.claim(first, 16 << 18)
    assert "a claim of 16 GiB" in str(refused.value)
    assert "pages" not in str(refused.value)
