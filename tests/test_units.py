"""Sizes as people write them."""

import pytest

from xbd.errors import BadSize
from xbd.units import (
    SUPER_PAGES,
    counted,
    exact_size,
    format_pages,
    parse_size_bytes,
    parse_size_pages,
    round_to_superpages,
)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("512", 512 << 20),
        ("512m", 512 << 20),
        ("512M", 512 << 20),
        ("2g", 2 << 30),
        ("2GiB", 2 << 30),
        ("2gb", 2 << 30),
        (" 1.5 GiB ", 3 << 29),
        ("4096b", 4096),
        ("4096k", 4 << 20),
        ("1t", 1 << 40),
        ("0.5", 1 << 19),
    ],
)
def test_sizes_read_as_xl_reads_them(text: str, size_bytes: int) -> None:
    """A bare number is MiB; b, k, m, g and t in either case."""
    assert parse_size_bytes(text) == size_bytes


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "m",
        "0",
        "0g",
        "256x",
        "-5",
        "+5",
        "1e3",
        "0x60000",
        "5 5",
        "5mm",
        "5m!",
        "inf",
        "nan",
        ".5",
        "1.",
        "9999999t",
    ],
)
def test_what_is_no_size_is_refused(text: str) -> None:
    """Among them what xl accepts by mistake: nothing, a lone suffix, zero, trailing text."""
    with pytest.raises(BadSize, match="invalid memory size"):
        parse_size_bytes(text)


def test_a_size_below_a_page_is_no_number_of_pages() -> None:
    """Sizes are rounded down to pages, but not to none."""
    assert parse_size_pages("8191b") == 1
    with pytest.raises(BadSize, match="at least one page"):
        parse_size_pages("4095b")


@pytest.mark.parametrize(
    ("pages", "rounded"),
    [(1, SUPER_PAGES), (511, SUPER_PAGES), (512, 512), (513, 512), (1023, 512), (1024, 1024), (1025, 1024)],
)
def test_targets_round_down_to_superpages_but_never_to_nothing(pages: int, rounded: int) -> None:
    """What is less than 2 MiB becomes 2 MiB."""
    assert round_to_superpages(pages) == rounded


@pytest.mark.parametrize(
    ("pages", "text"),
    [
        (0, "0 KiB"),
        (1, "4 KiB"),
        (256, "1 MiB"),
        (512, "2 MiB"),
        (262144, "1 GiB"),
        (262144 + 256, "1.0 GiB"),
        (1 << 28, "1 TiB"),
        (384, "1.5 MiB"),
    ],
)
def test_pages_are_written_in_the_largest_unit(pages: int, text: str) -> None:
    """Exact where the unit divides it, with one decimal otherwise."""
    assert format_pages(pages) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 guests"), (1, "1 guest"), (2, "2 guests"), (1000, "1,000 guests")])
def test_things_are_counted_for_a_person(count: int, text: str) -> None:
    """One of them is no plural."""
    assert counted(count, "guest") == text


@pytest.mark.parametrize(
    ("pages", "text"),
    [
        (0, "0 KiB"),
        (3, "12 KiB"),
        (512, "2 MiB"),
        (513, "2.0 MiB (513 pages)"),
        (263_680, "1,030 MiB"),
        (1 << 18, "1 GiB"),
        (3 << 17, "1.5 GiB"),
        (5 << 16, "1.25 GiB"),
        (640, "2.5 MiB"),
        (10 << 18, "10 GiB"),
    ],
)
def test_a_size_in_an_error_is_exact(pages: int, text: str) -> None:
    """Two sizes that differ by a page do not look the same, and none looks rounded."""
    assert exact_size(pages) == text
