"""What the documents print is what xbd prints: sessions and programs are run, files are checked, measurements are dated."""

import datetime as dt
import os
import re
import subprocess
import sys
import tomllib
from itertools import zip_longest
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, Block, blocks_of, commands_of, names, pattern_of
from tests.docs.shell import Shell
from xbd.daemons.config_files import load_host_config

WITH_SESSIONS = [path for path in PAGES if any(block.kind == "console" for block in blocks_of(path))]
PROGRAMS = [
    (block, after)
    for path in PAGES
    for block, after in zip_longest(blocks_of(path), blocks_of(path)[1:])
    if block.kind == "python"
]
FILES = [block for path in PAGES for block in blocks_of(path) if block.kind == "toml"]
KINDS = {"console", "python", "text output", "text picture", "toml", "sh"}
MEASURED = re.compile(r"(?:console|text) measured (\d{4}-\d{2}-\d{2})")
PROGRAM_TIMEOUT_S = 60


@pytest.mark.slow
@pytest.mark.parametrize("path", WITH_SESSIONS, ids=names(WITH_SESSIONS))
def test_sessions_print_what_the_page_says(path: Path, tmp_path: Path) -> None:
    """Every command of every session of a page, in order, in one shell with a host of its own."""
    with Shell(tmp_path) as shell:
        for block in blocks_of(path):
            for command in commands_of(block) if block.kind == "console" else ():
                shell.run(command)


@pytest.mark.slow
@pytest.mark.parametrize(("block", "after"), PROGRAMS, ids=[block.where for block, _ in PROGRAMS])
def test_programs_print_what_the_page_says(block: Block, after: Block | None, tmp_path: Path) -> None:
    """A program runs as it stands; the block of output that follows it is what it prints."""
    run = subprocess.run(  # noqa: S603 - our own documents
        [sys.executable, "-c", block.text],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PROGRAM_TIMEOUT_S,
        check=False,
    )
    expected = list(after.lines) if after is not None and after.kind == "text output" else []

    assert run.returncode == 0, f"{block.where}: {run.stderr}"
    assert pattern_of(expected).fullmatch(run.stdout), f"{block.where} printed:\n{run.stdout}"


@pytest.mark.parametrize("block", FILES, ids=[block.where for block in FILES])
def test_files_are_taken(block: Block, tmp_path: Path) -> None:
    """A piece of TOML parses; one that has a [host] is a whole host file that can be used."""
    if "host" in tomllib.loads(block.text):
        path = tmp_path / "host.toml"
        path.write_text(block.text, encoding="utf-8")
        load_host_config(path)


@pytest.mark.parametrize("path", PAGES, ids=names(PAGES))
def test_every_block_is_run_checked_or_dated(path: Path) -> None:
    """A block says what it is; nothing that xbd printed stands there without being run or having its day."""
    for block in blocks_of(path):
        dated = MEASURED.fullmatch(block.kind)
        assert dated or block.kind in KINDS, f"{block.where}: a block of kind {block.kind!r}"
        if dated:
            dt.date.fromisoformat(dated[1])
        if block.kind in ("sh", "text picture"):
            assert not any(line.startswith("$ ") for line in block.lines), f"{block.where}: this is a session"


@pytest.mark.parametrize(
    ("expected", "printed", "matches"),
    [
        (["a", "b"], "a\nb\n", True),
        (["a", "b"], "a\nc\n", False),
        (["a", "..."], "a\n", True),
        (["a", "...", "z"], "a\nb\nc\nz\n", True),
        (["a", "...", "z"], "a\nb\nc\n", False),
        (["took ... s"], "took 3.5 s\n", True),
        (["took ... s"], "took\n3.5 s\n", False),
        (["a.c"], "abc\n", False),
        ([], "", True),
        ([], "more\n", False),
    ],
)
def test_dots_match_any_text(expected: list[str], printed: str, matches: bool) -> None:  # noqa: FBT001 - a case's answer
    """`...` stands for text of any kind, all else for itself: the comparison can fail."""
    assert bool(pattern_of(expected).fullmatch(printed)) is matches


def test_a_session_that_prints_something_else_fails(tmp_path: Path) -> None:
    """Other output, another exit code, or a background job that says another thing: the shell tells."""
    page = tmp_path / "page.md"
    for lines in ("$ echo one\ntwo", "$ false", "$ true  # exit code 1"):
        page.write_text(f"```console\n{lines}\n```\n", encoding="utf-8")
        directory = tmp_path / str(len(lines))
        directory.mkdir()
        block = blocks_of(page)[0]
        [command] = commands_of(Block(ROOT / "page.md", block.line, block.kind, block.lines))
        with Shell(directory) as shell, pytest.raises(AssertionError, match=r"page\.md:2: `"):
            shell.run(command)
