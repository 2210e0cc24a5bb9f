"""Debian's packages for tests: downloaded and unpacked in a directory of their own, nothing is installed."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

PATIENCE_S = 60.0


def unpack(root: Path, packages: Sequence[str]) -> Path:
    """Download and unpack packages in *root*; skips the test where there are none to be had."""
    for command in (["apt-get", "-qq", "download", *packages], ["sh", "-c", "for d in *.deb; do dpkg -x $d .; done"]):
        try:
            subprocess.run(command, cwd=root, capture_output=True, check=True, timeout=PATIENCE_S)  # noqa: S603 - our own words
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"none of these of Debian's packages to be had here: {' '.join(packages)}: {error!r:.120}")
    return root


@contextmanager
def in_path(root: Path, *more: str) -> Iterator[None]:
    """Have the unpacked programs in the path (*more*: of these directories of /usr, too), and their libraries."""
    with pytest.MonkeyPatch.context() as patch:
        folders = [str(root / "usr" / name) for name in ("bin", *more)]
        patch.setenv("PATH", os.pathsep.join([*folders, os.environ["PATH"]]))
        libraries = ":".join(str(one) for one in (root / "usr" / "lib").iterdir() if one.name.endswith("-gnu"))
        patch.setenv("LD_LIBRARY_PATH", f"{libraries}:{os.environ.get('LD_LIBRARY_PATH', '')}".rstrip(":"))
        yield
