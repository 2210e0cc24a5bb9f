"""Commands that answer one question each, as xl's of the same names do: list, domid, domname, uptime, vcpu-list, claims, sharing, dmesg."""

import time
from collections.abc import Iterator, Sequence
from typing import Final

import click

from xbd.cli.common import Failure, client_options, complete_domains, emit, with_client
from xbd.cli.tables import domains_table, table
from xbd.domain import DOM0, DomainInfo
from xbd.text import printable
from xbd.units import MIB_PAGES

# As xl's tables begin.
_HEAD: Final = ("Name", "ID")
_WIDTHS: Final = (-40, 5)
_DAY_S: Final = 86_400


def _asked(socket_path: str | None, names: tuple[str, ...]) -> Sequence[DomainInfo]:
    """List all domains, or those that are named."""
    domains = with_client(socket_path, lambda client: client.list())
    if not names:
        return domains
    from xbd.control.targets import choose, is_any  # noqa: PLC0415 - not for a list of all

    return choose(domains, names, is_any)


def _one(socket_path: str | None, name: str) -> DomainInfo:
    """Find the one domain that is named. Raises Failure: a pattern matches several."""
    found = _asked(socket_path, (name,))
    if len(found) != 1:
        raise Failure(f"{name} matches {len(found)} domains; name one of them")
    return found[0]


def _begin(domain: DomainInfo) -> tuple[str, str]:
    return printable(domain.name), str(domain.domid)


@click.command("list")
@click.argument("names", nargs=-1, metavar="[DOMAIN]...", shell_complete=complete_domains)
@client_options
def list_command(names: tuple[str, ...], socket_path: str | None, *, as_json: bool) -> None:
    """List the domains, or those that are named (names, numbers, patterns as 'web*').

    Mem, Target and Limit are in MiB; Superpages is the share of the domain's memory that lies in 2 MiB
    leaves of its p2m.
    """
    domains = _asked(socket_path, names)
    emit(as_json, [domain.as_map() for domain in domains], domains_table(domains))


@click.command("domid")
@click.argument("name", metavar="DOMAIN", shell_complete=complete_domains)
@client_options
def domid_command(name: str, socket_path: str | None, *, as_json: bool) -> None:
    """Tell DOMAIN's number."""
    domain = _one(socket_path, name)
    emit(as_json, {"domid": domain.domid, "name": domain.name}, [str(domain.domid)])


@click.command("domname")
@click.argument("name", metavar="DOMAIN", shell_complete=complete_domains)
@client_options
def domname_command(name: str, socket_path: str | None, *, as_json: bool) -> None:
    """Tell the name of DOMAIN, such as 7 or d7."""
    domain = _one(socket_path, name)
    emit(as_json, {"domid": domain.domid, "name": domain.name}, [printable(domain.name)])


@click.command("uptime")
@click.argument("names", nargs=-1, metavar="[DOMAIN]...", shell_complete=complete_domains)
@client_options
def uptime_command(names: tuple[str, ...], socket_path: str | None, *, as_json: bool) -> None:
    """Tell for how long guests have been running: since they booted last, or their domains were created."""
    domains, now_s = _asked(socket_path, names), time.time()
    up_s = {one.domid: None if one.started_at_s is None else max(now_s - one.started_at_s, 0.0) for one in domains}
    rows = [(*_begin(one), _uptime(up_s[one.domid])) for one in domains]
    output = [{"domid": one.domid, "name": one.name, "uptime_s": up_s[one.domid]} for one in domains]
    emit(as_json, output, table((*_HEAD, "Uptime"), rows, (*_WIDTHS, -7)))


def _uptime(up_s: float | None) -> str:
    """Write a time as xl does; a hypervisor of an earlier version does not know it."""
    if up_s is None:
        return "-"
    days, rest_s = divmod(int(up_s), _DAY_S)
    ahead = f"{days} day{'s' if days > 1 else ''}, " if days else ""
    return f"{ahead}{rest_s // 3600}:{rest_s // 60 % 60:02}:{rest_s % 60:02}"


