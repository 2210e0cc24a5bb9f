"""Quoting raw values of peers in error messages, at a cost that does not grow with the value.

`repr` of a megabyte that came where a number belongs takes milliseconds, to show 80 characters of it;
here no more of it is formatted than is shown.
"""

import reprlib
from typing import Final

# A line of a terminal: the beginning is enough to see what was wrong.
QUOTED_CHARS: Final = 80


class _Quoter(reprlib.Repr):
    """`reprlib.Repr`, which cuts texts, arrays and maps, and cuts bytes as well."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxstring = self.maxother = self.maxlong = QUOTED_CHARS

    def repr_bytes(self, quoted: bytes, _level: int) -> str:
        return repr(quoted[:QUOTED_CHARS])


_QUOTER: Final = _Quoter()


def quote(untrusted: object) -> str:
    """Write anything that a decoder hands out, as `repr` does, in at most `QUOTED_CHARS` characters."""
    return _QUOTER.repr(untrusted)[:QUOTED_CHARS]
