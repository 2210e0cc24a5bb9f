"""What a guest's call does, one operation or a multicall of several: read, done and answered in one turn."""

from xbd.control.controller import Controller
from xbd.control.domain_record import DomainRecord
from xbd.errors import BadArgument
from xbd.protocol import fields
from xbd.protocol.codec import Request, encode_error
from xbd.protocol.commands import command_from_params, commands_from_multicall, encode_result, encode_results
from xbd.protocol.guest_methods import MULTICALL


def answer_call(host: Controller, record: DomainRecord, request: Request) -> tuple[int, int, bytes]:
    """Do what a call asks, within a step; returns how many operations it is, their cost in extents, and its answer."""
    try:
        if request.method == MULTICALL:
            commands = commands_from_multicall(request.untrusted_params)
        else:
            command = command_from_params(request.method, request.untrusted_params)
    except BadArgument as error:
        return 1, 0, encode_error(request.msgid, fields.error_map(error))
    if request.method == MULTICALL:
        cost, results = host.execute_together(record, commands)
        return len(commands), cost, encode_results(request.msgid, results)
    cost, result = host.execute_alone(record, command)
    return 1, cost, encode_result(request.msgid, result)
