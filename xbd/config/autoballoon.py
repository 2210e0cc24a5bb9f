"""The file that `xbd autoballoon` reads: what the policy may do, and to whom.

TOML, one `[autoballoon]`; `configs/autoballoon.toml` describes every key. Whatever in it cannot be used
is a `ConfigError` that names file, key and reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

from xbd.config.policies import BUILT_IN, DEFAULT_POLICY, is_policy_name, make_policy
from xbd.config.toml import load_toml, read_file
from xbd.policy.model import Settings
from xbd.settings import ListOf, Section, Setting, number, text

# Listing a thousand domains takes the hypervisor a quarter of a second.
INTERVAL_MIN_S: Final = 0.1
_DAY_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class AutoballoonConfig:
    """The daemon's settings: the safety layer's, the policy by name, the interval of its steps, and the *domains* (patterns) that it manages.

    Raises BadSetting: one of xbd's own policies refuses its settings. Others' are looked at when they are imported.
    """

    settings: Annotated[Settings, Section(of=Settings, inline=True)] = field(default_factory=Settings)
    policy: Annotated[
        str,
        Setting(
            expected=f'one of {", ".join(BUILT_IN)}, the name of an installed policy, or "module:object"',
            accept=lambda raw: raw if isinstance(raw, str) and is_policy_name(raw) else None,
            doc="what domains should hold; another's is an entry point of xbd.policies, or module:object",
            old_key="balance",
        ),
    ] = DEFAULT_POLICY
    own: Annotated[
        Mapping[str, Any],
        Setting(
            expected="a table of the policy's own settings",
            accept=lambda raw: raw if isinstance(raw, dict) else None,
            doc="the policy's own settings",
            key="settings",
        ),
    ] = field(default_factory=dict)
    interval_s: Annotated[float, number("how often the host is looked at", INTERVAL_MIN_S, _DAY_S, "seconds")] = 1.0
    domains: Annotated[
        tuple[str, ...],
        ListOf(item=text(""), doc="names and patterns; a pattern means guests, dom0 must be named"),
    ] = ("*",)

    def __post_init__(self) -> None:
        if self.policy in BUILT_IN:
            make_policy(self.policy, self.own, "settings")


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoballoonFile:
    """A whole file."""

    autoballoon: Annotated[
        AutoballoonConfig, Section(of=AutoballoonConfig, missing="there is no [autoballoon] section")
    ]


def parse_autoballoon_config(text: str, path: Path | str) -> AutoballoonConfig:
    """Read the file's text; *path* is what errors call it. Raises ConfigError."""
    return read_file(AutoballoonFile, load_toml(text, path), path).autoballoon
