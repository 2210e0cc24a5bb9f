"""Units of memory: pages, superframes, and the sizes that people write.

Everything inside xbd counts 4 KiB pages (or frames); bytes and KiB exist only where a person or a
file speaks. Sizes are written as xl's users write them (a bare number is MiB; b, k, m, g, t in
either case), but an empty size, a lone suffix and 0 are refused, where xl accepts them.
"""

import re

from xbd.errors import BadSize

PAGE_SHIFT = 12
PAGE_BYTES = 1 << PAGE_SHIFT
PAGE_KIB = PAGE_BYTES // 1024
SUPER_ORDER = 9
SUPER_PAGES = 1 << SUPER_ORDER
OFFSET_MASK = SUPER_PAGES - 1
MIB_PAGES = (1 << 20) // PAGE_BYTES
GIB_PAGES = (1 << 30) // PAGE_BYTES

_SUFFIX_SHIFT = {"b": 0, "k": 10, "m": 20, "g": 30, "t": 40}
# Sixteen digits are more than the largest size needs, and no number of them is too large to convert.
_SIZE = re.compile(r"([0-9]{1,16}(?:\.[0-9]{1,16})?)\s*([bkmgt])?(?:i?b)?", re.IGNORECASE)
# Beyond this no host of xbd's exists (8 PiB); it also keeps every size far from int64's end.
MAX_SIZE_BYTES = 1 << 53


def parse_size_bytes(text: str) -> int:
    """Read a size as xl's users write it: `512`, `512m`, `2g`, `1.5GiB`; a bare number is MiB.

    Raises:
        BadSize: for anything else, naming *text* and the forms that are accepted.

    Source: xl's parse_mem_size_kb (measured on Xen 4.17); empty, suffix-only and zero sizes are refused here.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise BadSize(
            text, "a number with an optional suffix b, k, m, g or t (a bare number is MiB), such as 512m or 2g"
        )
    shift = _SUFFIX_SHIFT[(match[2] or "m").lower()]
    size_bytes = int(float(match[1]) * (1 << shift)) if "." in match[1] else int(match[1]) << shift
    if not 0 < size_bytes <= MAX_SIZE_BYTES:
        raise BadSize(text, f"a size above 0 and at most {MAX_SIZE_BYTES} bytes")
    return size_bytes


def parse_size_pages(text: str) -> int:
    """Read a size and round it down to whole pages; at least one page, else BadSize."""
    pages = parse_size_bytes(text) >> PAGE_SHIFT
    if pages == 0:
        raise BadSize(text, f"at least one page ({PAGE_BYTES} bytes)")
    return pages


def round_up(pages: int, unit_pages: int = SUPER_PAGES) -> int:
    """Round *pages* up to a multiple of a unit: whole superpages."""
    return -(-pages // unit_pages) * unit_pages


def round_down(pages: int, unit_pages: int = SUPER_PAGES) -> int:
    """Round *pages* down to a multiple of a unit: whole superpages."""
    return pages - pages % unit_pages


def parse_superpages(size: object) -> int:
    """Read a size, as text or as a number of MiB, that has to be a multiple of 2 MiB; returns pages.

    Raises:
        BadSize: it is anything else; names what would be near it. Nothing is ever rounded.
    """
    if type(size) not in (int, str):
        raise BadSize(size, 'such as 512 (MiB), "512m" or "2g"')
    pages = parse_size_pages(str(size))
    if pages % SUPER_PAGES:
        down = pages // SUPER_PAGES * 2
        near = " or ".join(f'"{mib}m"' for mib in (down, down + 2) if mib)
        raise BadSize(size, f"a multiple of 2 MiB, such as {near}")
    return pages


def round_to_superpages(pages: int) -> int:
    """Round *pages* down to a multiple of 2 MiB, but up where that would be nothing."""
    return max(round_down(pages), SUPER_PAGES)


def format_pages(pages: int) -> str:
    """Write *pages* for a person: exact in the largest unit that divides it, else with one decimal."""
    size_bytes = pages * PAGE_BYTES
    for suffix, shift in (("TiB", 40), ("GiB", 30), ("MiB", 20)):
        if abs(size_bytes) >= 1 << shift:
            whole, rest = divmod(size_bytes, 1 << shift)
            return f"{whole} {suffix}" if rest == 0 else f"{size_bytes / (1 << shift):.1f} {suffix}"
    return f"{size_bytes // 1024} KiB"


def exact_size(pages: int) -> str:
    """Write *pages* exactly, for a person who typed a size: in the largest unit of which they are hundredths, else with their number."""
    for unit_pages, suffix in ((GIB_PAGES, "GiB"), (MIB_PAGES, "MiB")):
        if abs(pages) >= unit_pages and 100 * pages % unit_pages == 0:
            return f"{pages / unit_pages:,.2f}".removesuffix("0").removesuffix(".0") + f" {suffix}"
    return format_pages(pages) if abs(pages) < MIB_PAGES else f"{format_pages(pages)} ({pages} pages)"


def counted(count: int, noun: str) -> str:
    """Count things for a person: "1 guest", "2 guests"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
