"""Commands that do something to the guests of named domains: destroy, shutdown, reboot, start, pause, unpause, rename, guest-mode."""

from collections.abc import Callable

import click

from xbd.abi import REBOOT
from xbd.cli.common import client_options, complete_domains, emit, fail_for, for_each, with_client
from xbd.cli.follow import listed
from xbd.client.blocking import BlockingClient
from xbd.control.targets import choose
from xbd.domain import DomainInfo
from xbd.errors import HypercallError
from xbd.text import printable
from xbd.units import counted

Work = Callable[[DomainInfo], object]


@click.command("destroy")
@click.argument("names", nargs=-1, required=True, metavar="DOMAIN...", shell_complete=complete_domains)
@client_options
def destroy_command(names: tuple[str, ...], socket_path: str | None, *, as_json: bool) -> None:
    """End domains at once; their memory goes back to the host.

    A domain whose pages others still map stays, as a zombie, until they unmap them (`xbd wait --for gone`).
    A pattern means guests: dom0 cannot be destroyed.
    """
    zombie_pages: dict[int, int] = {}

    def destroy(client: BlockingClient) -> Work:
        def destroy_one(domain: DomainInfo) -> None:
            zombie_pages[domain.domid] = client.destroy(domain.domid)

        return destroy_one

    def done(domain: DomainInfo) -> str:
        pages = zombie_pages[domain.domid]
        return f"destroyed, but {pages} of its pages are still mapped by others" if pages else "destroyed"

    _for_named(
        socket_path,
        names,
        done,
        destroy,
        more=lambda domain: {"zombie_pages": zombie_pages.get(domain.domid)},
        as_json=as_json,
    )


@click.command("shutdown")
@click.argument("names", nargs=-1, required=True, metavar="DOMAIN...", shell_complete=complete_domains)
@client_options
def shutdown_command(names: tuple[str, ...], socket_path: str | None, *, as_json: bool) -> None:
    """Ask the guests of domains to stop; `xbd wait DOMAIN --for shutdown` waits until they have.

    A pattern means guests: dom0 ends with the host.
    """
    _for_named(
        socket_path,
        names,
        lambda _: "asked to shut down",
        lambda client: lambda domain: client.shutdown(domain.domid),
        as_json=as_json,
    )


@click.command("reboot")
@click.argument("names", nargs=-1, required=True, metavar="DOMAIN...", shell_complete=complete_domains)
@client_options
def reboot_command(names: tuple[str, ...], socket_path: str | None, *, as_json: bool) -> None:
    """Ask the guests of domains to stop; a second later others boot in the same domains, by `xbd guests`.

    A pattern means guests: dom0 ends with the host.
    """
    _for_named(
        socket_path,
        names,
        lambda _: "asked to reboot",
        lambda client: lambda domain: client.shutdown(domain.domid, REBOOT),
        as_json=as_json,
    )


@click.command("start")
@click.argument("names", nargs=-1, required=True, metavar="DOMAIN...", shell_complete=complete_domains)
@client_options
def start_command(names: tuple[str, ...], socket_path: str | None, *, as_json: bool) -> None:
    """Boot domains whose guests have stopped or crashed, or that were created with --no-start, by `xbd guests`."""
    _for_named(
        socket_path,
        names,
        lambda _: "started",
        lambda client: lambda domain: client.start(domain.domid),
        as_json=as_json,
    )


@click.command("pause")
@click.argument("names", nargs=-1, required=True, metavar="DOMAIN...", shell_complete=complete_domains)
@client_options
def pause_command(names: tuple[str, ...], socket_path: str | None, *, as_json: bool) -> None:
    """Let the guests of domains do nothing until they are unpaused; what they hold stays as it is.

    As in Xen, a domain that is paused twice has to be unpaused twice. A pattern means guests: dom0 cannot be paused.
    """
    _change_pauses(socket_path, names, "paused", lambda client: client.pause, as_json=as_json)


