"""What lies in the run-time directory in the place of a socket ends no start in a traceback."""

from pathlib import Path

import pytest

from tests.blackbox.test_damaged_state import refusal

pytestmark = pytest.mark.slow


def test_a_directory_in_the_place_of_a_domains_socket_is_refused(tmp_path: Path) -> None:
    """A sentence that names it, and exit 78; it is left as it was."""
    strange = tmp_path / "run" / "domains" / "5.sock"
    strange.mkdir(parents=True)
    (tmp_path / "run").chmod(0o700)
    said = refusal("hypervisor", "--memory", "32m", "--runtime-dir", str(tmp_path / "run"))
    assert str(strange) in said
    assert strange.is_dir()
