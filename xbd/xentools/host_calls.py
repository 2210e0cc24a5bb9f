"""The calls that a listener makes of its host, through restarts of the host's daemon."""

from contextlib import ExitStack
from pathlib import Path

from xbd.client.blocking import connect
from xbd.client.calls import Blocking, HypervisorMethods, Request, T
from xbd.errors import PeerLost
from xbd.protocol.methods import CHANGING_METHODS


class HostCalls(HypervisorMethods, Blocking):
    """A client that connects again when the connection is lost; what only reads is then asked again.

    Raises NoHypervisor when it is made: there is none.
    """

    def __init__(self, hypervisor: Path) -> None:
        self._hypervisor = hypervisor
        self._connection = ExitStack()
        self._client = self._connection.enter_context(connect(hypervisor))

    def ask(self, request: Request[T]) -> T:
        """Make a call, and return what its answer says. Raises as `BlockingClient.ask`, and NoHypervisor."""
        try:
            return self._client.ask(request)
        except PeerLost:
            self._connection.close()
            self._client = self._connection.enter_context(connect(self._hypervisor))
            if request.method in CHANGING_METHODS:
                # It may have been done.
                raise
            return self._client.ask(request)
