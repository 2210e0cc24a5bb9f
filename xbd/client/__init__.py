"""The client library: connect to a hypervisor, call its methods, follow its events, go on after its restarts.

    from xbd.client import find_socket, open_client

    async with open_client(find_socket(None, os.environ), resume=True) as client:
        for domain in await client.list():
            await client.set_target(domain.domid, domain.static_max_pages // 2)

What `__all__` names is public. It is imported when it is first used, so that `import xbd.client` costs nothing.
In the order to read the modules: `client` (methods and events), `connection` (calls, answers, resuming a lost
session), `discovery` (finding the socket, and why there is none), `runtime_dir` (where sockets lie).
"""

from typing import TYPE_CHECKING

from xbd.lazy import lazily

if TYPE_CHECKING:
    from xbd.abi import DomainType
    from xbd.client.client import Client, open_client
    from xbd.client.discovery import NoHypervisor, NoPermission, NotRunning, find_socket
    from xbd.errors import HypercallError, PeerLost, RemoteProtocolError, XbdError
    from xbd.protocol.views import DomainView

__all__ = [
    "Client",
    "DomainType",
    "DomainView",
    "HypercallError",
    "NoHypervisor",
    "NoPermission",
    "NotRunning",
    "PeerLost",
    "RemoteProtocolError",
    "XbdError",
    "find_socket",
    "open_client",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "xbd.abi": ("DomainType",),
        "xbd.client.client": ("Client", "open_client"),
        "xbd.client.discovery": ("NoHypervisor", "NoPermission", "NotRunning", "find_socket"),
        "xbd.errors": ("HypercallError", "PeerLost", "RemoteProtocolError", "XbdError"),
        "xbd.protocol.views": ("DomainView",),
    },
)
