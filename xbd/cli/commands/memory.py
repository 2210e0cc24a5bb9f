"""Commands that set targets, limits, claims and what is in use: mem-set, mem-max, claim, offline, online."""

from collections.abc import Sequence

import click

from xbd.abi import MAX_NODES
from xbd.cli.common import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    SizesCommand,
    client_options,
    complete_domains,
    emit,
    fail_for,
    for_each,
    with_client,
)
from xbd.cli.follow import LiveView, follow, listed, send_targets
from xbd.cli.policy_status import autoballoon_status
from xbd.cli.progress import Following, Outcome
from xbd.cli.render import outcome_lines, outcomes_json
from xbd.client.blocking import BlockingClient
from xbd.client.calls import KnownDomains
from xbd.control.explain import governed
from xbd.control.targets import Change, Rounded, choose, parse_amount, parse_claim, parse_pages, plan, round_pages
from xbd.domain import DomainInfo
from xbd.errors import HypercallError
from xbd.target_rules import REFUSED_AFTER_S
from xbd.units import format_pages


@click.command("mem-set", cls=SizesCommand)
@click.argument("names_and_size", nargs=-1, required=True, metavar="DOMAIN... SIZE", shell_complete=complete_domains)
@click.option(
    "--wait", is_flag=True, help="Wait until each is at its target, stuck or refused; exit 1 if any is not there."
)
@click.option(
    "--deadline",
    type=click.FloatRange(min=0),
    default=REFUSED_AFTER_S,
    show_default=True,
    metavar="SECONDS",
    help="With --wait: a domain that is stuck this long after its target was set has refused.",
)
@client_options
@click.pass_context
def mem_set_command(
    ctx: click.Context,
    names_and_size: tuple[str, ...],
    deadline: float,
    socket_path: str | None,
    *,
    wait: bool,
    as_json: bool,
) -> None:
    """Set how much memory DOMAINs should hold, all at once.

    DOMAIN is a name, a number or a pattern such as 'web*' or '*', which means guests: dom0 is set by its name. SIZE
    is a size (512m, 2g; a bare number is MiB) or a percentage of each domain's maximum (50%).
    Targets are whole superpages: what is not a multiple of 2 MiB is rounded down, less than 2 MiB up, and the command
    says to what.
    The limit becomes the target itself (xl: 1 MiB more).

    Without --wait it returns when all targets are set, as xl does; the guests move at their own pace. Ctrl-C ends the
    waiting, not the moving: the targets stay set, and those that are still on their way are named.
    """
    names, size = _names_and_size(names_and_size)
    amount = parse_amount(size)
    view = LiveView()
    status = autoballoon_status(socket_path)
    rival: dict[int, str] = {}

    def set_all(client: BlockingClient) -> tuple[list[Change], list[Following], bool]:
        since = client.subscribe() if wait else 0
        domains = choose(listed(client, names), names)
        changes = plan(domains, amount)
        if not as_json:
            _say_rounding(changes)
        following: list[Following] = []
        rival.update({one.domain.domid: one.domain.name for one in changes if status.of(one.domain) is not None})
        if rival and not as_json:
            click.echo(governed(list(rival.values())), err=True)
        if status.trouble and not as_json:
            click.echo(f"whether autoballoon governs them is not known: {status.trouble}", err=True)
        try:
            following.extend(send_targets(client, changes))
            if wait:
                follow(client, following, view.show, KnownDomains(domains, since), deadline_s=deadline)
        except KeyboardInterrupt:
            return changes, following, True
        finally:
            view.clear()
        return changes, following, False

    changes, following, interrupted = with_client(socket_path, set_all, "mem-set")
    asked = {change.domain.domid: change.target.asked_pages for change in changes}
    outcomes = [
        {**outcome, "governed": outcome["domid"] in rival} for outcome in outcomes_json(following, asked, waited=wait)
    ]
    emit(as_json, outcomes, outcome_lines(following, waited=wait))
    if interrupted:
        done = "the targets stay set, and the guests go on moving" if following else "some targets may be set"
        click.echo(f"interrupted; {done}", err=True)
        ctx.exit(EXIT_INTERRUPTED)
    good = (Outcome.REACHED,) if wait else (Outcome.REACHED, Outcome.MOVING)
    if any(one.outcome not in good for one in following):
        ctx.exit(EXIT_FAILED)


@click.command("mem-max", cls=SizesCommand)
@click.argument("names_and_size", nargs=-1, required=True, metavar="DOMAIN... SIZE", shell_complete=complete_domains)
@client_options
def mem_max_command(names_and_size: tuple[str, ...], socket_path: str | None, *, as_json: bool) -> None:
    """Set the limit of DOMAINs, what the hypervisor lets them hold (max_pages), and leave their targets alone.

    The limit is at least the domain's minimum. It may be below what the domain holds: then it gets nothing more until it has
    given enough back. It may be beyond its maximum, fixed when it was created, as Xen takes it: then that is what bounds it.
    """
    names, size = _names_and_size(names_and_size)
    amount = parse_amount(size)

    def set_all(client: BlockingClient) -> tuple[list[Change], dict[int, HypercallError]]:
        changes = plan(choose(listed(client, names), names), amount, is_limit=True)
        pages = {change.domain.domid: change.target.pages for change in changes}

        def set_one(domain: DomainInfo) -> None:
            client.set_max(domain.domid, pages[domain.domid])

        return changes, for_each([change.domain for change in changes], set_one)

    changes, refused = with_client(socket_path, set_all)
    output = [
        {
            "domid": change.domain.domid,
            "name": change.domain.name,
            "asked_pages": change.target.asked_pages,
            "max_pages": change.target.pages,
            "error": str(refused[change.domain.domid]) if change.domain.domid in refused else None,
        }
        for change in changes
    ]
    taken = [change for change in changes if change.domain.domid not in refused]
    emit(as_json, output, [f"{change.domain.name}: limit {change.target}" for change in taken])
    fail_for(refused, [change.domain for change in changes], f"limit {amount.text} not set")


