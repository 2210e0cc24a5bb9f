"""A host's figures as Prometheus metrics; pure. Needs the extra `metrics`."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from xbd.domain import DomainInfo

# name: (key of the host's map, what it is)
_HOST: Final = {
    "xbd_frames": ("frames", "Page frames of the host, 4 KiB each."),
    "xbd_free_frames": ("free_frames", "Frames that are free."),
    "xbd_claimed_frames": ("claimed_frames", "Free frames that are promised to a domain."),
    "xbd_superframes": ("superframes", "Superframes of the host, 2 MiB each."),
    "xbd_free_superframes": ("free_superframes", "Superframes that are wholly free."),
    "xbd_shattered_superframes": (
        "shattered_superframes",
        "Superframes of which some frames are free, or several owners'.",
    ),
    "xbd_domains": ("domains", "Domains, zombies included."),
}
# name: (key of a node's map, what it is)
_NODE: Final = {
    "xbd_node_frames": ("frames", "Page frames of the node."),
    "xbd_node_free_frames": ("free_frames", "Frames of it that are free."),
    "xbd_node_free_superframes": ("free_superframes", "Superframes of it that are wholly free."),
    "xbd_node_claimed_frames": ("claimed_frames", "Free frames of it that are promised to a domain there."),
    "xbd_node_offline_frames": ("offline_frames", "Frames of it that are out of use."),
}
# name: (key of the domain's map, what it is)
_DOMAIN: Final = {
    "xbd_domain_tot_pages": ("tot_pages", "Pages that the domain holds."),
    "xbd_domain_target_pages": ("target_pages", "Pages that it should hold."),
    "xbd_domain_max_pages": ("max_pages", "Pages that it may hold."),
    "xbd_domain_min_pages": ("min_pages", "Pages below which no target is set."),
    "xbd_domain_claimed_pages": ("claimed_pages", "Pages outstanding of its claim."),
    "xbd_domain_leaves": ("leaves", "Its 2 MiB leaves."),
    "xbd_domain_superpage_coverage": ("superpage_coverage", "Share of its memory that lies in leaves."),
    "xbd_domain_locality": ("locality", "Share of its memory on its nodes, or on the one that has most of it."),
    "xbd_domain_grants": ("grants", "Entries of its grant table in use."),
    "xbd_domain_mapped_grants": ("mapped_grants", "Pages of other domains that it maps."),
    "xbd_domain_referenced_pages": ("referenced_pages", "Its pages that other domains map."),
}
_LABELS: Final = ("domid", "name")


def families(host: Mapping[str, Any] | None, domains: Sequence[DomainInfo]) -> Iterator[Metric]:
    """Describe a host and its domains; *host* None: it cannot be reached, which `xbd_up` says."""
    yield GaugeMetricFamily("xbd_up", "Whether the hypervisor answers.", value=float(host is not None))
    if host is None:
        return
    for name, (key, what) in _HOST.items():
        yield GaugeMetricFamily(name, what, value=float(host[key]))
    # A hypervisor of an earlier version tells neither of nodes nor of waits.
    yield from _by_node(host.get("nodes", ()), domains)
    if "target_waits" in host:
        yield _waits(host["target_waits"], float(host["target_waits_s"]))
    for name, (key, what) in _DOMAIN.items():
        gauge = GaugeMetricFamily(name, what, labels=_LABELS)
        for domain in domains:
            gauge.add_metric(_who(domain), float(getattr(domain, key)))
        yield gauge
    info = GaugeMetricFamily(
        "xbd_domain_info", "1; which domain has the number and the name.", labels=(*_LABELS, "uuid")
    )
    for domain in domains:
        info.add_metric([*_who(domain), domain.uuid], 1.0)
    yield info
    yield _states(domains)
    yield _counted(domains, "xbd_domain_hypercalls", "Operations of the domain, by how they ended.", "hypercalls")
    yield _counted(domains, "xbd_domain_extents", "Extents done for it.", "extents")


def _by_node(nodes: Sequence[Mapping[str, Any]], domains: Sequence[DomainInfo]) -> Iterator[Metric]:
    """Describe the nodes of a host, and what lies where."""
    for name, (key, what) in _NODE.items():
        gauge = GaugeMetricFamily(name, what, labels=("node",))
        for number, node in enumerate(nodes):
            gauge.add_metric([str(number)], float(node[key]))
        yield gauge
    gauge = GaugeMetricFamily(
        "xbd_domain_node_pages", "Pages that the domain holds on a node.", labels=(*_LABELS, "node")
    )
    for domain in domains:
        for number, pages in enumerate(domain.node_pages):
            gauge.add_metric([*_who(domain), str(number)], float(pages))
    yield gauge


def _who(domain: DomainInfo) -> list[str]:
    return [str(domain.domid), domain.name]


def _waits(counts: Mapping[str, int], sum_s: float) -> Metric:
    """Make a histogram of classes that are told one by one: Prometheus counts all up to each bound."""
    up_to = [float(count) for count in accumulate(counts.values())]
    bounds = ["+Inf" if bound == "inf" else str(float(bound)) for bound in counts]
    buckets = list(zip(bounds, up_to, strict=True))
    return HistogramMetricFamily(
        "xbd_target_wait_seconds", "How long domains took to reach targets.", buckets=buckets, sum_value=sum_s
    )


def _states(domains: Sequence[DomainInfo]) -> Metric:
    gauge = GaugeMetricFamily("xbd_domain_state", "1 for the state that the domain is in.", labels=(*_LABELS, "state"))
    for domain in domains:
        gauge.add_metric([*_who(domain), domain.state], 1.0)
    return gauge


def _counted(domains: Sequence[DomainInfo], name: str, what: str, key: str) -> Metric:
    """Make a counter of a domain's `operation:outcome` or `operation` counts."""
    counter = CounterMetricFamily(name, what, labels=(*_LABELS, "operation", "outcome"))
    for domain in domains:
        for counted, count in getattr(domain, key).items():
            operation, _, outcome = counted.partition(":")
            counter.add_metric([*_who(domain), operation, outcome], float(count))
    return counter
