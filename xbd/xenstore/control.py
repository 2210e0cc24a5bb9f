"""CONTROL: what a privileged client asks of the daemon itself, and the trace of requests that it may have written.

Source: Xen tools/xenstore/xenstored_control.c (4.17); its live update and its reports on memory are not offered.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from xbd.xenstore.codec import PAYLOAD_MAX, Operation, leading_number, strings_of
from xbd.xenstore.connections import Connection
from xbd.xenstore.domains import Domain
from xbd.xenstore.errors import StoreError
from xbd.xenstore.tree import Tree

_OK: Final = b"OK\0"
# Lines that wait to be written; of more the oldest are dropped.
_TRACED: Final = 10_000
_NAMES: Final = {int(one): one.name for one in Operation}
_HARD: Final = {
    b"nodes": ("nodes", "Nodes per domain"),
    b"watches": ("watches", "Watches per domain"),
    b"transactions": ("transactions", "Transactions per domain"),
    b"outstanding": ("outstanding", "Outstanding requests per domain"),
    b"transaction-nodes": ("transaction_nodes", "Max. number of accessed nodes per transaction"),
    b"memory": ("memory", "Total Xenstore memory per domain (error level)"),
    b"node-size": ("node_size", "Max. size of a node"),
    b"path-max": ("path_max", "Max. length of a node path"),
    b"permissions": ("permissions", "Max. number of permissions per node"),
}
_SOFT: Final = {b"memory": ("memory_soft", "Total Xenstore memory per domain (warning level)")}
Limits = dict[bytes, tuple[str, str]]


@dataclass(slots=True)
class Trace:
    """The trace of requests and answers: where it is to be written (empty: nowhere), whether, and what waits for that."""

    path: str = ""
    on: bool = False
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=_TRACED))

    def note(self, way: str, domid: int, operation: int, payload: bytes) -> None:
        """Add a line: *way* is IN or OUT."""
        self.lines.append(f"{way} d{domid} {_NAMES.get(operation, operation)} {payload!r}")

    def turn(self, *, on: bool) -> None:
        """Begin or end; without a path there is nothing to begin."""
        self.on = on and bool(self.path)


class Controlled(Protocol):
    """What CONTROL needs of a store; see there."""

    tree: Tree
    domains: dict[int, Domain]
    notes: deque[tuple[str, dict[str, object]]]
    trace: Trace

    def connections_of(self, domid: int) -> list[Connection]:
        """List a domain's connections."""

    def check(self) -> list[str]:
        """Recompute everything; name what does not hold."""


def control(store: Controlled, payload: bytes) -> bytes:
    """Carry out a CONTROL request. Raises StoreError: EINVAL, ENOENT."""
    match strings_of(payload):
        case [name, *words] if name in _COMMANDS:
            return _COMMANDS[name][1](store, words)
    raise StoreError("EINVAL", f"expected one of {b', '.join(_COMMANDS).decode()}")


def _check(store: Controlled, words: list[bytes]) -> bytes:
    _expect(not words)
    violations = "\n".join(store.check()).encode()
    return violations[: PAYLOAD_MAX - 1] + b"\0" if violations else _OK


def _log(store: Controlled, words: list[bytes]) -> bytes:
    _expect(words in ([b"on"], [b"off"]))
    store.trace.turn(on=words == [b"on"])
    return _OK


def _logfile(store: Controlled, words: list[bytes]) -> bytes:
    _expect(len(words) == 1)
    store.trace.path = words[0].decode(errors="surrogateescape")
    store.trace.turn(on=True)
    return _OK


def _print(store: Controlled, words: list[bytes]) -> bytes:
    _expect(len(words) == 1)
    store.notes.append(("xenstore_control_print", {"text": words[0].decode(errors="replace")}))
    return _OK


def _quota(store: Controlled, words: list[bytes]) -> bytes:
    if words[:1] in ([], [b"set"]):
        return _limits(store, words, _HARD)
    _expect(len(words) == 1)
    return _usage(store, leading_number(words[0]))


def _quota_soft(store: Controlled, words: list[bytes]) -> bytes:
    return _limits(store, words, _SOFT)


def _limits(store: Controlled, words: list[bytes], limits: Limits) -> bytes:
    quotas = store.tree.quotas
    if not words:
        lines = [f"{name.decode():<17}: {getattr(quotas, key):8d} {about}\n" for name, (key, about) in limits.items()]
        return ("Quota settings:\n" + "".join(lines)).encode() + b"\0"
    _expect(len(words) == 3 and words[0] == b"set" and words[1] in limits)
    value = leading_number(words[2])
    _expect(0 < value < 1 << 31)
    setattr(quotas, limits[words[1]][0], value)
    return _OK


def _usage(store: Controlled, domid: int) -> bytes:
    if domid not in store.domains:
        raise StoreError("ENOENT", f"there is no d{domid}")
    account = store.tree.account(domid)
    used = {
        "nodes": account.nodes,
        "watches": account.watches,
        "transactions": account.transactions,
        "outstanding": sum(one.outstanding for one in store.connections_of(domid)),
        "memory": account.memory_bytes,
    }
    return (
        "".join([f"Domain {domid}:\n", *(f"{name:<16}: {count:8d}\n" for name, count in used.items())]).encode() + b"\0"
    )


def _help(store: Controlled, words: list[bytes]) -> bytes:
    del store
    _expect(not words)
    return b"".join(b"%s\t%s\n" % (name, usage) for name, (usage, _) in _COMMANDS.items()) + b"\0"


def _expect(holds: bool) -> None:  # noqa: FBT001 - it is the condition itself
    if not holds:
        raise StoreError("EINVAL", "other words are expected behind this command; help lists them")


_COMMANDS: Final[dict[bytes, tuple[bytes, Callable[[Controlled, list[bytes]], bytes]]]] = {
    b"check": (b"", _check),
    b"log": (b"on|off", _log),
    b"logfile": (b"<file>", _logfile),
    b"print": (b"<string>", _print),
    b"quota": (b"[set <name> <val>|<domid>]", _quota),
    b"quota-soft": (b"[set <name> <val>]", _quota_soft),
    b"help": (b"", _help),
}
