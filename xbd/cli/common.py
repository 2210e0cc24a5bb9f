"""The parts that commands share: errors as one sentence and an exit code, options, output, connecting a client.

Exit codes: 0 done, 1 the thing asked for failed, 2 wrong usage, 78 wrong configuration, 130 Ctrl-C.
"""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import click

from xbd.errors import ConfigError, DamagedState, HypercallError, RemoteProtocolError, XbdError
from xbd.text import printable

if TYPE_CHECKING:
    from pathlib import Path

    from xbd.client.blocking import BlockingClient
    from xbd.domain import DomainInfo

EXIT_FAILED: Final = 1
EXIT_CONFIG: Final = 78
EXIT_INTERRUPTED: Final = 130
_OLD_NAME_TAKEN: Final = "the old name is taken until the next release"

_T = TypeVar("_T")
_F = TypeVar("_F", bound=Callable[..., Any])


class Failure(click.ClickException):
    """An error that the user gets as a sentence on stderr, and that ends the command with *exit_code*."""

    def __init__(self, message: str, exit_code: int = EXIT_FAILED) -> None:
        # Every error comes by here: what a file or a peer said in it may hold anything.
        super().__init__(printable(message, lines=True))
        self.exit_code = exit_code  # type: ignore[misc]  # click declares it a class variable and reads the instance's

    def show(self, file: Any = None) -> None:  # noqa: ANN401 - click's signature
        """Print the sentence alone, as xl does."""
        click.echo(self.message, file=file, err=True)


def check_writable(*paths: Path | None) -> None:
    """See that files can be written, before minutes of work for them; one that is not there is made. Raises Failure."""
    for path in paths:
        if path is not None:
            try:
                path.open("a", encoding="utf-8").close()
            except OSError as error:
                raise Failure(f"{path}: cannot be written: {error.strerror or error}; name another file") from None


class RenamedChoice(click.Choice[str]):
    """One of *choices*; what has another name now (*renamed*: old to new) is taken for one more release, with a word."""

    def __init__(self, choices: Iterable[str], renamed: Mapping[str, str]) -> None:
        super().__init__(list(choices))
        self._renamed = renamed

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401 - click's
        """Read what was given."""
        if value in self._renamed:
            click.echo(f"{value} is called {self._renamed[value]} now; {_OLD_NAME_TAKEN}", err=True)
            return self._renamed[value]
        return super().convert(value, param, ctx)


class SizesCommand(click.Command):
    """A command that takes sizes: one that begins with a minus is refused as a size, not as an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take what looks like a number for none of the options."""
        ctx.ignore_unknown_options = any(arg[:1] == "-" and arg[1:2] in {*"0123456789."} for arg in args if arg[1:])
        return super().parse_args(ctx, args)


