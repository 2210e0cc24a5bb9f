"""Watches: which connections get events about which paths.

They are indexed by path: a change of a node fires the watches on it and on every node above it; a node that
is removed with one above it fires only those on just that node. So an event costs one look-up for each
component of its path, however many watches there are.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from xbd.xenstore.paths import ancestry
from xbd.xenstore.permissions import Permissions


class Listener(Protocol):
    """The receiver of a watch's events."""

    def may_hear(self, readers: Iterable[Permissions]) -> bool:
        """Tell whether one of these lists lets it read."""

    def hear(self, watch: "Watch", path: bytes) -> None:
        """Take an event: *path*, which *watch* watches, has changed."""


@dataclass(frozen=True, slots=True, eq=False)
class Watch:
    """One watch.

    Attributes: *path*: absolute, or a special name; *token*: sent with each event; *skip*: bytes of the path that its
    events
    leave out, because the client named it relatively; *number*: the order in which watches were set.
    """

    listener: Listener
    path: bytes
    token: bytes
    skip: int
    number: int

    def event(self, path: bytes) -> bytes:
        """Make an event's payload."""
        return path[self.skip :] + b"\0" + self.token + b"\0"


@dataclass(slots=True)
class Watches:
    """All watches, by path."""

    _by_path: dict[bytes, list[Watch]] = field(default_factory=dict)
    _last: int = 0

    def add(self, listener: Listener, path: bytes, token: bytes, skip: int) -> Watch:
        """Add a watch."""
        self._last += 1
        watch = Watch(listener, path, token, skip, self._last)
        self._by_path.setdefault(path, []).append(watch)
        return watch

    def remove(self, watch: Watch) -> None:
        """Remove a watch."""
        others = self._by_path[watch.path]
        others.remove(watch)
        if not others:
            del self._by_path[watch.path]

    def matching(self, path: bytes, *, exact: bool) -> list[Watch]:
        """List the watches that fire for *path*, in the order in which they were set."""
        if not self._by_path:
            return []
        if exact:
            return list(self._by_path.get(path, ()))
        found = [watch for above in ancestry(path) for watch in self._by_path.get(above, ())]
        found.sort(key=lambda watch: watch.number)
        return found

    def __iter__(self) -> Iterator[Watch]:
        for watches in self._by_path.values():
            yield from watches

    def __len__(self) -> int:
        return sum(map(len, self._by_path.values()))
