"""How often a domain called each operation, by outcome: one saved cell for each pair."""

from typing import Any, Final

from xbd.abi import Stop
from xbd.errors import HypercallError
from xbd.storage.image import Column

OPERATIONS: Final = (
    "populate",
    "decrease",
    "exchange",
    "populate_depopulate",
    "grant",
    "end_grant",
    "map_grant",
    "unmap_grant",
    "send",
    "receive",
    "deflate",
    "inflate",
    "unsupported",
)
_REFUSALS: Final = sorted({HypercallError.errno, *(kind.errno for kind in HypercallError.__subclasses__())})
OUTCOMES: Final = ("done", *dict.fromkeys([*(stop.value for stop in Stop), *_REFUSALS]))
# More than any machine ever counts; adding one still fits into a word.
MAX_COUNT: Final = 1 << 62
# The rows of calls are followed by one row for each operation: the extents that it did.
COUNTS: Final = len(OPERATIONS) * (len(OUTCOMES) + 1)
_CELLS: Final = {
    (operation, outcome): row * len(OUTCOMES) + column
    for row, operation in enumerate(OPERATIONS)
    for column, outcome in enumerate(OUTCOMES)
}
_EXTENTS: Final = {operation: len(_CELLS) + row for row, operation in enumerate(OPERATIONS)}
_CALL_NAMES: Final = tuple(":".join(call) for call in _CELLS)


class Counts:
    """The counts of one domain, in a column of `COUNTS` rows."""

    def __init__(self, column: Column[Any]) -> None:
        self._column = column

    def count(self, operation: str, outcome: str, extents: int) -> None:
        """Count a call, and how many extents it did."""
        self._add(_CELLS[operation, outcome], 1)
        if extents:
            self._add(_EXTENTS[operation], extents)

    def _add(self, cell: int, more: int) -> None:
        self._column.note_row(cell)
        self._column.words[cell] += more

    def told(self) -> tuple[dict[str, int], dict[str, int]]:
        """Return the calls by `operation:outcome`, and the extents done by operation, both sorted, and without those that are 0."""
        counts = self._column.words
        # Few count anything, and every client that looks at the host asks for them of every domain.
        rows = counts.nonzero()[0].tolist()
        counted = {row: int(counts[row]) for row in rows}
        calls = sorted((_CALL_NAMES[row], counted[row]) for row in rows if row < len(_CELLS))
        extents = sorted((OPERATIONS[row - len(_CELLS)], counted[row]) for row in rows if row >= len(_CELLS))
        return dict(calls), dict(extents)
