"""Text that others wrote: quoted in errors, made safe to print; tables; and what may be the name of a domain.

`repr` of a megabyte that came where a number belongs takes milliseconds, to show 80 characters of it;
`quote` formats no more of it than is shown. What a file or a peer said is printed by `quote` or `printable`,
never as it is: an escape sequence in it would reach the terminal. `markdown_table` writes what is told of xbd itself.
"""

import reprlib
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from xbd.abi import MAX_NAME_CHARS

# A line of a terminal: the beginning is enough to see what was wrong.
QUOTED_CHARS: Final = 80
# What a pattern of names is made of (`xbd list 'web*'`): a domain called `*` could be named by nobody alone.
WILDCARDS: Final = frozenset("*?[")
# Letters and signs by their category that leave nothing to be seen: fillers of Hangul, a Braille pattern without dots.
_BLANK: Final = frozenset("\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
DOMAIN_NAME: Final = (
    f"1 to {MAX_NAME_CHARS} printable characters, none of them * ? [, combining or invisible, no space at either end,"
    " not all digits"
)


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


def printable(text: str, *, lines: bool = False) -> str:
    """Replace every character that a terminal would act upon by a question mark; with *lines* the ends of lines stay."""
    kept = "\n" if lines else ""
    return text if text.isprintable() else "".join(c if c.isprintable() or c == kept else "?" for c in text)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Write a table as lines of Markdown, with an empty one behind it; no cell has a bar in it."""
    for cells in (header, ("---",) * len(header), *rows):
        yield f"|{'|'.join(f' {cell} ' if cell else ' ' for cell in cells)}|"
    yield ""


def is_domain_name(name: str) -> bool:
    """Tell whether a domain may be called so (`DOMAIN_NAME` says it in words), wherever the name comes from."""
    return (
        0 < len(name) <= MAX_NAME_CHARS
        and name.isprintable()
        and not name.isdecimal()
        and name == name.strip()
        and not WILDCARDS & set(name)
        and not any(char in _BLANK or unicodedata.category(char).startswith("M") for char in name)
    )
