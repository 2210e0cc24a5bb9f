"""`xbd xen`: run Xen's own tools on this host."""

import os
import stat
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, NoReturn

import click

from xbd.cli.common import Failure, group_socket, socket_option
from xbd.client.discovery import find_socket
from xbd.errors import BadArgument, XbdError
from xbd.hypercalls.decoder import OPERATION_NAMES
from xbd.hypercalls.faults import Faults, parse_delay, parse_failure
from xbd.xentools.host_calls import HostCalls
from xbd.xentools.programs import find_program, needs_files
from xbd.xentools.run import EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, Place, execute, run
from xbd.xentools.store_relay import STORE_ERRORS, STORE_OPERATIONS, StoreRelay

# It says to a program, and to those who run another one inside, which host's hypervisor they have.
XEN_VARIABLE = "XBD_XEN"
# What can fail on demand, and with which errors; none: any.
_OPERATIONS: Final = {**dict.fromkeys(OPERATION_NAMES, ()), **dict.fromkeys(STORE_OPERATIONS, STORE_ERRORS)}


@click.command("xen", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option(
    "--fail",
    "failures",
    multiple=True,
    metavar="OPERATION=ERRNO[:TIMES]",
    help="Let an operation fail, always or so many times; may be repeated.",
)
@click.option(
    "--delay",
    "delays",
    multiple=True,
    metavar="OPERATION=TIME",
    help="Answer an operation later (200ms, 2s); may be repeated.",
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[COMMAND [ARG]...]")
@socket_option
def xen_command(
    command: tuple[str, ...], failures: tuple[str, ...], delays: tuple[str, ...], socket_path: str | None
) -> None:
    """Run COMMAND, one of Xen's own tools or what uses them, with this host as its hypervisor.

    xl, xentop, xenpm and programs with libxl, libxenctrl or xen.lowlevel.xc run as they are (Xen 4.17), without root. Without
    COMMAND a shell is started in which they do. Exit code, signals and terminal are the command's own.

    XenStore is the one of `xbd xenstored`, in $XENSTORED_PATH. With --fail and --delay, what happened is counted on
    stderr when the command has ended. Operations are named as Xen names them: max_mem, physinfo, getdomaininfolist; those of
    the XenStore are xenstore-read, xenstore-write, xenstore-commit and so on.
    """
    faults = _faults(failures, delays)
    try:
        hypervisor = find_socket(socket_path or group_socket(), os.environ)
    except XbdError as error:
        raise Failure(str(error)) from None
    _run(command or (os.environ.get("SHELL") or "/bin/sh",), hypervisor, faults)


def _faults(failures: Sequence[str], delays: Sequence[str]) -> Faults:
    try:
        return Faults(
            [parse_failure(text, _OPERATIONS) for text in failures],
            dict(parse_delay(text, _OPERATIONS) for text in delays),
        )
    except BadArgument as error:
        raise click.UsageError(f"{error.message} (expected {error.expected})") from None


def _run(command: Sequence[str], hypervisor: Path, faults: Faults) -> NoReturn:
    environ = {**os.environ, XEN_VARIABLE: str(hypervisor), "XBD_SOCKET": str(hypervisor)}
    environ.setdefault("XENSTORED_PATH", str(hypervisor.parent / "xenstored" / "socket"))
    program = find_program(command, environ)
    if program is None:
        raise Failure(f"xbd xen: {command[0]}: not found in $PATH", EXIT_NOT_FOUND)
    try:
        if _is_inside(hypervisor, faults):
            execute(program)
        place = Place(_directory(hypervisor), hypervisor.parent)
        relay = None
        if faults.names & STORE_OPERATIONS:
            relay = StoreRelay(environ["XENSTORED_PATH"], faults)
            program = replace(program, environ={**program.environ, "XENSTORED_PATH": str(relay.path)})
        try:
            run(program, place, HostCalls(hypervisor), faults, lambda why: _say_what_works(why, command), relay=relay)
        except BaseException:
            # The listener, which would remove it, was not begun, or has ended.
            if relay is not None:
                relay.remove()
            raise
    except XbdError as error:
        raise Failure(str(error)) from None
    except OSError as error:
        raise Failure(
            f"xbd xen: {program.path}: cannot be executed: {error.strerror or error}", EXIT_NOT_EXECUTABLE
        ) from None


def _is_inside(hypervisor: Path, faults: Faults) -> bool:
    """Tell whether this process has the host as its hypervisor already. Raises Failure: it has another, or should get faults."""
    inside = os.environ.get(XEN_VARIABLE)
    if inside is None:
        return False
    try:
        os.close(os.open("/dev/xen/privcmd", os.O_RDWR))
    except OSError:
        # Left by one whose listener is gone.
        return False
    if inside != str(hypervisor):
        raise Failure(f"xbd xen: this runs on the host at {inside} already; leave that first")
    if faults.are_asked_for:
        raise Failure("xbd xen: this runs in an `xbd xen` already; --fail and --delay are given to the outermost one")
    return True


def _say_what_works(why: str, command: Sequence[str]) -> None:
    """Say why there are no files of Xen's tools, if the command may need them."""
    if needs_files(command):
        works = "xl list, info, vcpu-list, uptime, domid, domname, mem-max and destroy work"
        fails = "xl list -l, xl mem-set, xl info -n and xentop may not"
        click.echo(f"xbd xen: {why}; {works} without it, {fails}", err=True)


def _directory(hypervisor: Path) -> Path:
    """Name the directory for the tools' files: the host's own, or one of this user for it. Raises Failure: it is another's."""
    beside = hypervisor.parent / "xen"
    if os.access(hypervisor.parent, os.W_OK) and not (beside.exists() and beside.stat().st_uid != os.getuid()):
        return beside
    name = f"xbd-xen-{os.getuid()}-{zlib.crc32(os.fsencode(hypervisor)):08x}"
    directory = Path(os.environ.get("TMPDIR", "/tmp")) / name  # noqa: S108 - its owner is checked
    directory.mkdir(0o700, exist_ok=True)
    status = directory.lstat()
    if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode) or status.st_mode & 0o077:
        raise Failure(f"xbd xen: {directory} is not this user's alone; remove it, or set $TMPDIR")
    return directory
