"""A client of a store in the same process, without sockets."""

from xbd.xenstore.codec import Decoder, Message, Operation
from xbd.xenstore.connections import Connection
from xbd.xenstore.domains import DOM0
from xbd.xenstore.store import Store


class StoreClient:
    """One connection; answers are returned as bytes, errors as their names."""

    def __init__(self, store: Store, domid: int = DOM0) -> None:
        self.store = store
        self.connection: Connection = store.connect(domid)
        self._events: list[bytes] = []
        self._decoder = Decoder()

    def ask(self, operation: int, payload: bytes = b"", transaction: int = 0) -> bytes | str:
        """Ask one thing."""
        self.store.handle(self.connection, Message(operation, 7, transaction, payload))
        (answer,) = self._take()
        assert (answer.request, answer.transaction) == (7, transaction)
        if answer.operation == Operation.ERROR:
            return answer.payload.decode().removesuffix("\0")
        assert answer.operation == operation
        return answer.payload

    def _take(self) -> list[Message]:
        self._decoder.feed(self.connection.take_output())
        answers = []
        while (message := self._decoder.next_message()) is not None:
            if message.operation == Operation.WATCH_EVENT:
                self._events.append(message.payload)
            else:
                answers.append(message)
        return answers

    def events(self) -> list[bytes]:
        """Take the paths of all events that came, each with its token behind a space."""
        assert self._take() == []
        events, self._events = self._events, []
        return [b" ".join(event.split(b"\0")[:2]) for event in events]

    def read(self, path: bytes, transaction: int = 0) -> bytes | str:
        """READ."""
        return self.ask(Operation.READ, path + b"\0", transaction)

    def names(self, path: bytes, transaction: int = 0) -> list[bytes] | str:
        """DIRECTORY, as a list."""
        answer = self.ask(Operation.DIRECTORY, path + b"\0", transaction)
        return answer if isinstance(answer, str) else answer.split(b"\0")[:-1]

    def write(self, path: bytes, value: bytes = b"", transaction: int = 0) -> bytes | str:
        """WRITE."""
        return self.ask(Operation.WRITE, path + b"\0" + value, transaction)

    def mkdir(self, path: bytes, transaction: int = 0) -> bytes | str:
        """MKDIR."""
        return self.ask(Operation.MKDIR, path + b"\0", transaction)

    def rm(self, path: bytes, transaction: int = 0) -> bytes | str:
        """RM."""
        return self.ask(Operation.RM, path + b"\0", transaction)

    def permissions(self, path: bytes, transaction: int = 0) -> bytes | str:
        """GET_PERMS, with spaces for NULs."""
        answer = self.ask(Operation.GET_PERMS, path + b"\0", transaction)
        return answer if isinstance(answer, str) else answer.replace(b"\0", b" ").strip()

    def permit(self, path: bytes, *entries: bytes, transaction: int = 0) -> bytes | str:
        """SET_PERMS."""
        return self.ask(Operation.SET_PERMS, b"".join(one + b"\0" for one in (path, *entries)), transaction)

    def watch(self, path: bytes, token: bytes = b"t") -> bytes | str:
        """WATCH."""
        return self.ask(Operation.WATCH, path + b"\0" + token + b"\0")

    def unwatch(self, path: bytes, token: bytes = b"t") -> bytes | str:
        """UNWATCH."""
        return self.ask(Operation.UNWATCH, path + b"\0" + token + b"\0")

    def start(self) -> int:
        """TRANSACTION_START that is granted."""
        answer = self.ask(Operation.TRANSACTION_START, b"\0")
        assert isinstance(answer, bytes), answer
        return int(answer.removesuffix(b"\0"))

    def end(self, transaction: int, *, commit: bool = True) -> bytes | str:
        """TRANSACTION_END."""
        return self.ask(Operation.TRANSACTION_END, b"T\0" if commit else b"F\0", transaction)


def store_with(*domids: int) -> tuple[Store, StoreClient]:
    """Make a store with these domains, each with a home as libxl makes it; and a privileged client."""
    store = Store()
    dom0 = StoreClient(store)
    for domid in domids:
        introduce(dom0, domid)
    return store, dom0


def introduce(dom0: StoreClient, domid: int) -> None:
    """Introduce a domain, with a home that it reads and a part of it, `data`, that is its own."""
    home = b"/local/domain/%d" % domid
    assert dom0.ask(Operation.INTRODUCE, b"%d\0001\0002\0" % domid) == b"OK\0"
    assert dom0.write(home) == dom0.permit(home, b"n0", b"r%d" % domid) == b"OK\0"
    assert dom0.write(home + b"/data") == dom0.permit(home + b"/data", b"n%d" % domid) == b"OK\0"


def fill(guest: StoreClient, count: int) -> None:
    """Make *count* nodes below a guest's `data`, some of them boxes with others in them: a list of names has to fit."""
    for number in range(count):
        path = b"data/%d" % number if number < 10 else b"data/%d/%d" % (number % 10, number)
        assert guest.write(path) == b"OK\0"
