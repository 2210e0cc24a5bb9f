"""The tables of a release are what its headers say, and structs come back as they were written."""

import ast
import shutil
from pathlib import Path

import pytest

from tests.debian import unpack
from tests.hypercalls.make_layouts import make
from xbd.hypercalls import release_4_17
from xbd.hypercalls.releases import XEN_4_17


@pytest.mark.slow
def test_the_tables_are_made_from_the_headers(tmp_path: Path) -> None:
    """Debian's libxen-dev and a C compiler make the module that is kept, but for where its lines break."""
    if shutil.which("gcc") is None:
        pytest.skip("no C compiler here (Debian: gcc)")
    include = unpack(tmp_path, ["libxen-dev"]) / "usr" / "include"
    if not list(tmp_path.glob("libxen-dev_4.17*")):
        pytest.skip("this Debian has another release's libxen-dev")
    kept = Path(release_4_17.__file__).read_text(encoding="utf-8")

    assert ast.dump(ast.parse(make(include, tmp_path))) == ast.dump(ast.parse(kept))


def test_structs_have_the_sizes_that_tools_pass() -> None:
    """Those of Xen 4.17 on x86-64, as its tools were seen to pass them."""
    sizes = {"sysctl": 136, "domctl": 144, "physinfo": 112, "getdomaininfo": 112, "pod_target": 40}

    assert {name: XEN_4_17.layouts[name].size for name in sizes} == sizes


def test_what_was_packed_is_unpacked() -> None:
    """Fields go where they belong, in any order; what is not given is zero."""
    for layout in XEN_4_17.layouts.values():
        empty = layout.unpack(bytes(layout.size))
        values = {name: number for number, name in enumerate(empty, start=1) if empty[name] == 0}
        read = layout.unpack(layout.pack(**values))
        assert {name: read[name] for name in values} == values
    assert XEN_4_17.layouts["max_mem"].pack() == bytes(8)
