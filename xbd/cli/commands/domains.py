"""Commands that create domains and wait for them: create, wait."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from xbd.abi import MAX_NODES, MAX_VCPUS, ON_CRASH, DomainType
from xbd.cli.common import (
    EXIT_FAILED,
    Failure,
    client_options,
    complete_domains,
    emit,
    renamed_option,
    with_client,
)
from xbd.cli.follow import LOOK_EVERY_S
from xbd.client.blocking import BlockingClient
from xbd.client.calls import KnownDomains
from xbd.client.runtime_dir import absolute_path
from xbd.config.strategies import DEFAULT_STRATEGY, STRATEGIES
from xbd.config.toml import load_toml
from xbd.control.explain import why_stuck
from xbd.control.targets import BadRequest, Rounded, can_be_destroyed, choose, is_any, parse_pages, round_pages
from xbd.domain import HARD, SOFT, DomainInfo
from xbd.target_rules import REFUSED_AFTER_S, is_reached
from xbd.units import format_pages

# The conditions of `wait`, each a test of a domain as listed; None: it is gone.
_CONDITIONS: dict[str, Callable[[DomainInfo | None], bool]] = {
    "target": lambda domain: domain is not None and is_reached(domain.tot_pages, domain.target_pages),
    "running": lambda domain: domain is not None and domain.state == "running",
    "shutdown": lambda domain: domain is None or domain.state == "shutdown",
    "gone": lambda domain: domain is None,
}


@click.command("create")
@click.argument("name")
@click.option("--target", metavar="SIZE", help="What it should hold at first, such as 512m or 2g.  [required]")
@click.option(
    "--maximum",
    metavar="SIZE",
    help="The static maximum: no target and no limit can be set above it; it never changes. [default: as --target]",
)
@click.option("--minimum", metavar="SIZE", help="No target can be set below it. [default: nothing]")
@click.option("--memory", "old_target", metavar="SIZE", hidden=True, help="The old name of --target.")
@click.option("--maxmem", "old_maximum", metavar="SIZE", hidden=True, help="The old name of --maximum.")
@click.option(
    "--type",
    "domain_type",
    type=click.Choice([kind.value for kind in DomainType]),
    help="Xen's hypercalls, translated (pvh) or not (pv), or a virtio balloon. [default: what the strategy says, pvh]",
)
@click.option(
    "--strategy",
    type=click.Choice(list(STRATEGIES)),
    default=DEFAULT_STRATEGY,
    show_default=True,
    help="Its balloon driver.",
)
@click.option(
    "--workload",
    metavar="NAME",
    help="What runs in it: idle, steady, bursty or unmovable; or a table as in host files, such as"
    " '{ trace = \"web.csv\", speed = 10 }'. [default: idle]",
)
@click.option("--seed", type=click.IntRange(min=0), help="What its chance is drawn from. [default: 0]")
@click.option("--verify", is_flag=True, help="Check every content word that its programs wrote.")
@click.option(
    "--on-crash",
    type=click.Choice(ON_CRASH),
    default="restart",
    show_default=True,
    help="What becomes of it when its agent dies: another boots it, it is destroyed, or it stays to be looked at.",
)
@click.option(
    "--vcpus",
    type=click.IntRange(1, MAX_VCPUS),
    default=1,
    show_default=True,
    help="Its virtual processors, as Xen's tools show them; nothing depends on them.",
)
@click.option(
    "--node",
    "nodes",
    type=click.IntRange(0, MAX_NODES - 1),
    multiple=True,
    help="A node that its memory should lie on; may be given several times. [default: any]",
)
@click.option("--hard", is_flag=True, help="Its memory lies on these nodes alone, not on others where they are full.")
@click.option("--no-start", is_flag=True, help="Leave it without an agent; start one with `xbd guest NAME`.")
@client_options
def create_command(
    name: str,
    *,
    target: str | None,
    maximum: str | None,
    minimum: str | None,
    old_target: str | None,
    old_maximum: str | None,
    domain_type: str | None,
    strategy: str,
    workload: str | None,
    seed: int | None,
    socket_path: str | None,
    verify: bool,
    on_crash: str,
    vcpus: int,
    nodes: tuple[int, ...],
    hard: bool,
    no_start: bool,
    as_json: bool,
) -> None:
    """Create a domain; `xbd guests` starts an agent for it."""
    target = renamed_option("--target", target, "--memory", old_target)
    maximum = renamed_option("--maximum", maximum, "--maxmem", old_maximum)
    if target is None:
        raise click.MissingParameter(param_hint="'--target'", param_type="option")
    sizes = _sizes(name, target, maximum, minimum)
    chosen_type = DomainType(domain_type or STRATEGIES[strategy].domain_type)
    settings = {"strategy": strategy, "workload": _workload(workload), "seed": seed, "verify": verify or None}
    guest = {key: setting for key, setting in settings.items() if setting is not None}
    if _TRACE in str(workload):
        _check_trace(guest, sizes.maximum.pages)

    def create(client: BlockingClient) -> int:
        return client.create(
            name,
            max_pages=sizes.maximum.pages,
            target_pages=sizes.target.pages,
            min_pages=sizes.minimum.pages if sizes.minimum else 0,
            domain_type=chosen_type,
            autostart=not no_start,
            on_crash=on_crash,
            guest=guest,
            vcpus=vcpus,
            nodes=nodes,
            affinity=HARD if hard else SOFT,
        )

    domid = with_client(socket_path, create)
    output = {
        "domid": domid,
        "name": name,
        "type": chosen_type.value,
        "target_pages": sizes.target.pages,
        "min_pages": sizes.minimum.pages if sizes.minimum else 0,
        "max_pages": sizes.maximum.pages,
    }
    least = f", minimum {sizes.minimum}" if sizes.minimum else ""
    emit(as_json, output, [f"created {name} (d{domid}), target {sizes.target}, maximum {sizes.maximum}{least}"])


_TRACE: Final = "trace"


def _workload(written: str | None) -> object:
    """Read a workload as it was written: a name, or a table of TOML, in which a trace's path is made absolute."""
    if written is None or not written.lstrip().startswith("{"):
        return written
    table = load_toml(f"workload = {written}", "--workload").get("workload")
    if isinstance(table, dict) and isinstance(table.get(_TRACE), str):
        # Its agent has another current directory.
        return {**table, _TRACE: str(absolute_path(Path(table[_TRACE]).expanduser()))}
    return table


