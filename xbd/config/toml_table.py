"""Reading TOML key by key: unknown keys, and values of a wrong type or out of range, are refused by name."""

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xbd.errors import BadSize, ConfigError
from xbd.units import SUPER_PAGES, format_pages, parse_size_pages


def top_table(text: str, path: Path | str) -> "Table":
    """Read a file's text; *path* is what errors call it. Raises ConfigError: it is no TOML."""
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        # Beside its own error tomllib lets through those of a number of too many digits, and of too deep a nesting.
        raise ConfigError(path, "", f"is not TOML: {error}") from error
    return Table(path, "", document)


class Table:
    """A TOML table that is read key by key; *name* is what errors call it; `finish` refuses unknown keys."""

    def __init__(self, path: Path | str, name: str, entries: Mapping[str, Any]) -> None:
        self.path = path
        self.name = name
        self._entries = entries
        self._known: list[str] = []

    def error(self, key: str, reason: str) -> ConfigError:
        """Make the error for one of this table's keys; an empty key means the table."""
        return ConfigError(self.path, ".".join(part for part in (self.name, key) if part), reason)

    def _take(self, key: str, kinds: type | tuple[type, ...], expected: str) -> Any:  # noqa: ANN401 - of *kinds*, or None
        self._known.append(key)
        entry = self._entries.get(key)
        # A TOML boolean is no number, though Python's is.
        if entry is None or (isinstance(entry, kinds) and (kinds is bool or not isinstance(entry, bool))):
            return entry
        raise self.error(key, f"{entry!r:.80} is not {expected}")

    def text(self, key: str, default: str | None) -> str | None:
        """Read a string that is not empty."""
        entry = self._take(key, str, "text in quotes")
        if entry == "":
            raise self.error(key, "is empty")
        return default if entry is None else str(entry)

    def flag(self, key: str, *, default: bool) -> bool:
        """Read true or false."""
        entry = self._take(key, bool, "true or false")
        return default if entry is None else bool(entry)

    def whole(self, key: str, least: int, most: int, default: int | None) -> int | None:
        """Read a whole number from *least* to *most*."""
        entry = self._take(key, int, f"a whole number from {least} to {most}")
        if entry is not None and not least <= entry <= most:
            raise self.error(key, f"{entry} is not from {least} to {most}")
        return default if entry is None else int(entry)

    def number(self, key: str, least: float, most: float, default: float) -> float:
        """Read a number from *least* to *most*, whole or not."""
        entry = self._take(key, (int, float), f"a number from {least:g} to {most:g}")
        if entry is not None and not least <= entry <= most:
            raise self.error(key, f"{entry} is not from {least:g} to {most:g}")
        return default if entry is None else float(entry)

    def numbers(self, key: str, least: float, most: float, default: tuple[float, ...]) -> tuple[float, ...]:
        """Read a number from *least* to *most*, or a list of at least one; repeated numbers count once."""
        expected = f"a number from {least:g} to {most:g}, or a list of them"
        entry = self._take(key, (int, float, list), expected)
        if entry is None:
            return default
        numbers = entry if isinstance(entry, list) else [entry]
        if not numbers or not all(_is_number(number) and least <= number <= most for number in numbers):
            raise self.error(key, f"{entry!r:.80} is not {expected}")
        return tuple(dict.fromkeys(float(number) for number in numbers))

    def wholes(self, key: str, least: int, most: int, default: tuple[int, ...]) -> tuple[int, ...]:
        """Read a list of whole numbers from *least* to *most*, at least one; repeated numbers count once."""
        expected = f"a list of whole numbers from {least} to {most}"
        entry = self._take(key, list, expected)
        if entry is None:
            return default
        if not entry or not all(type(number) is int and least <= number <= most for number in entry):
            raise self.error(key, f"{entry!r:.80} is not {expected}")
        return tuple(dict.fromkeys(entry))

    def texts(self, key: str, default: list[str]) -> list[str]:
        """Read a list of texts, at least one."""
        entry = self._take(key, list, "a list of texts in quotes")
        if entry is not None and not (entry and all(isinstance(text, str) and text for text in entry)):
            raise self.error(key, f"{entry!r:.80} is not a list of texts in quotes")
        return default if entry is None else [str(text) for text in entry]

    def choice(self, key: str, choices: Mapping[str, object] | tuple[str, ...], default: str) -> str:
        """Read one of *choices*."""
        expected = "one of " + ", ".join(f'"{choice}"' for choice in choices)
        entry = self._take(key, str, expected)
        if entry is not None and entry not in choices:
            raise self.error(key, f"{entry!r:.80} is not {expected}")
        return default if entry is None else str(entry)

    def size(self, key: str, most_pages: int, default: int | None = None) -> int:
        """Read a size as pages, in whole superpages; required when there is no *default*."""
        entry = self._take(key, (str, int), 'a size, such as 512 (MiB), "512m" or "2g"')
        if entry is None:
            if default is None:
                raise self.error(key, 'is missing; it is a size, such as "512m" or "2g"')
            return default
        try:
            pages = parse_size_pages(str(entry))
        except BadSize as error:
            raise self.error(key, str(error)) from error
        if pages % SUPER_PAGES:
            down = pages // SUPER_PAGES * 2
            raise self.error(key, f'{entry!r} is not a multiple of 2 MiB; "{down}m" and "{down + 2}m" are')
        if pages > most_pages:
            raise self.error(key, f"{entry!r} is more than {format_pages(most_pages)}, the most that is possible")
        return pages

    def spelling(self, key: str, old_key: str) -> str:
        """Tell by which of its two names a key is given here; *key*, its name now, where it is given by neither.

        Raises:
            ConfigError: it is given by both.
        """
        if old_key not in self._entries:
            return key
        if key in self._entries:
            raise self.error(old_key, f"is the old name of {key!r}, which is given too; leave {old_key!r} out")
        return old_key

    def plain(self, key: str) -> dict[str, Any]:
        """Read a table whose entries the caller checks; empty when it is not there."""
        entry = self._take(key, dict, "a table")
        return {} if entry is None else dict(entry)

    def name_and_options(self, key: str, name_key: str, default: str) -> tuple[str, dict[str, Any]]:
        """Read `key = "name"` or `key = { name_key = "name", option = ... }`."""
        entry = self._take(key, (str, dict), f'a name in quotes, or a table {{ {name_key} = "...", ... }}')
        if entry is None:
            return default, {}
        if isinstance(entry, str):
            return entry, {}
        options = dict(entry)
        name = options.pop(name_key, None)
        if not isinstance(name, str):
            raise self.error(f"{key}.{name_key}", "is missing; it is a name in quotes")
        return name, options

    def table(self, key: str) -> "Table | None":
        """Read a table within this one; None when it is not there."""
        entry = self._take(key, dict, "a table")
        return None if entry is None else Table(self.path, f"{self.name}.{key}" if self.name else key, entry)

    def tables(self, key: str) -> "list[Table]":
        """Read an array of tables."""
        entry = self._take(key, list, f"an array of tables; begin each with [[{key}]]")
        for number, table in enumerate(entry or (), start=1):
            if not isinstance(table, dict):
                raise self.error(f"{key}[{number}]", f"is not a table; begin each with [[{key}]]")
        return [Table(self.path, f"{key}[{number}]", table) for number, table in enumerate(entry or (), start=1)]

    def finish(self) -> None:
        """Refuse keys that were not read, which are unknown ones."""
        for key in self._entries:
            if key not in self._known:
                close = difflib.get_close_matches(key, self._known, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(self._known)}"
                raise self.error(key, f"is not a key of this section; {hint}")


def _is_number(entry: object) -> bool:
    # A TOML boolean is no number, though Python's is.
    return isinstance(entry, int | float) and not isinstance(entry, bool)