class LazyGroup(click.Group):
    """A group whose commands are named in a table and imported when they are asked for.

    Args:
        table: command name to (`module:attribute`, what it does in a line).
        examples: command name to what its help ends with.
        elsewhere: what is said of a command that is somebody else's; of another one, the one that it is like.
    """

    def __init__(
        self,
        *args: Any,  # noqa: ANN401 - click's
        table: dict[str, tuple[str, str]],
        examples: dict[str, tuple[str, ...]],
        elsewhere: Callable[[str], str] = lambda _: "",
        **kwargs: Any,  # noqa: ANN401 - click's
    ) -> None:
        super().__init__(*args, **kwargs)
        self._table = table
        self._examples = examples
        self._elsewhere = elsewhere

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the commands in the table's order."""
        del ctx
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        del ctx
        if cmd_name not in self._table:
            return None
        module, _, attribute = self._table[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        # \b is click's mark for text that is not to be wrapped.
        command.epilog = "\n".join(("\b", "Examples:", *(f"  {line}" for line in self._examples[cmd_name])))
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is meant; of one that there is not, say which is near, or that xl has it."""
        if args and args[0] not in self._table and not args[0].startswith("-"):
            from difflib import get_close_matches  # noqa: PLC0415 - only where somebody has mistyped

            close = get_close_matches(args[0], self._table, n=1)
            hint = self._elsewhere(args[0]) or (f"; did you mean {close[0]!r}?" if close else "")
            raise click.UsageError(f"no such command {args[0]!r}{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands with the table's summaries, without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in self._table.items()])

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's signature
        """Run a command; errors of xbd become a sentence and an exit code."""
        try:
            return super().invoke(ctx)
        except (XbdError, KeyboardInterrupt, BrokenPipeError, BaseExceptionGroup) as error:
            raise_as_failure(error)


def raise_as_failure(error: BaseException) -> NoReturn:
    """Turn an error into a sentence and an exit code. A bug is raised as it is, with its traceback."""
    if isinstance(error, BaseExceptionGroup):
        # Several tasks failed: the first error is enough, unless one of them is a bug.
        expected = (XbdError, KeyboardInterrupt)
        bugs = error.subgroup(lambda one: not isinstance(one, (*expected, BaseExceptionGroup)))
        if bugs is None:
            raise_as_failure(error.exceptions[0])
    match error:
        case ConfigError() | DamagedState():
            raise Failure(str(error), EXIT_CONFIG) from error
        case RemoteProtocolError(hint=str(hint)) if hint:
            raise Failure(f"{error} (expected {hint})") from error
        case XbdError():
            raise Failure(str(error)) from error
        case KeyboardInterrupt():
            raise click.exceptions.Exit(EXIT_INTERRUPTED) from error
        case BrokenPipeError():
            # The reader of our output is gone; Python's flush at exit must not raise again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.exceptions.Exit(EXIT_FAILED) from error
    raise error


def complete_domains(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Complete a domain's name from the hypervisor's list; nothing if it cannot be asked."""
    del param
    given = ctx.params.get("socket_path") or ctx.find_root().params.get("socket_path")
    try:
        domains = with_client(given, lambda client: client.list())
    except (XbdError, OSError, BaseExceptionGroup):
        # There is no place to show an error during completion.
        return []
    return [domain.name for domain in domains if domain.name.startswith(incomplete)]


def renamed_option(name: str, given: str | None, old_name: str, given_by_old_name: str | None) -> str | None:
    """Take an option by its old name too, for one more release, and say its new one on stderr.

    Raises:
        click.UsageError: it is given by both names.
    """
    if given_by_old_name is None:
        return given
    if given is not None:
        raise click.UsageError(f"{old_name} is the old name of {name}, and both are given; leave {old_name} out")
    click.echo(f"{old_name} is called {name} now; {_OLD_NAME_TAKEN}", err=True)
    return given_by_old_name


def client_options(command: _F) -> _F:
    """Give a command `--socket` and `--json`."""
    return socket_option(json_option(command))


def json_option(command: _F) -> _F:
    """Give a command `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def socket_option(command: _F) -> _F:
    """Give a command `--socket`."""
    return click.option(
        "--socket",
        "socket_path",
        metavar="PATH",
        help="The hypervisor's socket, or its directory. [default: $XBD_SOCKET, else hypervisor.sock in"
        " $RUNTIME_DIRECTORY, $XDG_RUNTIME_DIR/xbd or /run/xbd]",
    )(command)


def with_client(socket_path: str | None, work: Callable[[BlockingClient], _T], command: str = "") -> _T:
    """Connect, do *work* with the client, and return what it returns; *command*: which one sets targets so."""
    from xbd.client.blocking import connect  # noqa: PLC0415 - not every command asks a daemon

    with connect(socket_path or group_socket(), resume=True, client=f"xbd {command}" if command else None) as client:
        return work(client)


def group_socket() -> str | None:
    """Return the socket that was given before the command: `xbd --socket PATH list`."""
    ctx = click.get_current_context(silent=True)
    given = ctx.find_root().params.get("socket_path") if ctx else None
    return given if isinstance(given, str) else None


def emit(as_json: bool, output: object, lines: Iterable[str], *, err: bool = False) -> None:  # noqa: FBT001 - the flag of every command
    """Print *output* as JSON, or *lines*; with *err* on standard error."""
    if as_json:
        import json  # noqa: PLC0415 - most ask for lines

        click.echo(json.dumps(output, indent=2, ensure_ascii=False), err=err)
        return
    for line in lines:
        click.echo(line, err=err)


def end_with_reader() -> None:
    """End this command when nobody reads its output any more, also while it has nothing to print (`xbd events | head`)."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):
        # No file is behind it.
        return

    def wait() -> None:
        gone = select.poll()
        # Errors are told without being asked for.
        gone.register(descriptor, 0)
        if gone.poll():
            os._exit(EXIT_FAILED)

    threading.Thread(target=wait, name="the reader of our output", daemon=True).start()


def for_each(domains: Sequence[DomainInfo], work: Callable[[DomainInfo], object]) -> dict[int, HypercallError]:
    """Do *work* for all domains, one after the other; returns the hypervisor's refusals by domid."""
    refused: dict[int, HypercallError] = {}
    for domain in domains:
        try:
            work(domain)
        except HypercallError as error:
            refused[domain.domid] = error
    return refused


def fail_for(refused: dict[int, HypercallError], domains: Sequence[DomainInfo], what: str) -> None:
    """Raise Failure naming each refused domain, if there is any."""
    if refused:
        lines = [f"{domain.name}: {what}: {refused[domain.domid]}" for domain in domains if domain.domid in refused]
        raise Failure("\n".join(lines))