@click.command("claim", cls=SizesCommand)
@click.argument("name", metavar="DOMAIN", shell_complete=complete_domains)
@click.argument("sizes", nargs=-1, required=True, metavar="SIZE[@NODE]...|none")
@client_options
def claim_command(name: str, sizes: tuple[str, ...], socket_path: str | None, *, as_json: bool) -> None:
    """Promise DOMAIN memory: no other domain gets the part that it does not hold yet.

    One SIZE is how much it can come to hold, more than it holds and at most its limit. Several, or any with a node
    (4g@0), are a set: so much beside what it holds, on these nodes, and of the host where there is no node; it replaces
    what the domain claimed. `none` takes all back. What the domain populates from then on is counted against it.
    """
    if len(sizes) > 1 or "@" in sizes[0]:
        _claim_set(name, [parse_claim(size) for size in sizes], socket_path, as_json=as_json)
        return
    amount = None if sizes == ("none",) else parse_amount(sizes[0])

    def claim(client: BlockingClient) -> tuple[DomainInfo, Rounded | None, int]:
        (domain,) = choose(listed(client, [name]), [name])
        pages = None if amount is None else round_pages(amount.of(domain.static_max_pages))
        return domain, pages, client.claim(domain.domid, pages.pages if pages else 0)

    domain, claimed, outstanding = with_client(socket_path, claim)
    output = {"domid": domain.domid, "name": domain.name, "outstanding_pages": outstanding}
    said = f"claims {claimed}, {format_pages(outstanding)} of it outstanding" if claimed else "claims nothing"
    emit(as_json, output, [f"{domain.name}: {said}"])


def _claim_set(
    name: str, claims: Sequence[tuple[Rounded, int | None]], socket_path: str | None, *, as_json: bool
) -> None:
    def claim(client: BlockingClient) -> tuple[DomainInfo, int]:
        (domain,) = choose(listed(client, [name]), [name])
        return domain, client.claim_set(domain.domid, [(size.pages, node) for size, node in claims])

    domain, outstanding = with_client(socket_path, claim)
    output = {
        "domid": domain.domid,
        "name": domain.name,
        "outstanding_pages": outstanding,
        "claims": [{"pages": size.pages, "node": node} for size, node in claims],
    }
    said = ", ".join(f"{size} {'of the host' if node is None else f'on node {node}'}" for size, node in claims)
    emit(as_json, output, [f"{domain.name}: claims {said}"])


def _node_command(name: str, done: str, doc: str) -> click.Command:
    """Make the command that takes memory of a node out of use, or into use again."""

    @click.command(name, cls=SizesCommand, help=doc)
    @click.argument("size", metavar="SIZE")
    @click.option("--node", type=click.IntRange(0, MAX_NODES - 1), default=0, show_default=True, help="The node.")
    @client_options
    def command(size: str, node: int, socket_path: str | None, *, as_json: bool) -> None:
        pages = round_pages(parse_pages(size))

        def ask(client: BlockingClient) -> dict[int, int]:
            if name == "offline":
                return client.offline(node, pages.pages)
            client.online(node, pages.pages)
            return {}

        recalled = with_client(socket_path, ask)
        output = {"node": node, "pages": pages.pages, "recalled": recalled}
        lost = [f"d{domid} lost a claim of {format_pages(lost)}" for domid, lost in recalled.items()]
        emit(as_json, output, [f"node {node}: {pages} {done}", *lost])

    return command


offline_command = _node_command(
    "offline",
    "offline",
    "Take SIZE of a node out of use: superframes of it that are free as a whole.\n\n"
    "Claims that do not fit any more are taken back: those on the node that it cannot keep, then host-wide ones.",
)
online_command = _node_command(
    "online", "online again", "Take SIZE of a node into use again that `xbd offline` took out."
)


def _names_and_size(words: Sequence[str]) -> tuple[Sequence[str], str]:
    """Split what was given: one or more domains, then a size."""
    if len(words) < 2:
        raise click.UsageError("one or more domains and a size are needed, such as: web1 512m")
    return words[:-1], words[-1]


def _say_rounding(changes: Sequence[Change]) -> None:
    """Say on stderr which sizes were rounded, each once."""
    rounded = {change.target for change in changes if not change.target.exact}
    for target in sorted(rounded, key=lambda one: one.asked_pages):
        click.echo(f"target is {target}", err=True)
