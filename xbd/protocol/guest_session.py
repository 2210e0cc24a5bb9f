"""A guest's side of its session: its calls are the commands of `xbd.abi`, its results what they answer."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from xbd.abi import MAX_IN_FLIGHT, Command, Result
from xbd.protocol.client_session import ClientSession
from xbd.protocol.commands import calls_to_wire, results_from_response


class GuestSession(ClientSession[Sequence[Command], list[Result]]):
    """The session of one boot of a guest.

    Args:
        name: one that no other session of this domain has.
        more: further parameters of hello.
    """

    def __init__(self, name: str, more: Mapping[str, object] = MappingProxyType({})) -> None:
        super().__init__("the hypervisor", results_from_response, name=name, window=MAX_IN_FLIGHT, more=more)

    def call(self, *commands: Command) -> bytes:
        """Pack commands, one or a multicall, under the next message id. Raises LocalProtocolError with `MAX_IN_FLIGHT` in flight."""
        return self.make_call(*calls_to_wire(commands), commands)
