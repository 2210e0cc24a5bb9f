"""A virtual host's moments for a series, as a daemon would tell them, with its guests' own figures."""

from dataclasses import asdict, replace

from xbd.domain import DomainInfo
from xbd.testing.virtual_host import VirtualHost


def told_of(host: VirtualHost) -> tuple[dict[str, float], list[DomainInfo]]:
    """Tell of a host and its domains, by domid; nothing is changed."""
    statistics = asdict(host.machine.statistics())
    domains = [
        replace(host.machine.domain_info(domid), report=asdict(host.guest(domid).statistics()))
        for domid in host.domids()
    ]
    return statistics, domains
