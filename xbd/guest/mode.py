"""How a guest behaves on purpose: the modes of `xbd guest-mode`, for tests of toolstacks."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from xbd.errors import BadArgument, BadSize
from xbd.units import PAGE_BYTES, parse_size_bytes, parse_size_pages


class ModeKind(StrEnum):
    """What a mode changes."""

    NORMAL = "normal"
    STUCK = "stuck"
    SLOW = "slow"
    FLOOR = "floor"
    CEILING = "ceiling"
    LIES = "lies"


_EXPECTED: Final = "normal, stuck, lies, slow RATE (such as slow 10MiB/s), floor SIZE or ceiling SIZE"
_WITH_SIZE: Final = frozenset({ModeKind.SLOW, ModeKind.FLOOR, ModeKind.CEILING})


@dataclass(frozen=True, slots=True)
class GuestMode:
    """A behaviour: *pages* is the bound of floor and ceiling, *pages_per_s* the rate of slow."""

    kind: ModeKind = ModeKind.NORMAL
    pages: int = 0
    pages_per_s: float = 0.0

    def bound(self, target_pages: int) -> int:
        """Return the target as this guest understands it."""
        if self.kind is ModeKind.FLOOR:
            return max(target_pages, self.pages)
        if self.kind is ModeKind.CEILING:
            return min(target_pages, self.pages)
        return target_pages

    def __str__(self) -> str:
        if self.kind is ModeKind.SLOW:
            return f"slow {int(self.pages_per_s * PAGE_BYTES)}b/s"
        return f"{self.kind} {self.pages * PAGE_BYTES}b" if self.kind in _WITH_SIZE else str(self.kind)


def parse_mode(text: str) -> GuestMode:
    """Read a mode: `normal`, `stuck`, `lies`, `slow 10MiB/s`, `floor 1G`, `ceiling 4G`; sizes as everywhere.

    Raises:
        BadArgument: for anything else, naming *text* and the forms that are accepted.
    """
    word, _, rest = text.strip().partition(" ")
    rest = rest.strip()
    try:
        kind = ModeKind(word.lower())
    except ValueError:
        raise BadArgument(f"unknown guest mode {text!r}", _EXPECTED) from None
    if (kind in _WITH_SIZE) != bool(rest):
        raise BadArgument(f"guest mode {text!r} has {'an unexpected' if rest else 'no'} size", _EXPECTED)
    try:
        if kind is ModeKind.SLOW:
            size_text = rest[:-2] if rest.lower().endswith("/s") else rest
            return GuestMode(kind, pages_per_s=parse_size_bytes(size_text) / PAGE_BYTES)
        return GuestMode(kind, pages=parse_size_pages(rest)) if rest else GuestMode(kind)
    except BadSize as error:
        raise BadArgument(f"guest mode {text!r}: {error}", _EXPECTED) from None
