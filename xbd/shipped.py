"""Where the files lie that come with xbd beside its code: example host files, and units for systemd."""

from pathlib import Path
from typing import Literal

_PACKAGE = Path(__file__).parent


def shipped(name: Literal["configs", "systemd"]) -> Path:
    """Find a directory of shipped files: inside the installed package, or beside it in a checkout of the sources."""
    installed = _PACKAGE / name
    return installed if installed.is_dir() else _PACKAGE.parent / name