@click.command("unpause")
@click.argument("names", nargs=-1, required=True, metavar="DOMAIN...", shell_complete=complete_domains)
@client_options
def unpause_command(names: tuple[str, ...], socket_path: str | None, *, as_json: bool) -> None:
    """Let the guests of paused domains go on."""
    _change_pauses(socket_path, names, "unpaused", lambda client: client.unpause, as_json=as_json)


def _change_pauses(
    socket_path: str | None,
    names: tuple[str, ...],
    done: str,
    method: Callable[[BlockingClient], Callable[[int], int]],
    *,
    as_json: bool,
) -> None:
    """Pause or unpause the named domains, and say which are still paused more often."""
    pauses: dict[int, int] = {}

    def change(client: BlockingClient) -> Work:
        def change_one(domain: DomainInfo) -> None:
            pauses[domain.domid] = method(client)(domain.domid)

        return change_one

    def said(domain: DomainInfo) -> str:
        left = pauses[domain.domid]
        return f"{done}; it has to be unpaused {counted(left, 'time')}" if left > (done == "paused") else done

    _for_named(
        socket_path, names, said, change, more=lambda domain: {"pauses": pauses.get(domain.domid)}, as_json=as_json
    )


@click.command("rename")
@click.argument("name", metavar="DOMAIN", shell_complete=complete_domains)
@click.argument("new_name", metavar="NEW_NAME")
@client_options
def rename_command(name: str, new_name: str, socket_path: str | None, *, as_json: bool) -> None:
    """Call the guest DOMAIN otherwise; its number, its UUID and its memory stay. dom0 keeps its name."""

    def rename(client: BlockingClient) -> DomainInfo:
        domain = client.info(name)
        client.rename(domain.domid, new_name)
        return domain

    domain = with_client(socket_path, rename)
    output = {"domid": domain.domid, "name": new_name, "before": domain.name}
    emit(as_json, output, [printable(f"{domain.name}: is called {new_name} now")])


@click.command("guest-mode", context_settings={"ignore_unknown_options": True})
@click.argument("name", metavar="DOMAIN", shell_complete=complete_domains)
@click.argument("mode", nargs=-1, required=True, metavar="MODE [SIZE]")
@client_options
def guest_mode_command(name: str, mode: tuple[str, ...], socket_path: str | None, *, as_json: bool) -> None:
    """Change how the guests of DOMAIN behave, for tests of toolstacks.

    DOMAIN is a name, a number, or a pattern, which means guests, not dom0.

    \b
    normal          do as told
    stuck           do nothing
    slow RATE       move no faster, such as 10MiB/s
    floor SIZE      never go below
    ceiling SIZE    never go above
    lies            report what is not so
    """  # noqa: D301 - \b is click's mark for text that is not to be wrapped
    wanted = " ".join(mode)
    _for_named(
        socket_path,
        (name,),
        lambda _: f"mode {wanted}",
        lambda client: lambda domain: client.guest_mode(domain.domid, wanted),
        as_json=as_json,
    )


def _for_named(
    socket_path: str | None,
    names: tuple[str, ...],
    done: Callable[[DomainInfo], str],
    work: Callable[[BlockingClient], Work],
    *,
    more: Callable[[DomainInfo], dict[str, object]] = lambda _: {},
    as_json: bool,
) -> None:
    """Do *work* for all named domains at once, print what was *done* (with *more* of it in JSON), and fail if any was refused."""

    def do_all(client: BlockingClient) -> tuple[list[DomainInfo], dict[int, HypercallError]]:
        domains = choose(listed(client, names), names)
        return domains, for_each(domains, work(client))

    domains, refused = with_client(socket_path, do_all)
    output = [
        {
            "domid": domain.domid,
            "name": domain.name,
            "error": str(refused[domain.domid]) if domain.domid in refused else None,
            **more(domain),
        }
        for domain in domains
    ]
    emit(as_json, output, [f"{domain.name}: {done(domain)}" for domain in domains if domain.domid not in refused])
    fail_for(refused, domains, "refused")
