"""The bridge between a host and its store: it shows the domains, and reads what clients ask of them.

`update` takes the host's domains as they are now, `show` and `remove` one that has changed; only what differs is
written, so watches fire for changes and nothing else. A client that writes a domain's `memory/target` asks for another
target: `written` names these domains, and `judge` makes a request of it, or a refusal with a reason for the log where
the value is no target. The key keeps what was written until the host's target changes: then it shows that, but not
before what was written meanwhile was judged. A size that was refused makes place for the host's target at once, so that
tools which reckon with the key, as libxl does, go by what is.

What is written to `control/shutdown` asks the guest to stop; as a guest does, the bridge empties the key when that is
begun. A name that is written is the domain's, if the host agrees; else the key shows its name again.

Source: /local/domain/N and /vm of a host of Xen 4.17 with libxl, and its permissions.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from xbd.abi import POWEROFF, REBOOT
from xbd.domain import CRASHED, DOM0, PAUSED, SHUTDOWN, SILENT, DomainInfo
from xbd.replaceable import replaceable
from xbd.target_rules import Bound, broken_bound
from xbd.units import PAGE_KIB, round_to_superpages
from xbd.xenstore.paths import home_of
from xbd.xenstore.permissions import Access, Permissions, access_of
from xbd.xenstore.shown import kib, libxl_of, show_domain, show_host, show_name, vm_of
from xbd.xenstore.store import Store
from xbd.xenstore.watches import Watch

# No host has 16 digits of KiB.
_MOST_DIGITS: Final = 16
_WRITE: Final = Access.WRITE.value
_TARGET: Final = b"/memory/target"
_USED: Final = b"/memory/meminfo"
# Below /vm: the host's target when the key last agreed with it. So the next process that takes up a saved store knows what was
# written, and answered, and that nobody could ask the host for.
_AGREED: Final = b"/agreed-target"
_SHUTDOWN: Final = b"/control/shutdown"
_NAME: Final = b"/name"
# What is written there, and why the guest then stops: Linux takes `halt` for `poweroff`.
_SHUTDOWN_REASONS: Final = {b"poweroff": POWEROFF, b"halt": POWEROFF, b"reboot": REBOOT}
# A guest that is paused, or does not answer, finds it later.
_HEEDLESS: Final = frozenset({PAUSED, SILENT})
_STOPPED: Final = frozenset({SHUTDOWN, CRASHED})


@dataclass(frozen=True, slots=True)
class TargetRequest:
    """A client asked for this target of a domain, in pages, whole superpages."""

    domid: int
    pages: int


@dataclass(frozen=True, slots=True)
class ShutdownRequest:
    """A client asked a domain's guest to stop, and why."""

    domid: int
    reason: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """A client wrote a value that asks for nothing that there is; the host is not asked."""

    domid: int
    written: bytes
    reason: str


def decide(written: bytes, domain: DomainInfo) -> TargetRequest | Refusal:
    """Decide whether what was written to a domain's memory/target is a target."""
    if not _is_size(written):
        return Refusal(domain.domid, written, "not a decimal number of KiB")
    least_kib, most_kib = max(domain.min_pages, 1) * PAGE_KIB, domain.max_pages * PAGE_KIB
    match broken_bound(int(written), least_kib, most_kib):
        case Bound.MOST:
            return Refusal(domain.domid, written, f"beyond its limit of {most_kib} KiB")
        case Bound.MINIMUM:
            return Refusal(domain.domid, written, f"below its minimum of {least_kib} KiB")
    return TargetRequest(domain.domid, _pages_of(written))


def _is_size(written: bytes) -> bool:
    return written.isdigit() and len(written) <= _MOST_DIGITS


