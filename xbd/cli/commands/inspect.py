"""Commands that only read: info, explain, events, audit."""

import json
from collections.abc import Sequence
from typing import Any

import click

from xbd.cli.common import EXIT_FAILED, client_options, complete_domains, emit, end_with_reader, with_client
from xbd.cli.policy_status import autoballoon_status
from xbd.cli.render import domain_details, event_line, host_details
from xbd.cli.tables import nodes_table
from xbd.client.blocking import BlockingClient
from xbd.control.explain import hindrances, target_reasons, workload_reasons
from xbd.control.targets import choose, is_any
from xbd.domain import DomainInfo
from xbd.text import WILDCARDS, printable
from xbd.units import format_pages


@click.command("info")
@click.argument("names", nargs=-1, metavar="[DOMAIN]...", shell_complete=complete_domains)
@click.option("--numa", "-n", is_flag=True, help="Of the host also its nodes.")
@client_options
def info_command(names: tuple[str, ...], socket_path: str | None, *, numa: bool, as_json: bool) -> None:
    """Tell all about the host, or about the domains that are named."""
    if not names:
        host = with_client(socket_path, lambda client: client.host())
        nodes = nodes_table(host.get("nodes") or []) if numa else []
        emit(as_json, host, host_details(host) + nodes)
        return
    domains = with_client(socket_path, lambda client: _chosen(client, names))
    output = [domain.as_map() for domain in domains]
    lines: list[str] = []
    for domain in domains:
        lines += ([""] if lines else []) + domain_details(domain)
    # One domain that is named, not matched, is one object; scripts need not unpack a list.
    single = len(names) == 1 and len(output) == 1 and not WILDCARDS & set(names[0])
    emit(as_json, output[0] if single else output, lines)


@click.command("explain")
@click.argument("name", metavar="DOMAIN", shell_complete=complete_domains)
@client_options
def explain_command(name: str, socket_path: str | None, *, as_json: bool) -> None:
    """Say why DOMAIN's target is what it is, and why it does not hold that, if it does not.

    DOMAIN is a name, a number or a pattern. What a guest reports is its own word. In JSON each reason has a code that
    stays; its text may change.
    """

    def ask(client: BlockingClient) -> tuple[Sequence[DomainInfo], dict[str, Any]]:
        return _chosen(client, (name,)), client.host()

    domains, host = with_client(socket_path, ask)
    status = autoballoon_status(socket_path)
    output, lines = [], []
    for domain in domains:
        why_target = target_reasons(domain, status.of(domain), excluded=domain.life in status.excluded)
        why_not = hindrances(domain, host)
        plays = workload_reasons(domain)
        held = (
            f"{domain.name} holds {format_pages(domain.tot_pages)}, its target is {format_pages(domain.target_pages)}"
        )
        lines += [printable(held), *(f"  {printable(reason.text)}" for reason in (*why_target, *why_not, *plays))]
        output.append(
            {
                "domid": domain.domid,
                "name": domain.name,
                "tot_pages": domain.tot_pages,
                "target_pages": domain.target_pages,
                "target_set_by": domain.target_set_by,
                "target": [reason._asdict() for reason in why_target],
                "hindrances": [reason._asdict() for reason in why_not],
                "workload": [reason._asdict() for reason in plays],
            }
        )
    if status.trouble:
        lines.append(f"what autoballoon decides is not known: {status.trouble}")
    emit(as_json, {"domains": output, "autoballoon": status.trouble or ("runs" if status.runs else "none")}, lines)


@click.command("audit")
@client_options
@click.pass_context
def audit_command(ctx: click.Context, socket_path: str | None, *, as_json: bool) -> None:
    """Let the hypervisor recompute everything; exit 1 if anything does not hold.

    Every frame has exactly one owner, free and owned frames are all there are, p2m and owners agree, and
    so do all counters.
    """
    violations = with_client(socket_path, lambda client: client.audit())
    output = {"violations": violations}
    emit(as_json, output, violations or ["all holds: no violations"])
    if violations:
        ctx.exit(EXIT_FAILED)


@click.command("events")
@click.option(
    "--since",
    type=click.IntRange(min=0),
    default=0,
    metavar="NUMBER",
    help="Begin with this event. [default: the oldest that is kept]",
)
@click.option("--no-follow", is_flag=True, help="Print those that there are, and end.")
@client_options
def events_command(since: int, socket_path: str | None, *, no_follow: bool, as_json: bool) -> None:
    """Follow what happens on the host, until Ctrl-C; with --json one object a line."""

    def show(event: dict[str, Any]) -> None:
        # One line each, not emit's layout: a stream is read line by line as it comes.
        click.echo(json.dumps(event, ensure_ascii=False) if as_json else event_line(event))

    end_with_reader()

    def follow(client: BlockingClient) -> None:
        for event in client.events(since, follow=not no_follow):
            show(event)

    with_client(socket_path, follow)


def _chosen(client: BlockingClient, names: tuple[str, ...]) -> Sequence[DomainInfo]:
    domains = client.list()
    return choose(domains, names, is_any) if names else domains
