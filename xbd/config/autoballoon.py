"""The file that `xbd autoballoon` reads: what the policy may do, and to whom.

TOML, one `[autoballoon]`; `configs/autoballoon.toml` describes every key. Whatever in it cannot be used
is a `ConfigError` that names file, key and reason.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

from xbd.config.toml import load_toml, read_file
from xbd.policy.model import Settings
from xbd.settings import ListOf, Section, number, text

# Listing a thousand domains takes the hypervisor a quarter of a second.
INTERVAL_MIN_S: Final = 0.1
_DAY_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class AutoballoonConfig:
    """The daemon's settings: the policy's, the interval of its steps, and the *domains* (patterns) that it manages."""

    settings: Annotated[Settings, Section(of=Settings, inline=True)] = field(default_factory=Settings)
    interval_s: Annotated[float, number("how often the host is looked at", INTERVAL_MIN_S, _DAY_S, "seconds")] = 1.0
    domains: Annotated[
        tuple[str, ...],
        ListOf(item=text(""), doc="names and patterns; a pattern means guests, dom0 must be named"),
    ] = ("*",)


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoballoonFile:
    """A whole file."""

    autoballoon: Annotated[
        AutoballoonConfig, Section(of=AutoballoonConfig, missing="there is no [autoballoon] section")
    ]


def parse_autoballoon_config(text: str, path: Path | str) -> AutoballoonConfig:
    """Read the file's text; *path* is what errors call it. Raises ConfigError."""
    return read_file(AutoballoonFile, load_toml(text, path), path).autoballoon