def _pages_of(kib: bytes) -> int:
    """Tell the target that a decimal number of KiB asks for, in pages: whole superpages."""
    return round_to_superpages(int(kib) // PAGE_KIB)


@dataclass(frozen=True, slots=True, eq=False)
class _Key:
    """Listens to a key of a domain: adds its domid to *heard*, and says so to *ring*."""

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
        ring: is called when something was asked for.
    """

    def __init__(self, store: Store, ring: Callable[[], None]) -> None:
        self._store = store
        self._ring = ring
        self._watches: dict[int, list[Watch]] = {}
        self._domains: dict[int, DomainInfo] = {}
        # By domid, the key's value when it last agreed with the host.
        self._shown: dict[int, int] = {}
        # Domids whose key was written since it was last looked at, in order; and those of which it was looked at, and that
        # the host has neither agreed to nor refused yet.
        self._heard: dict[int, None] = {}
        self._written: dict[int, None] = {}
        # Domids whose guests may be asked to stop, and were not yet.
        self._stopping: dict[int, None] = {}
        # Domids whose names were written.
        self._renaming: dict[int, None] = {}
        self._restored = {domid for domid in store.domains if store.tree.find(home_of(domid) + b"/vm")}
        store.change(show_host)

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
        if self.is_another(domain):
            self._end(domain.domid)
        before = self._domains.get(domain.domid)
        if before is None:
            self._add(domain, now_s)
        else:
            self._change(before, domain)
        self._domains[domain.domid] = domain

    @replaceable
    def is_another(self, domain: DomainInfo) -> bool:
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
        return vm == vm_of(domain)

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
        self._stopping.pop(domid, None)
        self._renaming.pop(domid, None)
        home = home_of(domid)
        for watch in self._watches.pop(domid, ()):
            self._store.watches.remove(watch)
        self._remove_vm(home)
        if domid == DOM0:
            return
        self._remove(home)
        self._remove(libxl_of(domid))
        if domid in self._store.domains:
            self._store.release(domid)

    def _remove_vm(self, home: bytes) -> None:
        vm = self._value(home + b"/vm")
        if vm.startswith(b"/vm/"):
            self._remove(vm)

    def _remove(self, path: bytes) -> None:
        """Remove a node and all below it, if it is there."""
        if self._store.tree.find(path):
            self._store.change(lambda view: view.remove(path))

    def _add(self, domain: DomainInfo, now_s: float) -> None:
        home, domid = home_of(domain.domid), domain.domid
        if self._value(home + b"/vm") != vm_of(domain):
            self._remove_vm(home)
        self._store.change(lambda view: show_domain(view, domain, now_s))
        self._show_target(domain)
        self._show_used(domain)
        # A restored store may have what nobody has read yet.
        self._stopping[domid] = None
        keys = {_TARGET: self._heard, _SHUTDOWN: self._stopping, _NAME: self._renaming}
        self._watches[domid] = [
            self._store.watches.add(_Key(domid, heard, self._ring), home + path, b"", 0) for path, heard in keys.items()
        ]
        # Last, as libxl does: a client that is woken by it finds everything in place.
        self._store.introduce(domid)

    def _change(self, before: DomainInfo, domain: DomainInfo) -> None:
        self._show_target(domain)
        if before.used_pages != domain.used_pages:
            self._show_used(domain)
        if domain.started_at_s != before.started_at_s and domain.started_at_s is not None:
            started = b"%.2f" % domain.started_at_s
            self._store.change(lambda view: view.write(vm_of(domain) + b"/start_time", started, None))
        if domain.name != before.name:
            self._store.change(lambda view: show_name(view, domain))
        if domain.state in _STOPPED and before.state not in _STOPPED:
            self._store.shut_down(domain.domid)

    def _show_target(self, domain: DomainInfo) -> None:
        """Write the host's target, unless the key asks for just this."""
        domid, agreed = domain.domid, vm_of(domain) + _AGREED
        if self._shown.get(domid) == domain.target_pages:
            return
        self._shown[domid] = domain.target_pages
        path, host_s = home_of(domid) + _TARGET, kib(domain.target_pages)
        asks, is_there = self._asks(domid), self._store.tree.find(path) is not None
        if domid in self._heard and asks and _is_size(self._value(path)):
            # Nobody has judged it yet; who wrote it may have known of the host's, and set a limit for this one.
            return
        is_unheard = asks and domid not in self._domains and self._value(agreed) == host_s
        if is_unheard and isinstance(decide(self._value(path), domain), TargetRequest):
            self._heard[domid] = None
            return
        self._store.change(lambda view: view.write(agreed, host_s, None))
        if asks or not is_there:
            self._write_target(domid)

    def _show_used(self, domain: DomainInfo) -> None:
        """Write what a guest uses, unless a toolstack has let it say so itself (chmod), as Qubes' does."""
        if domain.used_pages is None:
            return
        path, used = home_of(domain.domid) + _USED, kib(domain.used_pages)
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
        for domid in [domid for domid in self._written if domid not in self._domains or not self._asks(domid)]:
            del self._written[domid]
        return list(self._written)

    def _asks(self, domid: int) -> bool:
        node = self._store.tree.find(home_of(domid) + _TARGET)
        if node is None:
            return False
        return not (node.value.isdigit() and _pages_of(node.value[:_MOST_DIGITS]) == self._shown.get(domid))

    @replaceable
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
        if isinstance(decision, Refusal) and _is_size(decision.written):
            self._show_again(domid)
        if not isinstance(decision, TargetRequest):
            del self._written[domid]
        return decision

    def _show_again(self, domid: int) -> None:
        """Write the host's target over one that it refused, unless the key was written, or the domain has gone, since."""
        if domid in self._domains and domid not in self._heard:
            self._write_target(domid)

    def _write_target(self, domid: int) -> None:
        """Write the host's target; the bridge's own writing asks for nothing."""
        target = kib(self._shown[domid])
        self._store.change(lambda view: view.write(home_of(domid) + _TARGET, target, None))
        self._heard.pop(domid, None)

    def agreed(self, request: TargetRequest) -> None:
        """Note that the host accepted a target, as the domain's key says it."""
        self._written.pop(request.domid, None)
        if request.domid in self._domains:
            self._shown[request.domid] = request.pages
            agreed = vm_of(self._domains[request.domid]) + _AGREED
            self._store.change(lambda view: view.write(agreed, kib(request.pages), None))

    def refused(self, request: TargetRequest) -> None:
        """Note that the host refused a target: the key shows the host's own again."""
        self._written.pop(request.domid, None)
        self._show_again(request.domid)

    def shutdowns(self) -> list[ShutdownRequest | Refusal]:
        """List what was written to `control/shutdown`: requests until they are `begun`, refusals once."""
        asked: list[ShutdownRequest | Refusal] = []
        for domid in list(self._stopping):
            written = self._value(home_of(domid) + _SHUTDOWN)
            if written in _SHUTDOWN_REASONS:
                if self._domains[domid].state not in _HEEDLESS:
                    asked.append(ShutdownRequest(domid, _SHUTDOWN_REASONS[written]))
                continue
            del self._stopping[domid]
            if written:
                asked.append(Refusal(domid, written, "no guest here does that; poweroff, halt and reboot are known"))
        return asked

    def renames(self) -> list[tuple[int, str]]:
        """List, once each, the guests whose names were written, and what they shall be called."""
        heard = list(self._renaming)
        self._renaming.clear()
        written = [(domid, self._value(home_of(domid) + _NAME).decode(errors="replace")) for domid in heard]
        return [(domid, name) for domid, name in written if domid != DOM0 and name != self._domains[domid].name]

    def keeps_name(self, domid: int) -> None:
        """Show a guest's name again: the host refused the one that was written."""
        if domid in self._domains:
            self._store.change(lambda view: show_name(view, self._domains[domid]))

    def begun(self, request: ShutdownRequest) -> None:
        """Empty the key that asked a guest to stop, as the guest does when it begins to; one that asks for something else stays."""
        path = home_of(request.domid) + _SHUTDOWN
        if _SHUTDOWN_REASONS.get(self._value(path)) == request.reason:
            self.not_begun(request)
            self._store.change(lambda view: view.write(path, b"", None))

    def not_begun(self, request: ShutdownRequest) -> None:
        """Note that the host refused to ask a guest to stop: the key keeps what was written, and the host is not asked again."""
        self._stopping.pop(request.domid, None)
