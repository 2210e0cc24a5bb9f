"""`xbd web` at its command line: where it listens, and which files it opens."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from xbd.cli.main import main


@pytest.mark.parametrize("listen", ["0.0.0.0:9120", "[::]:9120", "10.0.0.1:9120", "here.example:9120"])
def test_other_machines_are_let_in_by_name_alone(listen: str) -> None:
    """An address that they reach is refused in a sentence that says what would be taken."""
    refused = CliRunner().invoke(main, ["web", "--listen", listen])

    assert refused.exit_code == 1
    assert f"--listen {listen}" in refused.stderr
    assert "--let-other-machines-in" in refused.stderr


@pytest.mark.parametrize("listen", ["9120", "127.0.0.1:99999", "unix:/no/such/directory/x.sock"])
def test_where_it_cannot_listen_is_said(listen: str) -> None:
    """One sentence, exit 1."""
    refused = CliRunner().invoke(main, ["web", "--listen", listen])

    assert refused.exit_code == 1
    assert listen in refused.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [(None, "No such file"), ("", "no rows"), ("a,b\n1,2\n", "no column run"), ("\udcff", "is not UTF-8 text")],
)
def test_a_file_that_is_no_series_is_refused(tmp_path: Path, text: str | None, words: str) -> None:
    """With its name, what is wrong, and what writes one; exit 78."""
    path = tmp_path / "x.csv"
    if text is not None:
        path.write_bytes(text.encode(errors="surrogateescape"))
    refused = CliRunner().invoke(main, ["web", "--open", str(path)])

    assert refused.exit_code == 78
    assert f"{path}: " in refused.stderr
    assert words in refused.stderr
