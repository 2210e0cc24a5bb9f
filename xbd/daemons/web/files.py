"""The page's own files, as they are served: each with its type, and a tag by which a browser knows that it has it."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from xbd.daemons.runtime.outside import open_to_read

_DIRECTORY: Final = Path(__file__).parent / "page"
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_INDEX: Final = "index.html"


@dataclass(frozen=True, slots=True)
class PageFile:
    """A file of the page: its type, its tag, its bytes."""

    content_type: str
    etag: str
    body: bytes


def page_files() -> dict[str, PageFile]:
    """Read the page's files: each by the path at which it is asked for."""
    found = {}
    for path in sorted(_DIRECTORY.iterdir()):
        if path.suffix in _TYPES:
            with open_to_read(path) as file:
                body = file.read()
            etag = f'"{sha256(body).hexdigest()[:32]}"'
            found["/" if path.name == _INDEX else f"/{path.name}"] = PageFile(_TYPES[path.suffix], etag, body)
    return found
