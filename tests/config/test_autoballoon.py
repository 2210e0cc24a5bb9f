"""The autoballoon daemon's file: every key, and each way to get one wrong."""

from pathlib import Path

import pytest

from xbd.config.autoballoon import AutoballoonConfig, parse_autoballoon_config
from xbd.daemons.config_files import load_autoballoon_config
from xbd.errors import ConfigError

FILE = Path(__file__).resolve().parents[2] / "configs" / "autoballoon.toml"


def test_every_key_is_described() -> None:
    """The shipped file is all defaults; with what is commented out written out, nothing changes."""
    text = FILE.read_text()
    written_out = [line[2:] if line.startswith("# ") and " = " in line else line for line in text.splitlines()]

    assert sum(a != b for a, b in zip(written_out, text.splitlines(), strict=True)) == 11
    assert load_autoballoon_config(FILE) == parse_autoballoon_config("\n".join(written_out), "f") == AutoballoonConfig()


def test_what_is_said_is_set() -> None:
    """Sizes become pages, words become what they name."""
    config = parse_autoballoon_config(
        '[autoballoon]\nheadroom = "1g"\nbalance = "demand"\ndomains = ["web*", "dom0"]\ninterval_s = 0.5\n', "f"
    )

    assert (config.settings.headroom_pages, config.policy) == (262144, "demand")
    assert (config.domains, config.interval_s) == (("web*", "dom0"), 0.5)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Missing, or no text."""
    with pytest.raises(ConfigError, match="cannot be read"):
        load_autoballoon_config(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_autoballoon_config(tmp_path / "bytes.toml")
