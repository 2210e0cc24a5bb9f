"""A host for tests of one's own, as a pytest fixture: on virtual time, in the test's process, audited in the end.

Run it so: `pytest host_fixture.py`.
"""

from collections.abc import Iterator

import pytest

import xbd.testing
from xbd.testing import Host
from xbd.units import MIB_PAGES


@pytest.fixture
def host() -> Iterator[Host]:
    """Run a host of 1 GiB; a frame that is lost fails the test."""
    with xbd.testing.host("1g") as one:
        yield one


def test_what_one_guest_gives_another_gets(host: Host) -> None:
    """Two busy guests fill the host; one shrinks, and the other grows by that, in whole superpages."""
    web = host.add("web", "768m", "512m", workload="steady")
    batch = host.add("batch", "768m", "512m", workload="steady")
    host.set_target(web, 448 * MIB_PAGES)
    host.advance(host.now + 10)
    host.set_target(batch, 576 * MIB_PAGES)
    host.advance(host.now + 10)

    assert host.machine.domain_info(web).tot_pages == 448 * MIB_PAGES
    assert host.machine.domain_info(batch).tot_pages == 576 * MIB_PAGES
    assert host.machine.domain_info(batch).superpage_coverage == 1.0
