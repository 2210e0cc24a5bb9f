"""Connections: the domain behind each, its rights, and its output that was not read yet.

Unread output is bounded: of an unprivileged connection that does not read no more requests are taken at
some point, and its unread events count as its domain's memory; when that is used up, or when a privileged
connection leaves megabytes unread, the connection is closed (XSA-326).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from xbd.xenstore import quota
from xbd.xenstore.codec import PAYLOAD_MAX, Operation, encode
from xbd.xenstore.domains import DOM0, Domain
from xbd.xenstore.paths import canonical, home_of
from xbd.xenstore.permissions import Permissions, access_of, is_owner
from xbd.xenstore.quota import Account
from xbd.xenstore.transactions import Transaction
from xbd.xenstore.watches import Watch

# What a privileged connection may leave unread: some 80,000 events, or a thousand answers of the longest kind.
BACKLOG_BYTES: Final = 4 << 20


@dataclass(slots=True, eq=False)
class Connection:
    """One connection.

    Attributes: *domain*: the domain behind it, those of dom0 are privileged; *account*: what that domain has; *reason*:
    why it is to be closed, else None; *outstanding*: answers that wait to be read.
    """

    number: int
    domain: Domain
    account: Account
    transactions: dict[int, Transaction] = field(default_factory=dict)
    watches: dict[tuple[bytes, bytes], Watch] = field(default_factory=dict)
    reason: str | None = None
    outstanding: int = 0
    last_transaction: int = 0
    home: bytes = b""
    privileged: bool = False
    _outbox: list[bytes] = field(default_factory=list)
    _outbox_bytes: int = 0
    # Events that wait to be read; a second one of the same content would say nothing new.
    _events: set[bytes] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.home = home_of(self.domain.domid)
        self.privileged = self.domain.domid == DOM0

    @property
    def may_ask(self) -> bool:
        """Whether its next request is taken now; False: it has to read what waits for it first."""
        if self.reason is not None:
            return False
        if self.privileged or not self._outbox:
            return True
        quotas = self.account.quotas
        return self.outstanding < quotas.outstanding and self.account.memory_bytes <= quotas.memory

    @property
    def has_output(self) -> bool:
        """Whether something waits to be read by it."""
        return bool(self._outbox)

    def canonical(self, untrusted_path: bytes) -> bytes:
        """Make the absolute path of what it names. Raises StoreError: EINVAL, it is no path, or too long."""
        return canonical(untrusted_path, self.home, self.account.quotas.path_max)

    def may(self, permissions: Permissions, access: int) -> bool:
        """Tell whether it may do all of *access*."""
        if self.privileged:
            return True
        return access_of(permissions, self.domain.domid, self.domain.target) & access == access

    def owns(self, permissions: Permissions) -> bool:
        """Tell whether it has an owner's rights."""
        return self.privileged or is_owner(permissions, self.domain.domid, self.domain.target)

    def may_hear(self, readers: Iterable[Permissions]) -> bool:
        """Tell whether any of these permission lists lets it read."""
        return self.privileged or any(self.may(permissions, 1) for permissions in readers)

    def reply(self, message: bytes) -> None:
        """Queue an answer."""
        self.outstanding += 1
        self._queue(message)

    def hear(self, watch: Watch, path: bytes) -> None:
        """Queue an event, unless the same event waits already, or is longer than a message may be (XSA-324)."""
        payload = watch.event(path)
        if payload in self._events or len(payload) > PAYLOAD_MAX:
            return
        if not payload.startswith(b"@"):  # each domain that comes or goes is told, as in Xen
            self._events.add(payload)
        self._queue(encode(Operation.WATCH_EVENT, 0, 0, payload))

    def _queue(self, message: bytes) -> None:
        if self.reason is not None:
            return
        self._outbox.append(message)
        self._outbox_bytes += len(message)
        if not self.privileged:
            self.account.other_bytes += len(message)
            if self.account.memory_bytes > self.account.quotas.memory + BACKLOG_BYTES // 4:
                self.close("it does not read its events, and its domain's memory is used up")
        elif self._outbox_bytes > BACKLOG_BYTES:
            self.close(f"it has left {self._outbox_bytes} bytes unread")

    def take_output(self) -> bytes:
        """Take all that waits, to be sent."""
        if not self._outbox:
            return b""
        output = self._outbox[0] if len(self._outbox) == 1 else b"".join(self._outbox)
        self._outbox.clear()
        self._events.clear()
        if not self.privileged:
            self.account.other_bytes -= self._outbox_bytes
        self.outstanding = self._outbox_bytes = 0
        return output

    def close(self, reason: str) -> None:
        """Mark it to be closed, and drop its unsent output."""
        if self.reason is None:
            self.take_output()
            self.reason = reason


class Held:
    """Charges what a transaction grows by in a `with` block to its domain's memory."""

    __slots__ = ("_account", "_before", "_transaction")

    def __init__(self, connection: Connection, transaction: Transaction) -> None:
        if not connection.privileged:
            quota.check_memory(connection.account, 0)
        self._account = connection.account
        self._transaction = transaction
        self._before = transaction.bytes_held

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._account.other_bytes += self._transaction.bytes_held - self._before


def check_accounts(connections: Iterable[Connection], accounts: Mapping[int, Account]) -> Iterator[str]:
    """Recount what connections hold, and say where their domains' accounts differ."""
    counted: dict[int, tuple[int, int]] = {}
    for one in connections:
        watches, transactions = counted.get(one.domain.domid, (0, 0))
        counted[one.domain.domid] = (watches + len(one.watches), transactions + len(one.transactions))
    for domid, account in accounts.items():
        if counted.get(domid, (0, 0)) != (account.watches, account.transactions):
            yield f"d{domid} has {counted.get(domid)} watches and transactions, its account says {account}"
