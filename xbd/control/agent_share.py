"""Which of several agent processes plays which guest: a rule that needs no word between them."""

from dataclasses import dataclass
from typing import Final

from xbd.replaceable import replaceable

# 2**32 over the golden ratio. Its multiples fall evenly, whatever their stride: of domains that were created in a pattern
# (busy, idle, busy, idle) each process gets some of each kind, as by the remainder it would not.
_STRIDE: Final = 0x9E3779B1
_BITS: Final = 32


@dataclass(frozen=True, slots=True)
class AgentShare:
    """Share number *index* (from 0) of *count*; together they hold each domain once, and whichever starts again holds the same."""

    index: int = 0
    count: int = 1

    @replaceable
    def holds(self, domid: int) -> bool:
        """Tell whether a domain is of this share."""
        return (domid * _STRIDE % (1 << _BITS)) * self.count >> _BITS == self.index

    def __str__(self) -> str:
        """Spell it for people, counting from 1."""
        return f"{self.index + 1}/{self.count}"


EVERY_GUEST: Final = AgentShare()
