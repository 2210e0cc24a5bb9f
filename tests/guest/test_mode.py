"""Guest modes, as people write them."""

import pytest

from xbd.errors import BadArgument
from xbd.guest import GuestMode, ModeKind, parse_mode
from xbd.units import GIB_PAGES


def test_modes_are_read_as_written() -> None:
    """Each mode has one form; sizes and rates are read as everywhere."""
    assert parse_mode("normal") == GuestMode()
    assert parse_mode("STUCK") == GuestMode(ModeKind.STUCK)
    assert parse_mode("slow 10MiB/s") == GuestMode(ModeKind.SLOW, pages_per_s=2560.0)
    assert parse_mode("floor 1G") == GuestMode(ModeKind.FLOOR, pages=GIB_PAGES)
    assert parse_mode(" ceiling  4G ") == GuestMode(ModeKind.CEILING, pages=4 * GIB_PAGES)


@pytest.mark.parametrize("text", ["", "fast", "slow", "floor", "normal 5", "floor x", "slow 0/s", "stuck 1G"])
def test_what_is_no_mode_is_refused_by_name(text: str) -> None:
    """The error names the text and the forms there are."""
    with pytest.raises(BadArgument, match="guest mode") as error:
        parse_mode(text)
    assert "slow RATE" in error.value.expected


@pytest.mark.parametrize("text", ["normal", "lies", "slow 10MiB/s", "floor 1G", "ceiling 512m"])
def test_a_printed_mode_reads_back(text: str) -> None:
    """Printing and reading are each other's inverse."""
    mode = parse_mode(text)
    assert parse_mode(str(mode)) == mode


def test_floor_and_ceiling_bound_the_target() -> None:
    """A floor keeps the guest up, a ceiling keeps it down, the others take what they are told."""
    assert GuestMode(ModeKind.FLOOR, pages=10).bound(5) == 10
    assert GuestMode(ModeKind.CEILING, pages=10).bound(50) == 10
    assert GuestMode(ModeKind.LIES).bound(50) == 50
