"""The host for other people's tests."""

import pytest

import xbd.testing
from xbd.errors import OutOfFrames
from xbd.guest import ModeSet, parse_mode
from xbd.units import MIB_PAGES


def test_time_moves_only_when_told() -> None:
    """A stuck guest moves nothing, however long; made normal, it goes on by itself."""
    with xbd.testing.host("1g") as host:
        guest = host.add("web", "512m")
        host.send(guest, ModeSet(parse_mode("stuck")))
        host.set_target(guest, 256 * MIB_PAGES)
        host.advance(1000)
        assert host.machine.domain_info(guest).tot_pages == 512 * MIB_PAGES

        host.send(guest, ModeSet(parse_mode("normal")))
        assert host.now == 1000
        assert host.machine.domain_info(guest).tot_pages == 256 * MIB_PAGES


def test_the_end_is_audited() -> None:
    """A frame that is lost inside the block fails it."""

    def lose_a_frame() -> None:
        with xbd.testing.host("1g") as host:
            guest = host.add("web", "512m")
            host.machine.domain(guest).tot_pages -= 1

    with pytest.raises(AssertionError, match="does not add up"):
        lose_a_frame()


def test_a_full_host_refuses_another_guest() -> None:
    """What does not fit is refused, and what is there goes on."""
    with xbd.testing.host("1g") as host:
        host.add("a", "768m")
        with pytest.raises(OutOfFrames):
            host.add("b", "512m")
        assert host.domids() == [1]
