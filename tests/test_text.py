"""What others wrote: names that domains may have, and text that reaches a terminal."""

import io
from pathlib import Path

import pytest
import structlog
from click.testing import CliRunner

from xbd import log
from xbd.cli.common import Failure
from xbd.cli.main import main
from xbd.config.host import parse_host_config
from xbd.errors import BadArgument, ConfigError
from xbd.machine import Machine
from xbd.text import is_domain_name, printable, quote

BAD_NAMES = ("*", "web?", "a[1]", "", " ", " web", "web ", "17", "x" * 65, "a\tb", "a\x1b[2J", "e\u0301", "\u3164",
             "\u2800", "a\u200bb", "a\u202eb", "\u034f", "a\u00a0b", "a\ufe0f")  # fmt: skip


@pytest.mark.parametrize("name", ["web1", "a b", "été", "数据库", "db-1.example", "x" * 64, "1a", "{n}"])
def test_a_name_that_can_be_seen_and_typed_is_one(name: str) -> None:
    """Of any script, with spaces inside."""
    assert is_domain_name(name)
    assert Machine(2).create(name, max_pages=512, target_pages=512) == 1


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_a_name_that_cannot_be_told_from_others_is_none(name: str) -> None:
    """A pattern, nothing to be seen, a number, or what a terminal acts upon: refused by `create` and in files alike."""
    with pytest.raises(BadArgument, match="domain name"):
        Machine(2).create(name, max_pages=512, target_pages=512)
    quoted = "".join(f"\\U{ord(char):08x}" for char in name)
    with pytest.raises(ConfigError) as refused:
        parse_host_config(f'[host]\nmemory = "1g"\n[[guest]]\nname = "{quoted}"\nmaximum = 2\n', "f")
    assert refused.value.key == "guest[1].name"


def test_what_a_file_says_does_not_reach_the_terminal(tmp_path: Path) -> None:
    """An escape sequence in a key is shown as a question mark by `xbd check`, and by every other error of a command."""
    (tmp_path / "f.toml").write_text('[host]\nmemory = "1g"\n"\\u001b[2J\\u009b31m" = 1\n')
    said = CliRunner().invoke(main, ["check", str(tmp_path / "f.toml")]).stderr

    assert "host.?[2J?31m: is not a key" in said
    assert Failure("a\x1b[2J\nb").message == "a?[2J\nb"
    assert printable("a\nb") == "a?b"
    assert "\x1b" not in quote({"\x1b[2J": "\x1b"})


def test_what_a_peer_says_does_not_reach_the_terminal_by_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """A person's log shows text of a peer without its escape sequences; its own colours stay."""
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    kept = structlog.get_config()
    try:
        log.configure(stream=stream)
        structlog.get_logger().warning("peer_dropped", reason="\x1b]0;owned\x07")
    finally:
        structlog.configure(**kept)
    assert "?]0;owned?" in stream.getvalue()
