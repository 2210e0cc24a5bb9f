"""Random operations, of several connections and with transactions, against a naive model: every answer, every event."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.xenstore.naive import Naive, NaiveClient, Permissions
from tests.xenstore.store_client import StoreClient
from xbd.xenstore.store import Store

# Few enough that they meet.
PATHS = st.lists(st.sampled_from("ab"), max_size=3).map(lambda parts: "/" + "/".join(parts))
VALUES = st.sampled_from([b"", b"1", b"x\0y"])
PERMISSIONS: st.SearchStrategy[Permissions] = st.lists(
    st.tuples(st.sampled_from("nrwb"), st.sampled_from([0, 1, 2])), min_size=1, max_size=3
)
DOMIDS = (0, 0, 1, 2)
CLIENTS = st.integers(0, len(DOMIDS) - 1)
# Half of all is done outside of transactions.
WHERE = st.sampled_from([0, 0, 0, 1, 2])


class StoreMachine(RuleBasedStateMachine):
    """The store and its model, asked the same."""

    def __init__(self) -> None:
        super().__init__()
        self.store, self.model = Store(), Naive()
        for domid in (1, 2):
            self.store.introduce(domid)
        self.real_clients = [StoreClient(self.store, domid) for domid in DOMIDS]
        self.model.clients = [NaiveClient(domid) for domid in DOMIDS]

    def pair(self, which: int, where: int) -> tuple[StoreClient, NaiveClient, int]:
        """Choose a client, and a transaction of its, if it has so many, and that is not doomed."""
        client = self.model.clients[which]
        numbers = sorted(client.transactions)
        number = numbers[where - 1] if 0 < where <= len(numbers) else 0
        return self.real_clients[which], client, 0 if self.model.is_doomed(client, number) else number

    @rule(which=CLIENTS, where=WHERE, path=PATHS)
    def look(self, which: int, where: int, path: str) -> None:
        """Ask for all of a node."""
        real, client, transaction = self.pair(which, where)
        at = path.encode()
        assert real.read(at, transaction) == self.model.read(client, transaction, path)
        names = real.names(at, transaction)
        told = names if isinstance(names, str) else {name.decode() for name in names}
        assert told == self.model.names(client, transaction, path)
        permissions = real.permissions(at, transaction)
        spelt = permissions if isinstance(permissions, str) else permissions.decode()
        assert spelt == self.model.permissions(client, transaction, path)

    @rule(which=CLIENTS, where=WHERE, path=PATHS, value=VALUES)
    def write(self, which: int, where: int, path: str, value: bytes) -> None:
        """Write a value."""
        real, client, transaction = self.pair(which, where)
        expected = self.model.write(client, transaction, path, value)
        assert said(real.write(path.encode(), value, transaction)) == expected

    @rule(which=CLIENTS, where=WHERE, path=PATHS)
    def mkdir(self, which: int, where: int, path: str) -> None:
        """Make a node."""
        real, client, transaction = self.pair(which, where)
        expected = self.model.write(client, transaction, path, b"", mkdir=True)
        assert said(real.mkdir(path.encode(), transaction)) == expected

    @rule(which=CLIENTS, where=WHERE, path=PATHS)
    def rm(self, which: int, where: int, path: str) -> None:
        """Remove one."""
        real, client, transaction = self.pair(which, where)
        expected = self.model.rm(client, transaction, path)
        assert said(real.rm(path.encode(), transaction)) == expected

    @rule(which=CLIENTS, where=WHERE, path=PATHS, permissions=PERMISSIONS)
    def permit(self, which: int, where: int, path: str, permissions: Permissions) -> None:
        """Set its permissions."""
        real, client, transaction = self.pair(which, where)
        expected = self.model.permit(client, transaction, path, permissions)
        entries = [f"{access}{domid}".encode() for access, domid in permissions]
        assert said(real.permit(path.encode(), *entries, transaction=transaction)) == expected

    @rule(which=CLIENTS, path=PATHS, token=st.sampled_from("tu"))
    def watch(self, which: int, path: str, token: str) -> None:
        """Watch one."""
        expected = self.model.watch(self.model.clients[which], path, token)
        assert said(self.real_clients[which].watch(path.encode(), token.encode())) == expected

    @rule(which=CLIENTS, path=PATHS, token=st.sampled_from("tu"))
    def unwatch(self, which: int, path: str, token: str) -> None:
        """Watch it no more."""
        expected = self.model.unwatch(self.model.clients[which], path, token)
        assert said(self.real_clients[which].unwatch(path.encode(), token.encode())) == expected

    @rule(which=CLIENTS)
    def start(self, which: int) -> None:
        """Begin a transaction, two at a time at most."""
        if len(self.model.clients[which].transactions) < 2:
            assert self.real_clients[which].start() == self.model.start(self.model.clients[which])

    @rule(which=CLIENTS, where=st.sampled_from([1, 2]), commit=st.booleans())
    def end(self, which: int, where: int, commit: bool) -> None:  # noqa: FBT001 - hypothesis passes it
        """End one."""
        client = self.model.clients[which]
        if where <= len(client.transactions):
            transaction = sorted(client.transactions)[where - 1]
            expected = self.model.end(client, transaction, commit=commit)
            assert said(self.real_clients[which].end(transaction, commit=commit)) == expected

    @rule(
        which=CLIENTS,
        where=st.sampled_from([1, 2]),
        path=PATHS,
        what=st.sampled_from(["write", "rm", "look", "permit"]),
    )
    def go_on(self, which: int, where: int, path: str, what: str) -> None:
        """Go on with a transaction that can only fail: what it says is of no interest, but it does say something."""
        real, client = self.real_clients[which], self.model.clients[which]
        numbers = sorted(client.transactions)
        if where > len(numbers) or not self.model.is_doomed(client, numbers[where - 1], for_good=True):
            return
        at, transaction = path.encode(), numbers[where - 1]
        match what:
            case "write":
                real.write(at, b"x", transaction)
            case "rm":
                real.rm(at, transaction)
            case "look":
                real.names(at, transaction)
            case _:
                real.permit(at, b"n0", transaction=transaction)

    @invariant()
    def all_is_well(self) -> None:
        """Everybody heard of the same, in whatever order; what is kept adds up; the nodes are the same."""
        for real, client in zip(self.real_clients, self.model.clients, strict=True):
            # An event that waits is not queued again.
            heard = real.events()
            assert len(heard) == len(set(heard))
            assert {event.decode() for event in heard} == set(client.events)
            client.events.clear()
        assert self.store.check() == []
        nodes = {path.decode(): node for path, node in self.store.tree.items() if path.startswith(b"/")}
        assert {path: node.value for path, node in nodes.items()} == {p: n.value for p, n in self.model.nodes.items()}


def said(answer: bytes | str) -> str:
    """Spell an answer as the model does."""
    return answer if isinstance(answer, str) else answer.decode().removesuffix("\0")


StoreMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, report_multiple_bugs=False
)
TestStore = StoreMachine.TestCase
