"""Which program a command means, and whether it may need files."""

import os
from pathlib import Path

import pytest

from xbd.xentools.programs import find_program, needs_files


def test_the_real_tool_comes_before_its_wrapper(tmp_path: Path) -> None:
    """In a system's directories, those of Xen's tools come first, for the program and for what it starts; others as they are."""
    for name in ("sbin/xl", "lib/xen-4.17/bin/xl", "sbin/other"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o755)
    path = {"PATH": str(tmp_path / "sbin")}

    found = find_program(["xl", "list"], path)
    assert found is not None
    assert found.path == str(tmp_path / "lib" / "xen-4.17" / "bin" / "xl")
    assert (found.argv, found.environ["PATH"].split(os.pathsep)[1:]) == (("xl", "list"), [path["PATH"]])
    other = find_program(["other"], path)
    assert other is not None
    assert other.path == str(tmp_path / "sbin" / "other")
    assert find_program(["none"], path) is None


@pytest.mark.parametrize(
    ("command", "files"),
    [
        ("xl list", False),
        ("/usr/lib/xen-4.17/bin/xl info", False),
        ("xl list -l web1", True),
        ("xl info -n", True),
        ("xl mem-set web1 512", True),
        ("xl", True),
        ("xentop", True),
        ("sh -c xl", True),
    ],
)
def test_what_needs_files(command: str, files: bool) -> None:  # noqa: FBT001 - a column of a table
    """All but some of xl's commands do, and these with the options that ask for more."""
    assert needs_files(command.split()) is files
