"""dom0 and guests over the wire, block I/O between them, and connections that are lost at the worst moment."""

import numpy as np
import pytest

from tests.control.link import Link, new_agent
from tests.peer import create, small_host
from xbd.guest import GuestStatistics


def _linked_with_dom0(*, persistent: bool, guests: int = 2) -> list[Link]:
    """Connect dom0's agent and those of guests that do I/O; dom0 first."""
    host = small_host()
    guest: dict[str, object] = {"block_back_end": {"persistent": persistent}}
    host.create_dom0({"name": "dom0", "max_pages": 16 * 512, "target_pages": 16 * 512, "guest": guest})
    workload = {"profile": "idle", "io_pages_s": 64}
    domids = [create(host, f"web{n}", superpages=16, target=12, workload=workload) for n in range(guests)]
    return [Link(host, domid, new_agent()) for domid in (0, *domids)]


def _settle(links: list[Link]) -> None:
    moved = True
    while moved:
        # Each of them every time, not only up to the first that had something.
        moved = sum(link.carry() for link in links) > 0


def _advance(links: list[Link], seconds: float) -> None:
    """Let time go by for all of them, in small steps, so that they can talk to each other meanwhile."""
    for _ in range(int(seconds * 4)):
        for link in links:
            link.now += 0.25
            link.sent += link.agent.tick(link.now)
        _settle(links)


def _statistics(link: Link) -> GuestStatistics:
    guest = link.agent.guest
    assert guest is not None
    assert guest.check() == []
    return guest.statistics()


@pytest.mark.parametrize("persistent", [False, True])
def test_dom0_serves_its_guests_over_the_wire(persistent: bool) -> None:  # noqa: FBT001 - a case
    """Notices of messages reach the agents, and every word that is read is the one that was written."""
    links = _linked_with_dom0(persistent=persistent)
    _settle(links)
    _advance(links, 6)
    served = _statistics(links[0])

    assert min(served.io_pages_written, served.io_pages_read) > 100
    assert (served.io_errors, served.io_mismatches) == (0, 0)
    assert links[0].host.audit() == []


@pytest.mark.parametrize("seed", range(6))
def test_cut_anywhere_no_word_is_lost(seed: int) -> None:
    """Connections of dom0 and of guests that are cut with calls in flight are resumed, and the I/O goes on as if nothing was."""
    rng = np.random.default_rng(seed)
    links = _linked_with_dom0(persistent=bool(seed % 2))
    _settle(links)
    for _ in range(12):
        for link in links:
            link.now += 0.5
            link.sent += link.agent.tick(link.now)
        for _ in range(10):
            for link in links:
                link.carry()
                if rng.random() < 0.1:
                    link.cut()
        _settle(links)
    statistics = [_statistics(link) for link in links]

    assert all(told.io_requests for told in statistics)
    assert sum(told.io_errors + told.io_mismatches for told in statistics) == 0
    assert links[0].host.audit() == []
