"""The file that `xbd autoballoon` reads: what the policy may do, and to whom.

TOML, one `[autoballoon]`; `configs/autoballoon.toml` describes every key. Whatever in it cannot be used
is a `ConfigError` that names file, key and reason.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from xbd.config.toml_table import top_table
from xbd.errors import BadArgument, ConfigError
from xbd.policy.model import MOST_PAGES, Balance, Settings

# Listing a thousand domains takes the hypervisor a quarter of a second.
INTERVAL_MIN_S: Final = 0.1
_DAY_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class AutoballoonConfig:
    """The daemon's settings: the policy's, the interval of its steps, and the *domains* (patterns) that it manages."""

    settings: Settings = field(default_factory=Settings)
    interval_s: float = 1.0
    domains: tuple[str, ...] = ("*",)


def parse_autoballoon_config(text: str, path: Path | str) -> AutoballoonConfig:
    """Read the file's text; *path* is what errors call it. Raises ConfigError."""
    top = top_table(text, path)
    table = top.table("autoballoon")
    top.finish()
    if table is None:
        raise ConfigError(path, "autoballoon", "there is no [autoballoon] section")
    default = Settings()
    try:
        settings = Settings(
            headroom_pages=table.size("headroom", MOST_PAGES, default.headroom_pages),
            balance=Balance(table.choice("balance", tuple(Balance), default.balance)),
            threshold_pages=table.size("threshold", MOST_PAGES, default.threshold_pages),
            min_interval_s=table.number("min_interval_s", 0, _DAY_S, default.min_interval_s),
            stuck_after_s=table.number("stuck_after_s", 0, _DAY_S, default.stuck_after_s),
            uncooperative_after_s=table.number("uncooperative_after_s", 0, _DAY_S, default.uncooperative_after_s),
            retry_after_s=table.number("retry_after_s", 0, _DAY_S, default.retry_after_s),
        )
    except BadArgument as error:
        raise table.error("", f"{error.message}; expected {error.expected}") from error
    config = AutoballoonConfig(
        settings,
        interval_s=table.number("interval_s", INTERVAL_MIN_S, _DAY_S, 1.0),
        domains=tuple(table.texts("domains", ["*"])),
    )
    table.finish()
    return config
