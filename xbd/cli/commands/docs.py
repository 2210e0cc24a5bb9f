"""The docs command: the pages of `xbd/docs`, read in a terminal."""

import difflib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

import xbd
from xbd.cli.common import emit
from xbd.errors import XbdError

DOCS: Final = Path(xbd.__file__).parent / "docs"


class NoSuchPage(XbdError):
    """No page has this name; says which page may be meant, or how to list them."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page: its *topic*, which is its path below `xbd/docs` in small letters without `.md`, and its *text*."""

    topic: str
    text: str

    @property
    def summary(self) -> str:
        """Return the first sentence below the title: what the page is for."""
        paragraph = self.text.partition("\n\n")[2].partition("\n\n")[0].replace("\n", " ")
        sentence, stop, _ = paragraph.partition(". ")
        return sentence + stop.strip()


def read_pages(directory: Path = DOCS) -> dict[str, Page]:
    """Read all pages, by topic: those for users first, then the contributors', each group by name.

    Raises:
        XbdError: a page cannot be read.
    """
    paths = sorted(directory.rglob("*.md"), key=lambda path: (path.parent != directory, path.as_posix().lower()))
    try:
        pages = [Page(_topic(directory, path), path.read_text(encoding="utf-8")) for path in paths]
    except (OSError, UnicodeDecodeError) as error:
        raise XbdError(f"the documents in {directory} cannot be read: {error}; install xbd again") from error
    return {page.topic: page for page in pages}


def _topic(directory: Path, path: Path) -> str:
    return path.relative_to(directory).with_suffix("").as_posix().lower()


def find_page(pages: dict[str, Page], topic: str) -> Page:
    """Find a page by its topic in either case; the last part of a topic is enough where only one ends so.

    Raises:
        NoSuchPage: no page is called so, or more than one; names the nearest.
    """
    wanted = topic.lower().removesuffix(".md").strip("/")
    if wanted in pages:
        return pages[wanted]
    ending = [name for name in pages if name.rpartition("/")[2] == wanted]
    if len(ending) == 1:
        return pages[ending[0]]
    if ending:
        raise NoSuchPage(f"several pages are called {topic!r}: {', '.join(ending)}; name one of them")
    whole_names = {name.rpartition("/")[2]: name for name in pages} | {name: name for name in pages}
    close = difflib.get_close_matches(wanted, whole_names, n=1)
    hint = f"did you mean {whole_names[close[0]]!r}?" if close else "`xbd docs` lists them"
    raise NoSuchPage(f"no page of the documents is called {topic!r}; {hint}")


def complete_topics(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Complete a topic."""
    del ctx, param
    try:
        return [topic for topic in read_pages() if topic.startswith(incomplete.lower())]
    except XbdError:
        # A shell that completes has no place for an error.
        return []


def _listing(pages: Sequence[Page]) -> list[str]:
    width = max((len(page.topic) for page in pages), default=0)
    return [f"{page.topic:<{width}}  {page.summary}" for page in pages]


@click.command("docs")
@click.argument("topic", required=False, shell_complete=complete_topics)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def docs_command(topic: str | None, *, as_json: bool) -> None:
    """Show the page about TOPIC; without it, list the pages, a line each.

    On a terminal a page is shown in your pager ($PAGER); piped it is printed as it is.
    """
    pages = read_pages()
    if topic is None:
        listed = list(pages.values())
        emit(as_json, [{"topic": page.topic, "summary": page.summary} for page in listed], _listing(listed))
        return
    page = find_page(pages, topic)
    if as_json:
        emit(as_json, {"topic": page.topic, "text": page.text}, [])
    elif sys.stdout.isatty():
        click.echo_via_pager(page.text)
    else:
        click.echo(page.text, nl=False)
