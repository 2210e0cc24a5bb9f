"""The bridge between a host and its store: it shows the domains, and reads the targets that clients write.

`update` takes the host's domains as they are now, `show` and `remove` one that has changed; only what differs is
written, so watches fire for changes and nothing else. A client that writes a domain's `memory/target` asks for another
target: `written` names these domains, and `judge` makes a request of it, or a refusal with a reason for the log where
the value is no target. The key keeps what was written, accepted or not, until the host's target changes: then it shows
that.

Source: /local/domain/N and /vm of a host of Xen 4.17 with libxl, and its permissions.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID, uuid5

from xbd.domain import CRASHED, DOM0, DOM0_OF_XEN, SHUTDOWN, DomainInfo
from xbd.target_rules import Bound, broken_bound
from xbd.units import PAGE_KIB, round_to_superpages
from xbd.xenstore.paths import home_of
from xbd.xenstore.permissions import Access, Entry, Permissions, access_of
from xbd.xenstore.store import Store
from xbd.xenstore.transactions import Transaction
from xbd.xenstore.watches import Watch

_PRIVATE: Final[Permissions] = (Entry(int(Access.NONE), DOM0),)
# No host has 16 digits of KiB.
_MOST_DIGITS: Final = 16
_WRITE: Final = Access.WRITE.value
_TARGET: Final = b"/memory/target"
_USED: Final = b"/memory/meminfo"
_STOPPED: Final = frozenset({SHUTDOWN, CRASHED})
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


def decide(written: bytes, domain: DomainInfo) -> TargetRequest | Refusal:
    """Decide whether what was written to a domain's memory/target is a target."""
    if not (written.isdigit() and len(written) <= _MOST_DIGITS):
        return Refusal(domain.domid, written, "not a decimal number of KiB")
    least_kib, most_kib = max(domain.min_pages, 1) * PAGE_KIB, domain.max_pages * PAGE_KIB
    match broken_bound(int(written), least_kib, most_kib):
        case Bound.MOST:
            return Refusal(domain.domid, written, f"beyond its limit of {most_kib} KiB")
        case Bound.MINIMUM:
            return Refusal(domain.domid, written, f"below its minimum of {least_kib} KiB")
    return TargetRequest(domain.domid, _pages_of(written))


