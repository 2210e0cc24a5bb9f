"""The bridge between a host and its store: it shows the domains, and reads the targets that clients write.

`update` takes the host's domains as they are now and writes only what differs, so watches fire for changes
and nothing else. A client that writes a domain's `memory/target` asks for another target: `requests` returns
these, and a refusal with a reason for the log where the value is no target. The key keeps what was written,
accepted or not, until the host's target changes: then it shows that.

Source: /local/domain/N and /vm of a host of Xen 4.17 with libxl, and its permissions.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from xbd.target_rules import Bound, broken_bound
from xbd.units import PAGE_KIB, round_to_superpages
from xbd.xenstore.codec import Decoder, Message, Operation
from xbd.xenstore.domains import DOM0
from xbd.xenstore.paths import home_of
from xbd.xenstore.permissions import Access, Entry, Permissions, parse_domid
from xbd.xenstore.store import Store
from xbd.xenstore.transactions import Transaction

_PRIVATE: Final[Permissions] = (Entry(int(Access.NONE), DOM0),)
# No host has 16 digits of KiB.
_MOST_DIGITS: Final = 16
_TARGET: Final = b"/memory/target"
_USED: Final = b"/memory/meminfo"
# What a guest may write itself; the rest of its home it may only read.
_OWN: Final = (
    (b"device/suspend/event-channel", b""),
    (b"control/shutdown", b""),
    (b"control/feature-poweroff", b"1"),
    (b"control/feature-reboot", b"1"),
    (b"control/feature-suspend", b"1"),
    (b"control/sysrq", b""),
    (b"data", b""),
    (b"drivers", b""),
    (b"feature", b""),
    (b"attr", b""),
    (b"error", b""),
)
_DOM0_CONTROL: Final = ((b"feature-poweroff", b"1"), (b"feature-reboot", b"1"), (b"feature-suspend", b"1"))


@dataclass(frozen=True, slots=True)
class DomainFacts:
    """A domain as the host sees it; *used_pages* is what its guest reports, None if nothing."""

    domid: int
    name: str
    target_pages: int
    min_pages: int
    max_pages: int
    static_max_pages: int
    stopped: bool = False
    used_pages: int | None = None


@dataclass(frozen=True, slots=True)
class TargetRequest:
    """A client asked for this target of a domain, in pages, whole superpages."""

    domid: int
    pages: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """A client wrote a value that is no target; the host is not asked."""

    domid: int
    written: bytes
    reason: str


def decide(written: bytes, facts: DomainFacts) -> TargetRequest | Refusal:
    """Decide whether what was written to a domain's memory/target is a target."""
    if not (written.isdigit() and len(written) <= _MOST_DIGITS):
        return Refusal(facts.domid, written, "not a decimal number of KiB")
    least_kib, most_kib = max(facts.min_pages, 1) * PAGE_KIB, facts.max_pages * PAGE_KIB
    match broken_bound(int(written), least_kib, most_kib):
        case Bound.MOST:
            return Refusal(facts.domid, written, f"beyond its limit of {most_kib} KiB")
        case Bound.MINIMUM:
            return Refusal(facts.domid, written, f"below its minimum of {least_kib} KiB")
    return TargetRequest(facts.domid, _pages_of(written))


