"""The store: takes requests of connections, answers them, and sends events to watchers.

`handle` takes one message and queues the answer, and all events, in the connections that they are for; the
owner of the sockets takes them from there (`take_woken`). Nothing in here waits or raises: what cannot be
done is answered with the name of an error.
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from xbd.xenstore import quota
from xbd.xenstore.codec import PAYLOAD_MAX, Message, Operation, encode, leading_number
from xbd.xenstore.connections import Connection, Held, check_accounts
from xbd.xenstore.control import Trace, control
from xbd.xenstore.domains import DOM0, Domain, forget
from xbd.xenstore.errors import StoreError
from xbd.xenstore.operations import CHANGES, LOOKS, OK, arguments, one_string, set_permissions
from xbd.xenstore.paths import INTRODUCED, RELEASED, absolute, home_of, is_special
from xbd.xenstore.permissions import DOMID_END, Permissions
from xbd.xenstore.transactions import Transaction, WatchedChange
from xbd.xenstore.tree import Tree
from xbd.xenstore.watches import Watch, Watches

# Log events that were not taken yet; beyond this the oldest is dropped.
NOTES: Final = 1000
_TRANSACTION_END: Final = 1 << 32
# Operations that take no notice of the transaction that they are sent in.
_NO_TRANSACTION: Final = frozenset({Operation.WATCH, Operation.UNWATCH})
Note = tuple[str, dict[str, object]]


class Store:
    """A store with nothing in it but the root.

    Attributes: *tree*; *watches*; *domains*: those introduced, by domid; *domain_changes*: how often they changed;
    *notes*: log events, name and keys; *trace*: what is asked and answered, while CONTROL has it written down.
    """

    def __init__(self) -> None:
        self.tree = Tree()
        self.watches = Watches()
        self.domains: dict[int, Domain] = {DOM0: Domain(DOM0)}
        self.domain_changes = 0
        self.notes: deque[Note] = deque(maxlen=NOTES)
        self.trace = Trace()
        self._connections: dict[int, Connection] = {}
        self._last_connection = 0
        # By domid, the tree's generation when the last domain with it was removed.
        self._released: dict[int, int] = {}
        self._woken: dict[int, Connection] = {}
        self._changes = CHANGES | {Operation.SET_PERMS: partial(set_permissions, domids=self.domains)}
        self._others: Final[dict[int, Callable[[Connection, Message], bytes]]] = {
            Operation.WATCH: self._watch,
            Operation.UNWATCH: self._unwatch,
            Operation.RESET_WATCHES: self._reset_watches,
            Operation.TRANSACTION_START: self._start,
            Operation.TRANSACTION_END: self._end,
            Operation.GET_DOMAIN_PATH: self._domain_path,
        }
        self._privileged: Final[dict[int, Callable[[bytes], bytes]]] = {
            Operation.CONTROL: partial(control, self),
            Operation.IS_DOMAIN_INTRODUCED: self._is_introduced,
            Operation.INTRODUCE: self._introduce,
            Operation.RELEASE: self._release,
            Operation.RESUME: self._resume,
            Operation.SET_TARGET: self._set_target,
        }

    # -- connections

    def connect(self, domid: int = DOM0) -> Connection:
        """Add a connection of a domain that was introduced; those of dom0 are privileged."""
        self._last_connection += 1
        connection = Connection(self._last_connection, self.domains[domid], self.tree.account(domid))
        self._connections[connection.number] = connection
        return connection

    def disconnect(self, connection: Connection) -> None:
        """Forget a connection, its watches and its transactions."""
        self._connections.pop(connection.number, None)
        self._woken.pop(connection.number, None)
        self._reset(connection)
        connection.close("it was closed")

    def take_woken(self) -> list[Connection]:
        """Take the connections that got output since the last call, or that are to be closed."""
        woken = list(self._woken.values())
        self._woken.clear()
        return woken

    def handle(self, connection: Connection, message: Message) -> None:
        """Carry out a request, and queue its answer and the events that it causes."""
        operation, request, transaction, payload = message
        domid, traced = connection.domain.domid, self.trace.on
        if traced:
            self.trace.note("IN", domid, operation, payload)
        try:
            answer = self._answer(connection, message)
        except StoreError as error:
            operation, answer = Operation.ERROR, error.errno.encode() + b"\0"
        connection.reply(encode(operation, request, transaction, answer))
        if operation == Operation.WATCH:
            # The answer goes first: before it the client does not know that its watch is set.
            watch = next(reversed(connection.watches.values()))
            connection.hear(watch, watch.path)
        if traced:
            self.trace.note("OUT", domid, operation, answer)
        if not connection.privileged:
            self._look_at_memory(connection)

    def _answer(self, connection: Connection, message: Message) -> bytes:
        operation, _, number, payload = message
        if (look := LOOKS.get(operation)) is not None:
            if not number:
                return look(self.tree, connection, payload)
            view = self._transaction(connection, number)
            with Held(connection, view):
                return look(view, connection, payload)
        if (change := self._changes.get(operation)) is not None:
            if not number:
                view = Transaction(self.tree, limited=not connection.privileged)
                answer = change(view, connection, payload)
                self._announce(view.commit(self._released))
                return answer
            view = self._transaction(connection, number)
            with Held(connection, view):
                return change(view, connection, payload)
        privileged = self._privileged.get(operation)
        if privileged is not None and not connection.privileged:
            raise StoreError("EACCES", f"operation {operation} is for privileged connections")
        other = self._others.get(operation)
        if number and operation not in _NO_TRANSACTION and (other or privileged):
            self._transaction(connection, number)
        if privileged is not None:
            return privileged(payload)
        if other is not None:
            return other(connection, message)
        raise StoreError("ENOSYS", f"there is no operation {operation}")

    def _look_at_memory(self, connection: Connection) -> None:
        account = connection.account
        if account.memory_bytes > account.quotas.memory_soft and not account.warned:
            account.warned = True
            self.notes.append(
                ("xenstore_memory_high", {"domid": connection.domain.domid, "bytes": account.memory_bytes})
            )

    # -- watches

    def _watch(self, connection: Connection, message: Message) -> bytes:
        untrusted_path, token = arguments(message.payload, 2)
        path = untrusted_path if is_special(untrusted_path) else connection.canonical(untrusted_path)
        if (path, token) in connection.watches:
            raise StoreError("EEXIST", f"{path!r} is watched with this token")
        size = quota.HANDLE_BYTES + len(path) + len(token)
        if not connection.privileged:
            if connection.account.watches > self.tree.quotas.watches:
                raise StoreError("E2BIG", f"it has {connection.account.watches} watches")
            quota.check_memory(connection.account, size)
        skip = len(path) - len(untrusted_path)
        connection.watches[path, token] = self.watches.add(connection, path, token, skip)
        connection.account.watches += 1
        connection.account.other_bytes += size
        return OK

    def _unwatch(self, connection: Connection, message: Message) -> bytes:
        untrusted_path, token = arguments(message.payload, 2)
        path = absolute(untrusted_path, connection.home)
        if (path, token) not in connection.watches:
            raise StoreError("ENOENT", f"{path!r} is not watched with this token")
        self._forget_watch(connection, (path, token))
        return OK

    def _reset_watches(self, connection: Connection, message: Message) -> bytes:
        """Forget watches and transactions, as a domain that starts anew does."""
        del message
        self._reset(connection)
        return OK

    def _reset(self, connection: Connection) -> None:
        self._forget_watches(connection)
        for number in list(connection.transactions):
            self._drop(connection, number)

    def _forget_watches(self, connection: Connection) -> None:
        for key in list(connection.watches):
            self._forget_watch(connection, key)

    def _forget_watch(self, connection: Connection, key: tuple[bytes, bytes]) -> None:
        self.watches.remove(connection.watches.pop(key))
        connection.account.watches -= 1
        connection.account.other_bytes -= quota.HANDLE_BYTES + len(key[0]) + len(key[1])

    def _announce(self, changes: list[WatchedChange]) -> None:
        """Queue events for the watchers that may read what changed."""
        for change in changes:
            watches = self.watches.matching(change.path, exact=change.exact)
            if watches:
                self._tell(watches, change.path, change.readers)

    def _tell(self, watches: list[Watch], path: bytes, readers: tuple[Permissions, ...]) -> None:
        for watch in watches:
            listener = watch.listener
            if listener.may_hear(readers):
                listener.hear(watch, path)
                if isinstance(listener, Connection):
                    self._woken[listener.number] = listener

    def _announce_special(self, name: bytes) -> None:
        node = self.tree.find(name)
        assert node is not None, f"{name!r} has gone"
        self._tell(self.watches.matching(name, exact=True), name, (node.permissions,))

    # -- transactions

    def _transaction(self, connection: Connection, number: int) -> Transaction:
        transaction = connection.transactions.get(number)
        if transaction is None:
            raise StoreError("ENOENT", f"there is no transaction {number}")
        return transaction

    def _start(self, connection: Connection, message: Message) -> bytes:
        if message.transaction:
            raise StoreError("EBUSY", "a transaction in a transaction")
        if not connection.privileged:
            if connection.account.transactions > self.tree.quotas.transactions:
                raise StoreError("ENOSPC", f"it has {connection.account.transactions} transactions")
            quota.check_memory(connection.account, quota.HANDLE_BYTES)
        number = connection.last_transaction % (_TRANSACTION_END - 1) + 1
        while number in connection.transactions:
            number = number % (_TRANSACTION_END - 1) + 1
        connection.last_transaction = number
        transaction = Transaction(self.tree, limited=not connection.privileged, held=True)
        connection.transactions[number] = transaction
        connection.account.transactions += 1
        connection.account.other_bytes += transaction.bytes_held
        return b"%d\0" % number

    def _end(self, connection: Connection, message: Message) -> bytes:
        number = message.transaction
        if message.payload not in (b"T\0", b"F\0"):
            raise StoreError("EINVAL", "neither T nor F")
        transaction = self._transaction(connection, number)
        self._drop(connection, number)
        if message.payload == b"T\0":
            self._announce(transaction.commit(self._released))
        return OK

    def _drop(self, connection: Connection, number: int) -> None:
        transaction = connection.transactions.pop(number)
        connection.account.transactions -= 1
        connection.account.other_bytes -= transaction.bytes_held

    def change(self, change: Callable[[Transaction], None]) -> None:
        """Run *change* as a transaction of the host itself, commit it, and queue its events."""
        view = Transaction(self.tree)
        change(view)
        self._announce(view.commit({}))

    # -- domains

    def restore_domain(self, domid: int) -> None:
        """Add a domain without an event, because it was there before this store was restored."""
        self.domains.setdefault(domid, Domain(domid))

    def introduce(self, domid: int) -> None:
        """Add a domain, with its event; one that was introduced already changes nothing."""
        if domid not in self.domains:
            self.domains[domid] = Domain(domid)
            self.domain_changes += 1
            self._announce_special(INTRODUCED)

    def release(self, domid: int) -> None:
        """Remove a domain with its nodes and its entries in permissions, and close its connections."""
        del self.domains[domid]
        self.domain_changes += 1
        for domain in self.domains.values():
            if domain.target == domid:
                domain.target = None
        for connection in self.connections_of(domid):
            self.disconnect(connection)
            self._woken[connection.number] = connection
        self._announce(forget(self.tree, domid))
        self.tree.generation += 1
        self._released[domid] = self.tree.generation
        self._announce_special(RELEASED)

    def shut_down(self, domid: int) -> None:
        """Send the event for a domain that has stopped and still exists: @releaseDomain, as Xen does."""
        if domid in self.domains:
            self._announce_special(RELEASED)

    def connections_of(self, domid: int) -> list[Connection]:
        """List a domain's connections."""
        return [one for one in self._connections.values() if one.domain.domid == domid]

    def _domain_path(self, connection: Connection, message: Message) -> bytes:
        del connection
        return home_of(leading_number(one_string(message.payload, "EINVAL"))) + b"\0"

    def _is_introduced(self, payload: bytes) -> bytes:
        domid = leading_number(one_string(payload, "EINVAL"))
        # DOMID_SELF is who asks.
        return b"T\0" if domid == DOMID_END or domid in self.domains else b"F\0"

    def _introduce(self, payload: bytes) -> bytes:
        """Add a domain; one that is known starts anew: its connections lose what they had and what waits for them."""
        domid, _, port = map(leading_number, arguments(payload, 3, PAYLOAD_MAX)[:3])
        if port == 0:
            raise StoreError("EINVAL", "an event channel's port is not 0")
        if domid not in self.domains:
            self.introduce(domid)
        elif domid != DOM0:  # whose connections are sockets of many tools, and not its ring
            for connection in self.connections_of(domid):
                self._reset(connection)
                connection.take_output()
        return OK

    def _release(self, payload: bytes) -> bytes:
        self.release(self._known(self._other_than_dom0(payload)).domid)
        return OK

    def _resume(self, payload: bytes) -> bytes:
        self._known(self._other_than_dom0(payload))
        return OK

    def _other_than_dom0(self, payload: bytes) -> int:
        domid = leading_number(one_string(payload, "EINVAL"))
        if domid == DOM0:
            raise StoreError("EINVAL", "expected a domain's number, other than dom0's")
        return domid

    def _set_target(self, payload: bytes) -> bytes:
        domid, target = map(leading_number, arguments(payload, 2, PAYLOAD_MAX)[:2])
        domain = self._known(domid)
        self._known(target)
        domain.target = target
        return OK

    def _known(self, domid: int) -> Domain:
        domain = self.domains.get(domid)
        if domain is None:
            raise StoreError("ENOENT", f"d{domid} was not introduced")
        return domain

    # -- maintenance

    def check(self) -> list[str]:
        """Recompute everything; name what does not hold."""
        violations = self.tree.check()
        held = sum(len(connection.watches) for connection in self._connections.values())
        kept = sum(isinstance(watch.listener, Connection) for watch in self.watches)
        if held != kept:
            violations.append(f"connections have {held} watches, {kept} are kept")
        violations += check_accounts(self._connections.values(), self.tree.accounts)
        return violations
