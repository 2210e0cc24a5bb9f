"""What the store shows of a host and of a domain, but for what changes while it runs: nodes, values and permissions.

Source: /local/domain/N, /vm and /libxl of a host of Xen 4.17 with libxl.
"""

from typing import Final
from uuid import UUID, uuid5

from xbd.domain import DOM0, DOM0_OF_XEN, DomainInfo
from xbd.units import PAGE_KIB
from xbd.xenstore.paths import home_of
from xbd.xenstore.permissions import Access, Entry, Permissions
from xbd.xenstore.transactions import Transaction

_PRIVATE: Final[Permissions] = (Entry(int(Access.NONE), DOM0),)
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


def kib(pages: int) -> bytes:
    """Write pages as the store has memory, in KiB."""
    return b"%d" % (pages * PAGE_KIB)


def vm_of(domain: DomainInfo) -> bytes:
    """Name the node of a domain below /vm; a daemon of an earlier version tells no UUID to make it of."""
    return b"/vm/" + (domain.uuid or str(uuid5(UUID(int=0), domain.life))).encode()


def libxl_of(domid: int) -> bytes:
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


def show_host(view: Transaction) -> None:
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


def show_name(view: Transaction, domain: DomainInfo) -> None:
    """Show what a domain is called now; its nodes are there."""
    for path in (home_of(domain.domid), vm_of(domain)):
        view.write(path + b"/name", domain.name.encode(), None)


def show_domain(view: Transaction, domain: DomainInfo, now_s: float) -> None:
    """Show a domain but for its target: its guest reads it all, and writes what is its own, which is left as it is."""
    home, domid = home_of(domain.domid), domain.domid
    readable = _PRIVATE if domid == DOM0 else (*_PRIVATE, Entry(int(Access.READ), domid))
    vm, name = vm_of(domain), (DOM0_OF_XEN if domid == DOM0 else domain.name).encode()
    shown = [
        (home, b""),
        (home + b"/vm", vm),
        (home + b"/name", name),
        (home + b"/domid", b"%d" % domid),
        (home + b"/memory", b""),
        (home + b"/memory/static-max", kib(domain.static_max_pages)),
        (home + b"/memory/videoram", b"0"),
        (vm, b""),
        (vm + b"/name", name),
        (vm + b"/uuid", vm.removeprefix(b"/vm/")),
        (vm + b"/birth", b"%d" % domain.birth),
    ]
    if domain.started_at_s is not None or view.find(vm + b"/start_time") is None:
        # A daemon of an earlier version does not tell.
        shown.append((vm + b"/start_time", b"%.2f" % (domain.started_at_s or now_s)))
    if domid != DOM0:
        shown += [(home + path, b"") for path in (b"/device", b"/device/suspend", b"/control")]
        shown += [
            (home + b"/control/platform-feature-multiprocessor-suspend", b"1"),
            (home + b"/control/platform-feature-xs_reset_watches", b"1"),
            (home + b"/cpu", b""),
            *((home + b"/cpu/%d" % vcpu, b"") for vcpu in range(domain.vcpus)),
            *((home + b"/cpu/%d/availability" % vcpu, b"online") for vcpu in range(domain.vcpus)),
        ]
    for path, value in shown:
        _put(view, path, value, readable)
    if domid != DOM0:
        # Without its type libxl takes a translated guest for one with a device model.
        for path, value in ((b"", b""), (b"/type", _libxl_type(domain)), (b"/dm-version", b"qemu_xen")):
            _put(view, libxl_of(domid) + path, value, _PRIVATE)
        own = (Entry(int(Access.NONE), domid),)
        for path, value in _OWN:
            if view.find(home + b"/" + path) is None:
                _put(view, home + b"/" + path, value, own)