def _pages_of(kib: bytes) -> int:
    """Tell the target that a decimal number of KiB asks for, in pages: whole superpages."""
    return round_to_superpages(int(kib) // PAGE_KIB)


class Bridge:
    """The host in a store.

    Args:
        store: may have been restored: its domains that no longer exist are removed by the first update.
        make_uuid: makes the name of a domain's /vm.

    Attributes: *connection*: watches the targets; its events say that one was written.
    """

    def __init__(self, store: Store, make_uuid: Callable[[], str]) -> None:
        self._store = store
        self._make_uuid = make_uuid
        self.connection = store.connect()
        self._decoder = Decoder()
        self._facts: dict[int, DomainFacts] = {}
        # By domid, the key's value when it last agreed with the host.
        self._shown: dict[int, int] = {}
        # Domids whose key was written, and that the host has neither agreed to nor refused yet.
        self._written: dict[int, bytes] = {}
        self._restored = {domid for domid in store.domains if store.tree.find(home_of(domid) + b"/vm")}
        store.change(_show_host)

    # -- from the host

    def update(self, domains: Sequence[DomainFacts], now_s: float) -> None:
        """Show these domains, and remove all others; *now_s* is the start time of new ones."""
        facts = {one.domid: one for one in domains}
        for domid in sorted((self._facts.keys() | self._restored) - {DOM0}):
            if domid not in facts or self._is_another(facts[domid]):
                self._remove(domid)
        for one in domains:
            before = self._facts.get(one.domid)
            if before is None:
                self._add(one, now_s)
            else:
                self._change(before, one)
            self._facts[one.domid] = one
        self._restored.clear()

    def _is_another(self, facts: DomainFacts) -> bool:
        """Tell whether a domid was given to another domain since it was last looked at."""
        before = self._facts.get(facts.domid)
        if before is not None:
            return before.name != facts.name
        kept = self._store.tree.find(home_of(facts.domid) + b"/name")
        return kept is None or kept.value != facts.name.encode()

    def _remove(self, domid: int) -> None:
        self._facts.pop(domid, None)
        self._shown.pop(domid, None)
        home = home_of(domid)
        node = self._store.tree.find(home + b"/vm")

        def remove(view: Transaction) -> None:
            for path in (home, node.value if node else b""):
                if path.startswith((b"/vm/", b"/local/domain/")) and view.find(path):
                    view.remove(path)

        self._store.change(remove)
        for key in [key for key in self.connection.watches if key[0] == home + _TARGET]:
            self._ask(Operation.UNWATCH, key[0], key[1])
        if domid in self._store.domains:
            self._store.release(domid)

    def _add(self, facts: DomainFacts, now_s: float) -> None:
        home, domid = home_of(facts.domid), facts.domid
        node = self._store.tree.find(home + b"/vm")
        uuid = node.value.rpartition(b"/")[2] if node and domid in self._restored else self._make_uuid().encode()
        if not (node and domid in self._restored):
            self._store.change(lambda view: _show_domain(view, facts, uuid, now_s))
        self._show_target(facts)
        self._show_used(facts)
        if (home + _TARGET, b"%d" % domid) not in self.connection.watches:
            self._ask(Operation.WATCH, home + _TARGET, b"%d" % domid)
        # Last, as libxl does: a client that is woken by it finds everything in place.
        self._store.introduce(domid)

    def _change(self, before: DomainFacts, facts: DomainFacts) -> None:
        self._show_target(facts)
        if before.used_pages != facts.used_pages:
            self._show_used(facts)
        if facts.stopped and not before.stopped:
            self._store.shut_down(facts.domid)

    def _show_target(self, facts: DomainFacts) -> None:
        """Write the host's target, unless the key asks for just this."""
        if self._shown.get(facts.domid) == facts.target_pages:
            return
        self._shown[facts.domid] = facts.target_pages
        path = home_of(facts.domid) + _TARGET
        node = self._store.tree.find(path)
        if node and node.value.isdigit() and _pages_of(node.value[:_MOST_DIGITS]) == facts.target_pages:
            return
        self._store.change(lambda view: view.write(path, _kib(facts.target_pages), None))

    def _show_used(self, facts: DomainFacts) -> None:
        if facts.used_pages is not None:
            path, used = home_of(facts.domid) + _USED, _kib(facts.used_pages)
            self._store.change(lambda view: view.write(path, used, None))

    def _ask(self, operation: Operation, path: bytes, token: bytes) -> None:
        self._store.handle(self.connection, Message(operation, 0, 0, path + b"\0" + token + b"\0"))

    # -- to the host

    def requests(self) -> Iterator[TargetRequest | Refusal]:
        """Return what clients asked for, one entry for each domain: what its key says now.

        A request is returned again by the next call, unless it was `agreed` or `refused` by the host.
        """
        self._decoder.feed(self.connection.take_output())
        while (message := self._decoder.next_message()) is not None:
            if message.operation == Operation.WATCH_EVENT:
                path, token, _ = message.payload.split(b"\0")
                self._written[parse_domid(token)] = path
        for domid, path in list(self._written.items()):
            decision = self._judge(domid, path)
            if not isinstance(decision, TargetRequest):
                del self._written[domid]
            if decision is not None:
                yield decision

    def _judge(self, domid: int, path: bytes) -> TargetRequest | Refusal | None:
        """Decide on what a key says; None: it says nothing new, or its domain is gone."""
        facts, node = self._facts.get(domid), self._store.tree.find(path)
        if facts is None or node is None:
            return None
        decision = decide(node.value, facts)
        return None if decision == TargetRequest(domid, self._shown.get(domid, -1)) else decision

    def agreed(self, request: TargetRequest) -> None:
        """Note that the host accepted a target, as the domain's key says it."""
        self._written.pop(request.domid, None)
        if request.domid in self._facts:
            self._shown[request.domid] = request.pages

    def refused(self, request: TargetRequest) -> None:
        """Note that the host refused a target: the key keeps what was written, and the host is not asked again."""
        self._written.pop(request.domid, None)


def _kib(pages: int) -> bytes:
    return b"%d" % (pages * PAGE_KIB)


def _put(view: Transaction, path: bytes, value: bytes, permissions: Permissions) -> None:
    """Give a node this value and these permissions, unless it has them already: then no watch fires."""
    node = view.find(path)
    if node is None or node.value != value:
        view.write(path, value, None)
        node = view.find(path)
    assert node is not None, f"{path!r} was written"
    if node.permissions != permissions:
        view.replace_permissions(path, node, permissions)


def _show_host(view: Transaction) -> None:
    """Show what a host has before there is any domain: Xen's own, and dom0's home."""
    home = home_of(DOM0)
    paths = (b"/tool", b"/tool/xenstored", b"/local", b"/local/domain", home, home + b"/control", b"/vm")
    for path in paths:
        if view.find(path) is None:
            _put(view, path, b"", _PRIVATE)
    for name, value in _DOM0_CONTROL:
        _put(view, home + b"/control/" + name, value, _PRIVATE)
    _put(view, home + b"/domid", b"0", _PRIVATE)
    if view.find(home + b"/name") is None:
        _put(view, home + b"/name", b"Domain-0", _PRIVATE)


def _show_domain(view: Transaction, facts: DomainFacts, uuid: bytes, now_s: float) -> None:
    """Show a domain: its guest reads it all, and writes what is its own."""
    home, domid = home_of(facts.domid), facts.domid
    readable = _PRIVATE if domid == DOM0 else (*_PRIVATE, Entry(int(Access.READ), domid))
    vm = b"/vm/" + uuid
    shown = [
        (home, b""),
        (home + b"/vm", vm),
        (home + b"/name", facts.name.encode()),
        (home + b"/domid", b"%d" % domid),
        (home + b"/memory", b""),
        (home + b"/memory/static-max", _kib(facts.static_max_pages)),
        (home + _TARGET, _kib(facts.target_pages)),
        (home + b"/memory/videoram", b"0"),
        (vm, b""),
        (vm + b"/name", facts.name.encode()),
        (vm + b"/uuid", uuid),
        (vm + b"/start_time", b"%.2f" % now_s),
    ]
    if domid != DOM0:
        shown += [(home + path, b"") for path in (b"/device", b"/device/suspend", b"/control")]
        shown += [
            (home + b"/control/platform-feature-multiprocessor-suspend", b"1"),
            (home + b"/control/platform-feature-xs_reset_watches", b"1"),
        ]
    for path, value in shown:
        _put(view, path, value, readable)
    if domid != DOM0:
        own = (Entry(int(Access.NONE), domid),)
        for path, value in _OWN:
            _put(view, home + b"/" + path, value, own)
