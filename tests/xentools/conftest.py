"""Debian's Xen tools, unpacked once for each module of tests that wants them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.catching import skip_where_none_are_caught
from tests.debian import in_path, unpack

PACKAGES = (
    *("xen-utils-4.17", "libxenmisc4.17", "libxencall1", "libxentoolcore1", "libxentoollog1", "libxenevtchn1"),
    *(
        "libxenforeignmemory1",
        "libxengnttab1",
        "libxendevicemodel1",
        "libxenhypfs1",
        "libxenstore4",
        "libyajl2",
        "xenstore-utils",
    ),
)


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Have Xen's tools and their libraries, unpacked for these tests alone."""
    skip_where_none_are_caught()
    root = unpack(tmp_path_factory.mktemp("xen"), PACKAGES)
    if not (root / "usr" / "lib" / "xen-4.17").is_dir():
        pytest.skip("this Debian has another release of Xen")
    with in_path(root, "sbin"):
        yield root
