"""Price files: the presets that come with xbd, by name, and anybody's, by path."""

from pathlib import Path
from typing import Final

from xbd.errors import unknown_name
from xbd.lab.costs.prices import Prices, parse_prices

_PRESETS: Final = Path(__file__).parent.parent / "presets"


def presets() -> list[str]:
    """Name the presets."""
    return sorted(file.stem for file in _PRESETS.glob("*.toml"))


def read_prices(name: str) -> Prices:
    """Read a preset by its name, or any price file by its path.

    Raises:
        BadArgument: neither is there.
        ConfigError: the file cannot be read, naming the key and the reason.
    """
    known = presets()
    path = _PRESETS / f"{name}.toml" if name in known else Path(name)
    try:
        written = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError):
        raise unknown_name("preset or file of prices", name, known) from None
    return parse_prices(written, name)
