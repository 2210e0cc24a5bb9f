"""`xbd docs`: the list of pages, a page, a page that is not there, the pager, completion."""

import json
import os
import sys
from pathlib import Path

import pexpect  # type: ignore[import-untyped]  # it ships no types
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from xbd.cli.commands.docs import DOCS, NoSuchPage, Page, find_page, read_pages
from xbd.cli.main import main
from xbd.errors import XbdError

# A topic's line must fit a terminal of ordinary width.
LINE_COLUMNS = 100


def test_the_list_names_every_page_in_one_line() -> None:
    """Each file below xbd/docs is one line: its topic, and what it is for; users' pages come first."""
    result = CliRunner().invoke(main, ["docs"])
    lines = result.output.splitlines()
    topics = [line.split()[0] for line in lines]

    assert result.exit_code == 0
    assert sorted(topics) == sorted(
        path.relative_to(DOCS).with_suffix("").as_posix().lower() for path in DOCS.rglob("*.md")
    )
    assert all(len(line) <= LINE_COLUMNS and line.endswith(".") for line in lines)
    assert ["/" in topic for topic in topics] == sorted("/" in topic for topic in topics)


def test_a_page_is_printed_as_it_is() -> None:
    """Piped, nothing is added and nothing left out, whatever case the topic is typed in."""
    for topic in ("words", "WORDS", "words.md"):
        assert CliRunner().invoke(main, ["docs", topic]).output == (DOCS / "words.md").read_text(encoding="utf-8")


def test_a_page_of_a_folder_is_found_by_its_last_part() -> None:
    """`xbd docs testing` is enough for contributing/testing, as long as only one page is called so."""
    pages = {name: Page(name, name) for name in ("a", "x/b", "x/c", "y/c")}

    assert find_page(pages, "b").topic == "x/b"
    with pytest.raises(NoSuchPage, match="several pages"):
        find_page(pages, "c")


@pytest.mark.parametrize(
    ("topic", "words"),
    [
        ("protocl", "did you mean 'protocol'?"),
        ("contributing/desing", "did you mean 'contributing/design'?"),
        ("desing", "did you mean 'contributing/design'?"),
        ("qqqq", "`xbd docs` lists them"),
        ("../secrets", "no page of the documents is called '../secrets'"),
    ],
)
def test_an_unknown_topic_is_refused_in_a_sentence(topic: str, words: str) -> None:
    """With the nearest topic if there is one, and exit code 1."""
    result = CliRunner().invoke(main, ["docs", topic])

    assert result.exit_code == 1
    assert words in result.output
    assert result.output.count("\n") == 1


def test_json_has_what_the_text_has() -> None:
    """The list as objects, a page as one."""
    listed = json.loads(CliRunner().invoke(main, ["docs", "--json"]).output)
    page = json.loads(CliRunner().invoke(main, ["docs", "words", "--json"]).output)

    assert {each["topic"] for each in listed} == set(read_pages())
    assert page == {"topic": "words", "text": (DOCS / "words.md").read_text(encoding="utf-8")}


def test_documents_that_cannot_be_read_are_a_sentence(tmp_path: Path) -> None:
    """A damaged installation names the file and what to do."""
    (tmp_path / "odd.md").write_bytes(b"\xff\xfe")

    with pytest.raises(XbdError, match="install xbd again"):
        read_pages(tmp_path)


def test_a_terminal_gets_a_pager() -> None:
    """Standard output is a terminal: the page goes through $PAGER."""
    shown = pexpect.run(
        f"{sys.executable} -m xbd docs words",
        env={**os.environ, "PAGER": "sed s/^/PAGED:/"},
        encoding="utf-8",
        timeout=60,
    )

    assert all(line.startswith("PAGED:") for line in shown.splitlines())
    # click ends what it hands to a pager with a newline of its own.
    assert len(shown.splitlines()) - 1 == len((DOCS / "words.md").read_text(encoding="utf-8").splitlines())


def test_the_shell_completes_topics() -> None:
    """What the shell is given for `xbd docs pro<TAB>`, by the command line library's own means."""
    completion = ShellComplete(main, {}, "xbd", "_XBD_COMPLETE")

    assert [item.value for item in completion.get_completions(["docs"], "pro")] == ["protocol"]
    assert [item.value for item in completion.get_completions(["docs"], "contributing/q")] == ["contributing/queue"]
