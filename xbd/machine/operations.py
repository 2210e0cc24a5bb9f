"""The table of operations: which ones each type of domain has, and the functions that do them.

A Xen domain, translated or not, has Xen's hypercalls and xbd's own; a virtio domain has the two queues
of a virtio balloon. All of them can access content words.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from xbd import abi
from xbd.abi import DomainType
from xbd.errors import NotSupported
from xbd.machine import content, exchange, grants, messages, reservation
from xbd.machine.domain import Domain
from xbd.machine.domains import DomainTable
from xbd.machine.frame_table import FrameTable
from xbd.machine.settings import HostSettings

# An operation on one domain alone; one that concerns other domains too; either, bound to its host.
_Own = Callable[[FrameTable, Domain, Any], abi.Result]
_Shared = Callable[[DomainTable, FrameTable, Domain, Any], abi.Result]
Operation = Callable[[Domain, Any], abi.Result]

_ACCESSES: Final[dict[type, tuple[str, _Own]]] = {
    abi.Load: ("load", content.load),
    abi.Store: ("store", content.store),
}
_XEN: Final[dict[type, tuple[str, _Own]]] = {
    abi.Populate: ("populate", reservation.populate),
    abi.Decrease: ("decrease", reservation.decrease),
    abi.Exchange: ("exchange", exchange.exchange),
    abi.PopulateDepopulate: ("populate_depopulate", exchange.populate_depopulate),
    **_ACCESSES,
}
_XEN_SHARED: Final[dict[type, tuple[str, _Shared]]] = {
    abi.Grant: ("grant", grants.grant),
    abi.EndGrant: ("end_grant", grants.end_grant),
    abi.MapGrant: ("map_grant", grants.map_grant),
    abi.UnmapGrant: ("unmap_grant", grants.unmap_grant),
    abi.Send: ("send", messages.send),
    abi.Receive: ("receive", messages.receive),
}
_VIRTIO: Final[dict[type, tuple[str, _Own]]] = {
    abi.Deflate: ("deflate", reservation.deflate),
    abi.Inflate: ("inflate", reservation.inflate),
    **_ACCESSES,
}
# Memory accesses, never counted as hypercalls.
UNCOUNTED: Final = frozenset(name for name, _ in _ACCESSES.values())


def features_of(settings: HostSettings, domain_type: DomainType) -> abi.Features:
    """Say what a host offers to a type of domain. Source: Xen memory_exchange refuses translated guests."""
    if domain_type is DomainType.VIRTIO:
        return abi.Features(populate_depopulate=False, exchange=False, grants=False)
    exchange = settings.exchange_translated or domain_type is DomainType.PV
    return abi.Features(populate_depopulate=settings.populate_depopulate, exchange=exchange)


def _not_there(domain: Domain, command: object) -> abi.Result:
    raise NotSupported(
        f"a {domain.domain_type} domain has no {type(command).__name__}", "an operation of its type of domain"
    )


NO_OPERATION: Final[tuple[str, Operation]] = ("unsupported", _not_there)


def bind(domain_table: DomainTable, host: FrameTable) -> Mapping[DomainType, Mapping[type, tuple[str, Operation]]]:
    """Bind the operations of each type of domain to a host: by type, by class of command, its name and what does it."""
    xen: dict[type, tuple[str, Operation]] = {}
    for kind, (name, own) in _XEN.items():
        xen[kind] = name, partial(own, host)
    for kind, (name, shared) in _XEN_SHARED.items():
        xen[kind] = name, partial(shared, domain_table, host)
    virtio: dict[type, tuple[str, Operation]] = {
        kind: (name, partial(own, host)) for kind, (name, own) in _VIRTIO.items()
    }
    return {DomainType.PV: xen, DomainType.PVH: xen, DomainType.VIRTIO: virtio}
