"""The client library: connect to a hypervisor, call its methods, follow its events, go on after its restarts.

    from xbd.client import find_socket, open_client

    async with open_client(find_socket(None, os.environ), resume=True) as client:
        for domain in await client.list():
            await client.set_target(domain.domid, domain.static_max_pages // 2)

What `__all__` names is public. It is imported when it is first used, so that `import xbd.client` costs nothing.
In the order to read the modules: `client` (methods and events), `connection` (calls, answers, resuming a lost
session), `discovery` (finding the socket, and why there is none), `runtime_dir` (where sockets lie).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

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

_MODULES: Final = {
    "xbd.abi": ("DomainType",),
    "xbd.client.client": ("Client", "open_client"),
    "xbd.client.discovery": ("NoHypervisor", "NoPermission", "NotRunning", "find_socket"),
    "xbd.errors": ("HypercallError", "PeerLost", "RemoteProtocolError", "XbdError"),
    "xbd.protocol.views": ("DomainView",),
}
_HOMES: Final = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used. Raises AttributeError: there is no such name."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; public are {', '.join(__all__)}")
    found: object = getattr(import_module(_HOMES[name]), name)
    # From now on it is found without this function.
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """List the public names, too, whether or not they were used."""
    return sorted({*globals(), *__all__})
