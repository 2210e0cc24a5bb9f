"""The client library: connect to a hypervisor, call its methods, follow its events, go on after its restarts.

    from xbd.client import connect

    with connect() as client:
        for domain in client.list():
            client.set_target(domain.domid, domain.static_max_pages // 2)

The same in tasks of trio:

    from xbd.client import find_socket, open_client

    async with open_client(find_socket(None, os.environ), resume=True) as client:
        for domain in await client.list():
            await client.set_target(domain.domid, domain.static_max_pages // 2)

What `__all__` names is public. It is imported when it is first used, so that `import xbd.client` costs nothing.
In the order to read the modules: `calls` (the methods, for both kinds of client), `blocking` (a client for scripts and
threads), `client` with `connection` (one for tasks), `discovery` (finding the socket, and why there is none), `runtime_dir` (where sockets lie).
"""

from typing import TYPE_CHECKING

from xbd.lazy import lazily

if TYPE_CHECKING:
    from xbd.abi import DomainType
    from xbd.client.blocking import BlockingClient, connect
    from xbd.client.calls import Changes, KnownDomains
    from xbd.client.client import Client, open_client
    from xbd.client.discovery import NoHypervisor, NoPermission, NotRunning, find_socket
    from xbd.domain import DomainInfo
    from xbd.errors import HypercallError, PeerLost, RemoteProtocolError, XbdError

__all__ = [
    "BlockingClient",
    "Changes",
    "Client",
    "DomainInfo",
    "DomainType",
    "HypercallError",
    "KnownDomains",
    "NoHypervisor",
    "NoPermission",
    "NotRunning",
    "PeerLost",
    "RemoteProtocolError",
    "XbdError",
    "connect",
    "find_socket",
    "open_client",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "xbd.abi": ("DomainType",),
        "xbd.client.blocking": ("BlockingClient", "connect"),
        "xbd.client.calls": ("Changes", "KnownDomains"),
        "xbd.client.client": ("Client", "open_client"),
        "xbd.client.discovery": ("NoHypervisor", "NoPermission", "NotRunning", "find_socket"),
        "xbd.domain": ("DomainInfo",),
        "xbd.errors": ("HypercallError", "PeerLost", "RemoteProtocolError", "XbdError"),
    },
)
