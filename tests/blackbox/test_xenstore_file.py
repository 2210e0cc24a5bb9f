"""What lies in the place of a XenStore's file is refused in a sentence, and left as it was."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.blackbox.host import hypervisor
from tests.blackbox.host_directory import run_xbd, tree

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (os.mkfifo, "it is no regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "it is no regular file"),
        (Path.mkdir, "it is no regular file"),
        (lambda path: path.symlink_to("gone"), "No such file or directory"),
        (lambda path: path.symlink_to(path.name), "Too many levels of symbolic links"),
    ],
    ids=["a pipe", "a device", "a directory", "a link to nothing", "a link to itself"],
)
def test_a_strange_file_is_refused(tmp_path: Path, make: Callable[[Path], object], said: str) -> None:
    """Nothing is waited for, read without end, or begun anew in its place."""
    state = tmp_path / "state"
    state.mkdir()
    (state / "xenstore.lock").touch(0o600)
    make(state / "xenstore.save")
    before = tree(state)
    with hypervisor(tmp_path):
        done = run_xbd("--socket", str(tmp_path), "xenstored", "--state-dir", str(state))
    assert done.returncode == 78, done.stderr
    assert f"xenstore.save: cannot be used: {said}" in done.stderr
    assert "Traceback" not in done.stderr
    assert tree(state) == before
