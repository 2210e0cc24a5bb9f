"""The store: takes requests of connections, answers them, and sends events to watchers.

`handle` takes one message and queues the answer, and all events, in the connections that they are for; the
owner of the sockets takes them from there (`take_woken`). Nothing in here waits or raises: what cannot be
done is answered with the name of an error.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from xbd.xenstore import quota
from xbd.xenstore.codec import PAYLOAD_MAX, Message, Operation, encode, strings_of
from xbd.xenstore.connections import Connection, Held, check_accounts
from xbd.xenstore.domains import DOM0, Domain, forget
from xbd.xenstore.errors import StoreError
from xbd.xenstore.operations import CHANGES, LOOKS, OK, arguments
from xbd.xenstore.paths import INTRODUCED, RELEASED, canonical, home_of, is_special
from xbd.xenstore.permissions import Permissions, parse_domid
from xbd.xenstore.transactions import Transaction, WatchedChange, readers_of
from xbd.xenstore.tree import Tree
from xbd.xenstore.watches import Watch, Watches

# Log events that were not taken yet; beyond this the oldest is dropped.
NOTES: Final = 1000
_TRANSACTION_END: Final = 1 << 32
_HELP: Final = b"check\nhelp\n\0"
Note = tuple[str, dict[str, object]]


class Store:
    """A store with nothing in it but the root.

    Attributes: *tree*; *watches*; *domains*: those introduced, by domid; *domain_changes*: how often they changed;
    *notes*: log events, name and keys.
    """

    def __init__(self) -> None:
        self.tree = Tree()
        self.watches = Watches()
        self.domains: dict[int, Domain] = {DOM0: Domain(DOM0)}
        self.domain_changes = 0
        self.notes: deque[Note] = deque(maxlen=NOTES)
        self._connections: dict[int, Connection] = {}
        self._last_connection = 0
        # By domid, the tree's generation when the last domain with it was removed.
        self._released: dict[int, int] = {}
        self._woken: dict[int, Connection] = {}
        self._others: Final[dict[int, Callable[[Connection, Message], bytes]]] = {
            Operation.WATCH: self._watch,
            Operation.UNWATCH: self._unwatch,
            Operation.RESET_WATCHES: self._reset_watches,
            Operation.TRANSACTION_START: self._start,
            Operation.TRANSACTION_END: self._end,
            Operation.GET_DOMAIN_PATH: self._domain_path,
            Operation.IS_DOMAIN_INTRODUCED: self._is_introduced,
        }
        self._privileged: Final[dict[int, Callable[[bytes], bytes]]] = {
            Operation.CONTROL: self._control,
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
        self._forget_watches(connection)
        for number in list(connection.transactions):
            self._drop(connection, number)
        connection.close("it was closed")

    def take_woken(self) -> list[Connection]:
        """Take the connections that got output since the last call, or that are to be closed."""
        woken = list(self._woken.values())
        self._woken.clear()
        return woken

    def handle(self, connection: Connection, message: Message) -> None:
        """Carry out a request, and queue its answer and the events that it causes."""
        operation, request, transaction, _ = message
        try:
            answer = self._answer(connection, message)
        except StoreError as error:
            connection.reply(encode(Operation.ERROR, request, transaction, error.errno.encode() + b"\0"))
        else:
            connection.reply(encode(operation, request, transaction, answer))
            if operation == Operation.WATCH:
                # The answer goes first: before it the client does not know that its watch is set.
                watch = next(reversed(connection.watches.values()))
                connection.hear(watch, watch.path)
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
        if (change := CHANGES.get(operation)) is not None:
            if not number:
                view = Transaction(self.tree, limited=not connection.privileged)
                answer = change(view, connection, payload)
                self._announce(view.commit(self._released))
                return answer
            view = self._transaction(connection, number)
            with Held(connection, view):
                return change(view, connection, payload)
        if (other := self._others.get(operation)) is not None:
            return other(connection, message)
        if (privileged := self._privileged.get(operation)) is not None:
            if not connection.privileged:
                raise StoreError("EACCES", f"operation {operation} is for privileged connections")
            return privileged(payload)
        raise StoreError("ENOSYS", f"there is no operation {operation}")

    def _look_at_memory(self, connection: Connection) -> None:
        account = connection.account
        if account.memory_bytes > quota.MEMORY_SOFT_BYTES and not account.warned:
            account.warned = True
            self.notes.append(
                ("xenstore_memory_high", {"domid": connection.domain.domid, "bytes": account.memory_bytes})
            )

    # -- watches

    def _watch(self, connection: Connection, message: Message) -> bytes:
        untrusted_path, token = arguments(message.payload, 2)
        path = untrusted_path if is_special(untrusted_path) else canonical(untrusted_path, connection.home)
        if (path, token) in connection.watches:
            raise StoreError("EEXIST", f"{path!r} is watched with this token")
        size = quota.HANDLE_BYTES + len(path) + len(token)
        if not connection.privileged:
            if connection.account.watches >= quota.WATCHES:
                raise StoreError("E2BIG", f"more than {quota.WATCHES} watches")
            quota.check_memory(connection.account, size)
        skip = len(path) - len(untrusted_path)
        connection.watches[path, token] = self.watches.add(connection, path, token, skip)
        connection.account.watches += 1
        connection.account.other_bytes += size
        return OK

    def _unwatch(self, connection: Connection, message: Message) -> bytes:
        untrusted_path, token = arguments(message.payload, 2)
        path = untrusted_path if is_special(untrusted_path) else canonical(untrusted_path, connection.home)
        if (path, token) not in connection.watches:
            raise StoreError("ENOENT", f"{path!r} is not watched with this token")
        self._forget_watch(connection, (path, token))
        return OK

    def _reset_watches(self, connection: Connection, message: Message) -> bytes:
        """Forget watches and transactions, as a domain that starts anew does."""
        del message
        self._forget_watches(connection)
        for number in list(connection.transactions):
            self._drop(connection, number)
        return OK

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
                self._tell(watches, change.path, readers_of(self.tree, change))

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
            self._transaction(connection, message.transaction)
            raise StoreError("EBUSY", "a transaction in a transaction")
        if not connection.privileged:
            if connection.account.transactions >= quota.TRANSACTIONS:
                raise StoreError("ENOSPC", f"more than {quota.TRANSACTIONS} transactions")
            quota.check_memory(connection.account, quota.HANDLE_BYTES)
        number = connection.last_transaction % (_TRANSACTION_END - 1) + 1
        while number in connection.transactions:
            number = number % (_TRANSACTION_END - 1) + 1
        connection.last_transaction = number
        transaction = Transaction(self.tree, limited=not connection.privileged)
        connection.transactions[number] = transaction
        connection.account.transactions += 1
        connection.account.other_bytes += transaction.bytes_held
        return b"%d\0" % number

    def _end(self, connection: Connection, message: Message) -> bytes:
        number = message.transaction
        if number:
            self._transaction(connection, number)
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
        for connection in [one for one in self._connections.values() if one.domain.domid == domid]:
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

    def _domain_path(self, connection: Connection, message: Message) -> bytes:
        del connection
        return home_of(parse_domid(*arguments(message.payload, 1))) + b"\0"

    def _is_introduced(self, connection: Connection, message: Message) -> bytes:
        del connection
        return b"T\0" if parse_domid(*arguments(message.payload, 1)) in self.domains else b"F\0"

    def _introduce(self, payload: bytes) -> bytes:
        domid, frame, port = arguments(payload, 3)
        if not (frame.isdigit() and port.isdigit()):
            raise StoreError("EINVAL", "a frame and a port are numbers")
        self.introduce(parse_domid(domid))
        return OK

    def _release(self, payload: bytes) -> bytes:
        domid = parse_domid(*arguments(payload, 1))
        if domid == DOM0:
            raise StoreError("EINVAL", "dom0 stays")
        self._known(domid)
        self.release(domid)
        return OK

    def _resume(self, payload: bytes) -> bytes:
        self._known(parse_domid(*arguments(payload, 1)))
        return OK

    def _set_target(self, payload: bytes) -> bytes:
        domid, target = (parse_domid(text) for text in arguments(payload, 2))
        self._known(target)
        self._known(domid).target = target
        return OK

    def _known(self, domid: int) -> Domain:
        domain = self.domains.get(domid)
        if domain is None:
            raise StoreError("ENOENT", f"d{domid} was not introduced")
        return domain

    # -- maintenance

    def _control(self, payload: bytes) -> bytes:
        match strings_of(payload):
            case [b"help"]:
                return _HELP
            case [b"check"]:
                return OK if not self.check() else b"\n".join(map(str.encode, self.check()))[: PAYLOAD_MAX - 1] + b"\0"
        raise StoreError("EINVAL", "expected check or help")

    def check(self) -> list[str]:
        """Recompute everything; name what does not hold."""
        violations = self.tree.check()
        held = sum(len(connection.watches) for connection in self._connections.values())
        kept = sum(isinstance(watch.listener, Connection) for watch in self.watches)
        if held != kept:
            violations.append(f"connections have {held} watches, {kept} are kept")
        violations += check_accounts(self._connections.values(), self.tree.accounts)
        return violations
