"""What the documents cite is there: commands, options, documents, constants, methods; and every command is cited."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
import pytest
from click.testing import CliRunner

from tests.docs.pages import DOCS, PAGES, ROOT, blocks_of, commands_of, names, prose_of, rows_of
from xbd.cli.main import COMMANDS, main
from xbd.config.strategies import STRATEGIES
from xbd.daemons import metric_families
from xbd.protocol.description import tables

_INLINE: Final = re.compile(r"`([^`\n]+)`")
_LINK: Final = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
# What ends a command of a shell's line.
_SEPARATORS: Final = re.compile(r"&&|\|\||[|;&)]|\$\(")
# Words that stand for any in a text about commands.
_PLACEHOLDERS: Final = frozenset({"COMMAND", "..."})


def commands_in(path: Path) -> Iterator[str]:
    """List every `xbd ...` that a page writes: in a text, in a session, among the shell's commands."""
    typed = [cited for cited in _INLINE.findall(prose_of(path)) if cited.startswith(("xbd ", "pip "))]
    for block in blocks_of(path):
        if block.kind.startswith("console"):
            typed += [line for command in commands_of(block) for line in command.typed.splitlines()[:1]]
        elif block.kind == "sh":
            typed += block.lines
    for line in typed:
        for part in _SEPARATORS.split(line.partition(" #")[0]):
            words = part.split()
            for at, word in enumerate(words):
                if word.rpartition("/")[2] == "xbd":
                    yield " ".join(words[at:])


def options_of(command: click.Command) -> set[str]:
    """Name the options of a command."""
    with click.Context(command) as context:
        return {
            option
            for parameter in command.get_params(context)
            for option in (*parameter.opts, *parameter.secondary_opts)
        }


def wrong_in(cited: str) -> str | None:
    """Say what is wrong with an `xbd ...` that is cited; None if it can be typed."""
    words = cited.split()[1:]
    taken = options_of(main)
    while words and words[0].startswith("-"):
        if words[0] not in taken:
            return f"xbd has no option {words[0]}"
        # `--socket PATH` before the command.
        words = words[2:] if words[0] == "--socket" else words[1:]
    if not words or words[0].rstrip(",") in _PLACEHOLDERS:
        return None
    if words[0] not in COMMANDS:
        return f"there is no command {words[0]!r}"
    command = main.get_command(click.Context(main), words[0])
    assert command is not None
    # A group may do something by itself: then its own options follow.
    while isinstance(command, click.Group) and len(words) > 1 and words[1] not in _PLACEHOLDERS and words[1][0] != "-":
        found = command.get_command(click.Context(command), words[1])
        if found is None:
            return f"`xbd {words[0]}` has no command {words[1]!r}"
        command, words = found, words[1:]
    known = options_of(command)
    unknown = [word for word in words[1:] if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in known]
    # What follows a whole other command (`xbd reserve 4g xbd create ...`) is judged by itself.
    return f"`xbd {words[0]}` has no option {unknown[0]}" if unknown and "xbd" not in words else None


@pytest.mark.parametrize("path", PAGES, ids=names(PAGES))
def test_commands_and_options_are_there(path: Path) -> None:
    """Every `xbd ...` of a page names a command that there is, with options that it has."""
    wrong = [f"{cited}: {reason}" for cited in commands_in(path) if (reason := wrong_in(cited)) is not None]

    assert wrong == []


@pytest.mark.parametrize(
    ("cited", "words"),
    [
        ("xbd frobnicate", "no command"),
        ("xbd list --frob", "no option"),
        ("xbd --frob list", "no option"),
        ("xbd trace frob", "no command"),
        ("xbd trace cut --frob", "no option"),
    ],
)
def test_a_command_that_is_not_there_is_found(cited: str, words: str) -> None:
    """The check can fail."""
    assert words in str(wrong_in(cited))


def test_every_command_is_named_in_the_documents() -> None:
    """A user who reads the pages for users meets each command once at least."""
    cited = {words[1] for path in DOCS.glob("*.md") for line in commands_in(path) if len(words := line.split()) > 1}

    assert sorted(set(COMMANDS) - cited) == []


def anchors_of(path: Path) -> set[str]:
    """Name the anchors of a page's headings, as they are made where the repository is shown."""
    headings = re.findall(r"^#+ (.+)$", prose_of(path), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=names(PAGES))
def test_links_lead_somewhere(path: Path) -> None:
    """A link to another document leads to a file, and to a heading in it."""
    wrong = []
    for target in _LINK.findall(prose_of(path)):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        page = (path.parent / file).resolve() if file else path
        if not page.is_file() or (anchor and anchor not in anchors_of(page)):
            wrong.append(target)

    assert wrong == []


def test_every_page_is_in_the_index_and_says_what_it_is_for() -> None:
    """The index links all pages; each has one title, then a paragraph that begins with what it is for."""
    linked = {(DOCS / target).resolve() for target in _LINK.findall(prose_of(DOCS / "index.md"))}
    for path in sorted(DOCS.rglob("*.md")):
        title, empty, first, *_ = path.read_text(encoding="utf-8").splitlines()
        assert title.startswith("# "), path
        assert not empty, path
        assert re.match(r"(?:How|What|Which|Where|The facts) [^.]+\.", first), path
        assert path in linked or path.name == "index.md", path


def test_the_page_of_methods_is_what_the_command_prints() -> None:
    """`xbd protocol > xbd/docs/methods.md` would change nothing."""
    assert (DOCS / "methods.md").read_text(encoding="utf-8") == tables()


def test_the_page_of_settings_is_what_the_command_prints() -> None:
    """`xbd check --keys > xbd/docs/settings.md` would change nothing."""
    printed = CliRunner().invoke(main, ["check", "--keys"], catch_exceptions=False).output

    assert (DOCS / "settings.md").read_text(encoding="utf-8") == printed


def test_the_page_of_differences_has_every_strategy() -> None:
    """The table names the strategies that there are, in their order."""
    told = [cells[0].strip("`") for cells in rows_of(DOCS / "differences.md", "Strategies")]

    assert told == list(STRATEGIES)


def test_the_page_about_operating_has_every_metric() -> None:
    """The table names the metrics that are served, and no others."""
    told = {name for cells in rows_of(DOCS / "operating.md", "Metrics") for name in _INLINE.findall(cells[0])}

    assert told == set(re.findall(r'"(xbd_\w+)"', inspect.getsource(metric_families)))


def test_the_readme_is_short_and_has_the_two_commands() -> None:
    """150 lines at most; the commands that install and test are the first ones."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = [line for block in blocks_of(ROOT / "README.md") if block.kind == "sh" for line in block.lines]

    assert len(text.splitlines()) <= 150
    assert commands == [
        "python3 -m venv .venv && .venv/bin/pip install -q . && .venv/bin/xbd demo",
        "python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]' && .venv/bin/pytest -q",
    ]
