"""The protocol command: the table of the protocol, for people and for programs."""

import click

from xbd.cli.common import emit
from xbd.protocol.description import describe, tables


@click.command("protocol")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: JSON Schemas where that fits.")
def protocol_command(*, as_json: bool) -> None:
    """Print the protocol of the sockets: methods, parameters, answers, events, errors and limits.

    As Markdown, or as JSON from which a client in any language can be written.
    """
    emit(as_json, describe(), [tables().rstrip("\n")])
