"""TOML for `xbd.settings`: a file's text to the declared class of its kind, errors with the file's name."""

import re
import tomllib
from pathlib import Path
from typing import Any, Final, TypeVar

from xbd.errors import BadSetting, ConfigError
from xbd.settings import read

_T = TypeVar("_T")
# The deepest of any file of xbd's is five; tomllib takes time with the square of a key's parts.
MAX_LEVELS: Final = 32
# What is not looked into, in the order in which TOML itself begins one: comments and texts of four kinds. One that is not
# ended goes to the end of its line, or file, so that no character is looked at twice.
_OPAQUE: Final = re.compile(
    r"""#[^\n]*+|\"{3}(?:\\.|[^\\"]|"(?!""))*+(?:\"{3,5}|\Z)|'{3}.*?(?:'{3,5}|\Z)|"(?:\\[^\n]|[^"\\\n])*+"?|'[^'\n]*+'?""",
    re.DOTALL,
)
_BRACKETS: Final = re.compile(r"[\[{\]}]")
_LONG_KEY: Final = re.compile(rf"(?<![\w-])(?:[\w-]++[ \t]*+\.[ \t]*+){{{MAX_LEVELS}}}")


def load_toml(text: str, path: Path | str) -> dict[str, Any]:
    """Read a file's text as a map; *path* is what errors call it. Raises ConfigError: it is no TOML, or too deep."""
    bare = _OPAQUE.sub("_", text)
    level = deepest = 0
    for bracket in _BRACKETS.finditer(bare):
        level += 1 if bracket[0] in "[{" else -1
        deepest = max(deepest, level)
    if deepest > MAX_LEVELS or _LONG_KEY.search(bare):
        raise ConfigError(path, "", f"is nested too deeply; a file has at most {MAX_LEVELS} levels")
    try:
        return tomllib.loads(text)
    except ValueError as error:
        # Beside its own error tomllib lets through that of a number of too many digits.
        raise ConfigError(path, "", f"is not TOML: {error}") from error


def read_file(kind: type[_T], document: dict[str, Any], path: Path | str) -> _T:
    """Make a *kind* of what a file says. Raises ConfigError, as `read` does BadSetting."""
    try:
        return read(kind, document, "")
    except BadSetting as error:
        raise ConfigError(path, error.key, error.reason) from error