def _check_trace(guest: dict[str, object], max_pages: int) -> None:
    """Refuse a trace that its agent could not play. Raises TraceError, BadSetting."""
    from xbd.daemons.trace_files import TraceFiles  # noqa: PLC0415 - numpy, where there is a trace

    TraceFiles().finder(guest, max_pages)


@dataclass(frozen=True, slots=True)
class _Sizes:
    """What a new domain is to hold at first, and what bounds that."""

    target: Rounded
    maximum: Rounded
    minimum: Rounded | None


def _sizes(name: str, target: str, maximum: str | None, minimum: str | None) -> _Sizes:
    """Read the sizes that a new domain is given. Raises Failure: they contradict each other."""
    sizes = _Sizes(
        target=round_pages(parse_pages(target)),
        maximum=round_pages(parse_pages(maximum or target)),
        minimum=round_pages(parse_pages(minimum)) if minimum else None,
    )
    if sizes.target.pages > sizes.maximum.pages:
        raise Failure(f"{name}: --target {target} is more than --maximum {maximum}; raise --maximum or lower --target")
    if sizes.minimum and sizes.minimum.pages > sizes.target.pages:
        raise Failure(f"{name}: --minimum {minimum} is more than --target {target}; lower --minimum or raise --target")
    return sizes


@click.command("wait")
@click.argument("names", nargs=-1, required=True, metavar="DOMAIN...", shell_complete=complete_domains)
@click.option(
    "--for",
    "condition",
    type=click.Choice(list(_CONDITIONS)),
    default="target",
    show_default=True,
    help="What to wait for.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=REFUSED_AFTER_S,
    show_default=True,
    metavar="SECONDS",
    help="Fail after this time.",
)
@client_options
@click.pass_context
def wait_command(
    ctx: click.Context,
    names: tuple[str, ...],
    condition: str,
    timeout: float,
    socket_path: str | None,
    *,
    as_json: bool,
) -> None:
    """Wait until all DOMAINs are at their targets, running, shut down or gone; exit 1 if they are not in time.

    A domain whose pages others still map is not gone yet. With --for gone a pattern does not match dom0.
    """
    is_met = _CONDITIONS[condition]

    def wait(client: BlockingClient) -> list[tuple[DomainInfo, DomainInfo | None, str]]:
        known = KnownDomains()
        known.take(client.changes())
        # With --for gone a name may have none already; otherwise each name must be that of a domain.
        present = [name for name in names if condition != "gone" or _is_listed(known.domains, name)]
        domains = choose(known.domains, present, can_be_destroyed if condition == "gone" else is_any)
        _until(client, known, domains, is_met, time.monotonic() + timeout)
        host = client.host()

        def why_not(found: DomainInfo | None) -> str:
            return "" if found is None or is_met(found) or condition != "target" else why_stuck(found, host)

        return [(domain, found := _same(known.by_domid, domain), why_not(found)) for domain in domains]

    outcome = with_client(socket_path, wait)
    met = {domain.domid: is_met(now) for domain, now, _ in outcome}
    output = [
        {
            "domid": domain.domid,
            "name": domain.name,
            "met": met[domain.domid],
            "state": "gone" if now is None else now.state,
            "tot_pages": None if now is None else now.tot_pages,
            "target_pages": None if now is None else now.target_pages,
            "reason": why,
        }
        for domain, now, why in outcome
    ]
    emit(
        as_json,
        output,
        [_wait_line(domain, now, condition, timeout, why) for domain, now, why in outcome if not met[domain.domid]],
    )
    if not all(met.values()):
        ctx.exit(EXIT_FAILED)


def _until(
    client: BlockingClient,
    known: KnownDomains,
    domains: Sequence[DomainInfo],
    is_met: Callable[[DomainInfo | None], bool],
    deadline_s: float,
) -> None:
    """Look at what has changed, whenever something is told and every so often, until all *domains* are so, or then."""
    while not all(is_met(_same(known.by_domid, domain)) for domain in domains):
        if (now_s := time.monotonic()) >= deadline_s:
            return
        client.next_event(min(now_s + LOOK_EVERY_S, deadline_s))
        known.take(client.changes(known.since))


def _is_listed(listed: Sequence[DomainInfo], name: str) -> bool:
    try:
        return bool(choose(listed, [name], can_be_destroyed))
    except BadRequest:
        return False


def _same(now: dict[int, DomainInfo], domain: DomainInfo) -> DomainInfo | None:
    """Find *domain* again; a number that was given to another since is not it."""
    found = now.get(domain.domid)
    return found if found is not None and found.life == domain.life else None


def _wait_line(domain: DomainInfo, now: DomainInfo | None, condition: str, timeout: float, why: str) -> str:
    if now is None:
        return f"{domain.name}: was destroyed meanwhile"
    held = f"it is {now.state}, holds {format_pages(now.tot_pages)}, its target is {format_pages(now.target_pages)}"
    wanted = "at its target" if condition == "target" else condition
    return f"{domain.name}: not {wanted} after {timeout:g} s: {held}{'; ' if why else ''}{why}"