def _pages_of(kib: bytes) -> int:
    """Tell the target that a decimal number of KiB asks for, in pages: whole superpages."""
    return round_to_superpages(int(kib) // PAGE_KIB)


@dataclass(frozen=True, slots=True, eq=False)
class _TargetKey:
    """Listens to a domain's memory/target: adds its domid to *heard*, and says so to *ring*."""

    domid: int
    heard: dict[int, None]
    ring: Callable[[], None]

    def may_hear(self, readers: Iterable[Permissions]) -> bool:
        """Hear of all that there is, as dom0 does."""
        del readers
        return True

    def hear(self, watch: Watch, path: bytes) -> None:
        """Note that the key was written."""
        del watch, path
        self.heard[self.domid] = None
        self.ring()


class Bridge:
    """The host in a store.

    Args:
        store: may have been restored: its domains that no longer exist are removed by the first update.
        ring: is called when a target was written.
    """

    def __init__(self, store: Store, ring: Callable[[], None]) -> None:
        self._store = store
        self._ring = ring
        self._watches: dict[int, Watch] = {}
        self._domains: dict[int, DomainInfo] = {}
        # By domid, the key's value when it last agreed with the host.
        self._shown: dict[int, int] = {}
        # Domids whose key was written since it was last looked at, in order; and those of which it was looked at, and that
        # the host has neither agreed to nor refused yet.
        self._heard: dict[int, None] = {}
        self._written: dict[int, None] = {}
        self._restored = {domid for domid in store.domains if store.tree.find(home_of(domid) + b"/vm")}
        store.change(_show_host)

    # -- from the host

    def update(self, domains: Sequence[DomainInfo], now_s: float) -> None:
        """Show these domains, and remove all others; *now_s* is the start time of new ones."""
        there = {one.domid for one in domains}
        for domid in sorted((self._domains.keys() | self._restored) - there):
            self.remove(domid)
        for one in domains:
            self.show(one, now_s)
        self._restored.clear()

    def show(self, domain: DomainInfo, now_s: float) -> None:
        """Show one domain as it is now; *now_s* is its start time, if it is new."""
        if self._is_another(domain):
            self._end(domain.domid)
        before = self._domains.get(domain.domid)
        if before is None:
            self._add(domain, now_s)
        else:
            self._change(before, domain)
        self._domains[domain.domid] = domain

    def _is_another(self, domain: DomainInfo) -> bool:
        """Tell whether a domid was given to another domain since it was last looked at."""
        before = self._domains.get(domain.domid)
        if before is not None:
            return before.life != domain.life
        return domain.domid in self._restored and not self._is_restored(domain)

    def _is_restored(self, domain: DomainInfo) -> bool:
        """Tell whether the nodes that a restored store has of a domid are this domain's."""
        home = home_of(domain.domid)
        vm = self._value(home + b"/vm")
        if self._store.tree.find(vm + b"/birth") is None:
            # An earlier version saved it, which made the UUIDs up and went by the names.
            return self._value(home + b"/name") == domain.name.encode()
        return vm == _vm_of(domain)

    def _value(self, path: bytes) -> bytes:
        node = self._store.tree.find(path)
        return b"" if node is None else node.value

    def remove(self, domid: int) -> None:
        """Remove a domain that is gone; dom0 stays, and one that was not shown is none."""
        if domid != DOM0 and (domid in self._domains or domid in self._restored):
            self._end(domid)

    def _end(self, domid: int) -> None:
        """Forget a domain and remove its nodes; of dom0, whose home tools write in, only what names it."""
        self._domains.pop(domid, None)
        self._shown.pop(domid, None)
        self._written.pop(domid, None)
        self._heard.pop(domid, None)
        home = home_of(domid)
        watch = self._watches.pop(domid, None)
        if watch is not None:
            self._store.watches.remove(watch)
        self._remove_vm(home)
        if domid == DOM0:
            return
        self._store.change(lambda view: view.remove(home) if view.find(home) else None)
        if domid in self._store.domains:
            self._store.release(domid)

    def _remove_vm(self, home: bytes) -> None:
        vm = self._value(home + b"/vm")
        if vm.startswith(b"/vm/") and self._store.tree.find(vm):
            self._store.change(lambda view: view.remove(vm))

    def _add(self, domain: DomainInfo, now_s: float) -> None:
        home, domid = home_of(domain.domid), domain.domid
        if self._value(home + b"/vm") != _vm_of(domain):
            self._remove_vm(home)
        self._store.change(lambda view: _show_domain(view, domain, now_s))
        self._show_target(domain)
        self._show_used(domain)
        key = _TargetKey(domid, self._heard, self._ring)
        self._watches[domid] = self._store.watches.add(key, home + _TARGET, b"", 0)
        # Last, as libxl does: a client that is woken by it finds everything in place.
        self._store.introduce(domid)

    def _change(self, before: DomainInfo, domain: DomainInfo) -> None:
        self._show_target(domain)
        if before.used_pages != domain.used_pages:
            self._show_used(domain)
        if domain.state in _STOPPED and before.state not in _STOPPED:
            self._store.shut_down(domain.domid)

    def _show_target(self, domain: DomainInfo) -> None:
        """Write the host's target, unless the key asks for just this."""
        if self._shown.get(domain.domid) == domain.target_pages:
            return
        self._shown[domain.domid] = domain.target_pages
        path = home_of(domain.domid) + _TARGET
        node = self._store.tree.find(path)
        if node and node.value.isdigit() and _pages_of(node.value[:_MOST_DIGITS]) == domain.target_pages:
            return
        self._store.change(lambda view: view.write(path, _kib(domain.target_pages), None))

    def _show_used(self, domain: DomainInfo) -> None:
        """Write what a guest uses, unless a toolstack has let it say so itself (chmod), as Qubes' does."""
        if domain.used_pages is None:
            return
        path, used = home_of(domain.domid) + _USED, _kib(domain.used_pages)
        node = self._store.tree.find(path)
        if domain.domid == DOM0 or node is None or not access_of(node.permissions, domain.domid) & _WRITE:
            self._store.change(lambda view: view.write(path, used, None))

    # -- to the host

    def written(self) -> list[int]:
        """Name the domains whose keys ask for something else than was shown, and have no answer yet.

        Whether that is a target is to be judged by the domain as it is after it was written: who wrote it may have been told
        by the host what is not shown yet. A domain is named again by the next call, unless its request was `agreed` or
        `refused` by the host.
        """
        self._written |= self._heard
        self._heard.clear()
        for domid in [domid for domid in self._written if not self._asks(domid)]:
            del self._written[domid]
        return list(self._written)

    def _asks(self, domid: int) -> bool:
        node = self._store.tree.find(home_of(domid) + _TARGET)
        if domid not in self._domains or node is None:
            return False
        return not (node.value.isdigit() and _pages_of(node.value[:_MOST_DIGITS]) == self._shown.get(domid))

    def judge(self, now: DomainInfo) -> TargetRequest | Refusal | None:
        """Decide on what the key of a domain that was named says, by how the domain is *now*; None: it asks for nothing.

        What was written since it was named is left for the next time.
        """
        domid = now.domid
        if domid in self._heard or domid not in self._written:
            return None
        before, node = self._domains.get(domid), self._store.tree.find(home_of(domid) + _TARGET)
        decision = None if node is None or before is None or before.life != now.life else decide(node.value, now)
        if decision == TargetRequest(domid, now.target_pages):
            decision = None
        if not isinstance(decision, TargetRequest):
            del self._written[domid]
        return decision

    def agreed(self, request: TargetRequest) -> None:
        """Note that the host accepted a target, as the domain's key says it."""
        self._written.pop(request.domid, None)
        if request.domid in self._domains:
            self._shown[request.domid] = request.pages

    def refused(self, request: TargetRequest) -> None:
        """Note that the host refused a target: the key keeps what was written, and the host is not asked again."""
        self._written.pop(request.domid, None)


def _kib(pages: int) -> bytes:
    return b"%d" % (pages * PAGE_KIB)


def _vm_of(domain: DomainInfo) -> bytes:
    """Name the node of a domain below /vm; a daemon of an earlier version tells no UUID to make it of."""
    return b"/vm/" + (domain.uuid or str(uuid5(UUID(int=0), domain.life))).encode()


def _libxl_of(domid: int) -> bytes:
    """Name where libxl keeps what it knows of a domain."""
    return b"/libxl/%d" % domid


def _libxl_type(domain: DomainInfo) -> bytes:
    """Tell a domain's type in libxl's words: a guest with a virtio balloon is translated, too."""
    return b"pv" if domain.type == "pv" else b"pvh"


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
    paths = (b"/tool", b"/tool/xenstored", b"/local", b"/local/domain", home, home + b"/control")
    for path in (*paths, b"/local/pool", b"/local/pool/0", b"/vm", b"/libxl"):
        if view.find(path) is None:
            _put(view, path, b"", _PRIVATE)
    for name, value in _DOM0_CONTROL:
        _put(view, home + b"/control/" + name, value, _PRIVATE)
    _put(view, b"/local/pool/0/name", b"Pool-0", _PRIVATE)
    _put(view, home + b"/domid", b"0", _PRIVATE)
    if view.find(home + b"/name") is None:
        _put(view, home + b"/name", DOM0_OF_XEN.encode(), _PRIVATE)


def _show_domain(view: Transaction, domain: DomainInfo, now_s: float) -> None:
    """Show a domain but for its target: its guest reads it all, and writes what is its own, which is left as it is."""
    home, domid = home_of(domain.domid), domain.domid
    readable = _PRIVATE if domid == DOM0 else (*_PRIVATE, Entry(int(Access.READ), domid))
    vm, name = _vm_of(domain), (DOM0_OF_XEN if domid == DOM0 else domain.name).encode()
    shown = [
        (home, b""),
        (home + b"/vm", vm),
        (home + b"/name", name),
        (home + b"/domid", b"%d" % domid),
        (home + b"/memory", b""),
        (home + b"/memory/static-max", _kib(domain.static_max_pages)),
        (home + b"/memory/videoram", b"0"),
        (vm, b""),
        (vm + b"/name", name),
        (vm + b"/uuid", vm.removeprefix(b"/vm/")),
        (vm + b"/birth", b"%d" % domain.birth),
    ]
    if view.find(vm + b"/start_time") is None:
        shown.append((vm + b"/start_time", b"%.2f" % now_s))
    if domid != DOM0:
        shown += [(home + path, b"") for path in (b"/device", b"/device/suspend", b"/control")]
        shown += [
            (home + b"/control/platform-feature-multiprocessor-suspend", b"1"),
            (home + b"/control/platform-feature-xs_reset_watches", b"1"),
            *((home + path, b"") for path in (b"/cpu", b"/cpu/0")),
            (home + b"/cpu/0/availability", b"online"),
        ]
    for path, value in shown:
        _put(view, path, value, readable)
    if domid != DOM0:
        # Without its type libxl takes a translated guest for one with a device model.
        for path, value in ((b"", b""), (b"/type", _libxl_type(domain)), (b"/dm-version", b"qemu_xen")):
            _put(view, _libxl_of(domid) + path, value, _PRIVATE)
        own = (Entry(int(Access.NONE), domid),)
        for path, value in _OWN:
            if view.find(home + b"/" + path) is None:
                _put(view, home + b"/" + path, value, own)
