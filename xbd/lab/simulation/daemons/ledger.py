"""What people were answered about their domains and keys, and what must therefore be there."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from xbd.domain import DomainInfo
from xbd.errors import HypercallError
from xbd.testing.oracle import Violation

# What a host may refuse a call for when it lacks something: nothing has changed then.
LACKING: Final = frozenset({"ENOMEM", "ENOSPC", "EMFILE", "ENFILE", "EIO"})


@dataclass(frozen=True, slots=True)
class Promise:
    """A domain as its owner was last answered: its number, target and limit in pages."""

    domid: int
    target_pages: int
    max_pages: int


class Ledger:
    """The domains of one owner, whose names nobody else uses.

    Where somebody else sets their sizes, as the policy does, not *keeps_sizes*, only their numbers are compared.

    A call whose connection was lost for good may have been done or not: `unsure` says how the domain may be then,
    and the next look decides. Attributes: *promises*: by name.
    """

    def __init__(self, owner: str, *, keeps_sizes: bool = True) -> None:
        self.owner = owner
        self.keeps_sizes = keeps_sizes
        self.promises: dict[str, Promise] = {}
        self._unsure: dict[str, list[Promise | None]] = {}

    def promise(self, domid: int, target_pages: int, max_pages: int) -> Promise:
        """Make what is compared of a domain."""
        return Promise(domid, target_pages, max_pages) if self.keeps_sizes else Promise(domid, 0, 0)

    def created(self, name: str, promise: Promise) -> None:
        """Note a create that was answered. Raises Violation: one of that name was there."""
        if name in self.promises:
            raise Violation(f"{self.owner}: {name} was created twice, as {self.promises[name]} and {promise}")
        self.promises[name] = promise

    def destroyed(self, name: str) -> None:
        """Note a destroy that was answered."""
        del self.promises[name]

    def changed(self, name: str, promise: Promise) -> None:
        """Note a target or limit that was answered."""
        self.promises[name] = promise

    def refused(self, name: str, method: str, error: HypercallError) -> None:
        """Judge a refusal. Raises Violation: nothing that is known explains it, such as a call that was done twice."""
        if error.errno not in LACKING:
            there = self.promises.get(name)
            raise Violation(f"{self.owner}: {method} {name} was refused ({error}), and it is {there or 'not there'}")

    def unsure(self, name: str, *may_be: Promise | None) -> None:
        """Note how a domain may be after a call without an answer; None: not there."""
        self._unsure[name] = [self.promises.get(name), *may_be]

    def compare(self, listed: Iterable[DomainInfo]) -> None:
        """Hold a list of the host's domains against what was promised. Raises Violation."""
        found = {
            one.name: self.promise(one.domid, one.target_pages, one.max_pages)
            for one in listed
            if one.name.startswith(f"{self.owner}-") and one.state != "zombie"
        }
        for name, may_be in sorted(self._unsure.items()):
            self._settle(name, found.get(name), may_be)
        self._unsure.clear()
        if found != self.promises:
            wrong = sorted(set(found.items()) ^ set(self.promises.items()), key=str)
            raise Violation(f"{self.owner}: the host has {_told(found)}, promised were {_told(self.promises)}: {wrong}")

    def _settle(self, name: str, found: Promise | None, may_be: list[Promise | None]) -> None:
        """Take what is found for what the call without an answer did, if it can be that."""
        fits = [one for one in may_be if _fits(found, one)]
        if not fits:
            raise Violation(f"{self.owner}: {name} is {found}, after a call without an answer it can be {may_be}")
        if found is None:
            self.promises.pop(name, None)
        else:
            self.promises[name] = found


def _fits(found: Promise | None, expected: Promise | None) -> bool:
    """Tell whether a domain is as expected; a number below 0 is any."""
    if found is None or expected is None:
        return found is expected
    same = (found.target_pages, found.max_pages) == (expected.target_pages, expected.max_pages)
    return same and expected.domid in (found.domid, -1)


def _told(promises: Mapping[str, Promise]) -> str:
    return ", ".join(f"{name} d{one.domid}" for name, one in sorted(promises.items())) or "none"


class Keys:
    """The keys of one client of the store. Attributes: *values*: by path; None: it was removed."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.values: dict[str, bytes | None] = {}
        self._may_be: dict[str, set[bytes | None]] = {}

    def written(self, path: str, value: bytes | None, *, is_safe: bool) -> None:
        """Note an answered write, or removal; not *is_safe* means that the store said that it could not save it."""
        before = self.values.get(path)
        self.values[path] = value
        if is_safe:
            self._may_be.pop(path, None)
        else:
            self._may_be.setdefault(path, {before}).add(value)

    def unsure(self, path: str, value: bytes | None) -> None:
        """Note a write without an answer."""
        self._may_be.setdefault(path, {self.values.get(path)}).add(value)

    def compare(self, path: str, found: bytes | None) -> None:
        """Hold what was read against what was written. Raises Violation."""
        may_be = self._may_be.get(path, {self.values.get(path)})
        if found not in may_be:
            raise Violation(f"{self.owner}: {path} is {found!r}, written was {sorted(may_be, key=repr)}")
        self.values[path] = found
