"""Files and modules that the documents cite are in the repository."""

import re
from importlib import import_module
from pathlib import Path
from typing import Final

import pytest

from tests.docs.pages import DOCS, PAGES, ROOT, names, prose_of, rows_of

_PATH: Final = re.compile(r"`((?:xbd|tests|configs|systemd|\.ci)/[\w./@*-]+)`")
_FOLDER: Final = re.compile(r"`((?:daemons|guest|cli|lab)/\w+)`")
_MODULE: Final = re.compile(r"`(xbd(?:\.\w+)+)`")
_TEST: Final = re.compile(r"`(test_\w+)`")
_TERM: Final = re.compile(r"([\d,.]+) ?(KiB|MiB|ms|s)?\b")
_UNITS: Final = {None: 1, "KiB": 1 << 10, "MiB": 1 << 20, "ms": 0.001, "s": 1}


def missing_paths(text: str) -> list[str]:
    """Name the files and folders that a text cites and that are not there."""
    cited = set(_PATH.findall(text)) | {f"xbd/{folder}" for folder in _FOLDER.findall(text)}
    return sorted(path for path in cited if not list(ROOT.glob(path)))


def is_there(dotted: str) -> bool:
    """Tell whether a dotted name is a module, or something in one."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for name in parts[length:]:
            found = getattr(found, name, None)
        return found is not None
    return False


@pytest.mark.parametrize("path", PAGES, ids=names(PAGES))
def test_files_that_are_cited_are_there(path: Path) -> None:
    """Each `xbd/...`, `tests/...`, `configs/...` or `systemd/...` of a page is a file or a folder."""
    assert missing_paths(prose_of(path)) == []


@pytest.mark.parametrize("path", PAGES, ids=names(PAGES))
def test_modules_and_names_that_are_cited_are_there(path: Path) -> None:
    """Each `xbd.module` of a page can be imported, each `xbd.module.name` is in its module."""
    assert [dotted for dotted in sorted(set(_MODULE.findall(prose_of(path)))) if not is_there(dotted)] == []


@pytest.mark.parametrize("path", PAGES, ids=names(PAGES))
def test_tests_that_are_cited_are_there(path: Path) -> None:
    """Each `test_...` of a page is a test."""
    sources = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("test_*.py"))

    assert [name for name in sorted(set(_TEST.findall(prose_of(path)))) if f"def {name}(" not in sources] == []


def test_what_is_not_there_is_found() -> None:
    """The checks can fail."""
    assert missing_paths("`xbd/nowhere.py`, `xbd/units.py`, `lab/nowhere`") == ["xbd/lab/nowhere", "xbd/nowhere.py"]
    assert is_there("xbd.abi.MAX_EXTENTS")
    assert not is_there("xbd.abi.MAX_NOTHING")
    assert not is_there("xbd.nowhere")


def value_in(cell: str) -> float:
    """Read `1 MiB + 4 KiB`, `0.5 ms` or `1,024`."""
    total = 0.0
    for term in cell.split(" + "):
        found = _TERM.fullmatch(term)
        assert found is not None, f"{cell!r} is no value"
        total += float(found[1].replace(",", "")) * _UNITS[found[2]]
    return total


def test_every_bound_has_its_value() -> None:
    """The table of bounds names constants that there are, with the values that they have."""
    wrong = []
    for _, constant, told, _ in rows_of(DOCS / "bounds.md", "Every bound"):
        module, _, name = constant.strip("`").rpartition(".")
        value = getattr(import_module(f"xbd.{module}"), name)
        if abs(value - value_in(told)) > 1e-9 * abs(value):
            wrong.append(f"{constant} is {value}, the page says {told}")

    assert wrong == []