@click.command("vcpu-list")
@click.argument("names", nargs=-1, metavar="[DOMAIN]...", shell_complete=complete_domains)
@client_options
def vcpu_list_command(names: tuple[str, ...], socket_path: str | None, *, as_json: bool) -> None:
    """List the virtual processors of all domains, or of those that are named.

    A state is r (running), b (waits for something to do) or p (paused). The first of a domain has the processor time
    that its agent measures; nothing depends on how many there are.
    """
    vcpus = list(_vcpus(_asked(socket_path, names)))
    rows = [(*_begin(one), str(number), state, f"{time_s:.1f}") for one, number, state, time_s in vcpus]
    output = [
        {"domid": one.domid, "name": one.name, "vcpu": number, "state": state, "time_s": time_s}
        for one, number, state, time_s in vcpus
    ]
    emit(as_json, output, table((*_HEAD, "VCPU", "State", "Time(s)"), rows, (*_WIDTHS, 5, -5, 9)))


def _vcpus(domains: Sequence[DomainInfo]) -> Iterator[tuple[DomainInfo, int, str, float]]:
    """List processors: domain, number, state, seconds that they ran, by the guest's untrusted report."""
    for one in domains:
        told_ms = one.reported.get("cpu_ms")
        used_s = told_ms / 1000 if type(told_ms) is int and told_ms > 0 else 0.0
        for number in range(one.vcpus):
            state = "--p" if one.pauses else "r--" if one.domid == DOM0 and number == 0 else "-b-"
            yield one, number, state, 0.0 if number else used_s


@click.command("claims")
@client_options
def claims_command(socket_path: str | None, *, as_json: bool) -> None:
    """List the domains, and in MiB what they hold and what is outstanding of their claims, in all and on each node."""
    domains = _asked(socket_path, ())
    nodes = max((len(one.node_claims) for one in domains), default=0)
    on_nodes = range(nodes if nodes > 1 else 0)
    rows = [
        (
            *_begin(one),
            *(str(pages // MIB_PAGES) for pages in (one.tot_pages, one.claimed_pages)),
            *(str(one.node_claims[node] // MIB_PAGES) for node in on_nodes),
        )
        for one in domains
    ]
    output = [
        {"domid": one.domid, "name": one.name, "tot_pages": one.tot_pages, "claimed_pages": one.claimed_pages}
        | ({"node_claims": list(one.node_claims)} if on_nodes else {})
        for one in domains
    ]
    header = (*_HEAD, "Mem", "Claimed", *(f"Node {node}" for node in on_nodes))
    emit(as_json, output, table(header, rows, (*_WIDTHS, 5, 7, *(7 for _ in on_nodes))))


@click.command("sharing")
@click.argument("names", nargs=-1, metavar="[DOMAIN]...", shell_complete=complete_domains)
@client_options
def sharing_command(names: tuple[str, ...], socket_path: str | None, *, as_json: bool) -> None:
    """List, in pages, what others map of domains, and what they map of others: by grants.

    No two domains share a page because its content is the same: what xl calls sharing is always 0 here.
    """
    domains = _asked(socket_path, names)
    rows = [(*_begin(one), *map(str, (one.grants, one.referenced_pages, one.mapped_grants))) for one in domains]
    output = [
        {
            "domid": one.domid,
            "name": one.name,
            "grants": one.grants,
            "referenced_pages": one.referenced_pages,
            "mapped_grants": one.mapped_grants,
        }
        for one in domains
    ]
    emit(as_json, output, table((*_HEAD, "Granted", "Mapped", "Maps"), rows, (*_WIDTHS, 7, 7, 7)))


@click.command("dmesg")
@client_options
def dmesg_command(socket_path: str | None, *, as_json: bool) -> None:
    """Print the last lines of the hypervisor's log, as many as it keeps."""
    text, first = with_client(socket_path, lambda client: client.console())
    emit(as_json, {"text": text, "first": first}, printable(text, lines=True).splitlines())
