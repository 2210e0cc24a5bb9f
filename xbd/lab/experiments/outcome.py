"""What a cell is to who runs it, stores its outcome and tabulates it: experiments and the arena have different ones."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from xbd.lab.experiments.meter import Number
from xbd.testing.virtual_host import VirtualHost

# What looks at a run at each of its samples, and changes nothing: the time, the host, and by domid what guests ask for.
Watch = Callable[[float, VirtualHost, Mapping[int, int]], None]


class AnyCell(Protocol):
    """One run: it holds everything that its outcome depends on."""

    def key(self, model: str) -> str:
        """Return the key of its outcome with this version of the model: equal keys, equal outcomes."""

    def coordinates(self) -> dict[str, str | float | int]:
        """Return its place, as columns of a table."""

    def label(self) -> str:
        """Format it for people."""


_C = TypeVar("_C", bound=AnyCell)
_S = TypeVar("_S")


# Without slots: `typing` notes on each object which alias it was made by.
@dataclass(frozen=True)
class OutcomeOf(Generic[_C, _S]):
    """The outcome of a cell: *summary* by column, *samples* over time, *violations* that the audit found."""

    cell: _C
    summary: dict[str, Number]
    samples: tuple[_S, ...]
    violations: tuple[str, ...]

    @property
    def failed(self) -> bool:
        """Whether something was lost, leaked or miscounted."""
        return bool(self.violations) or self.summary["content_errors"] > 0
