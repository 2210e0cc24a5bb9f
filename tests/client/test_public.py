"""The public face of the client library: what `xbd.client` itself offers."""

import inspect
import subprocess
import sys

import pytest

import xbd.client
from xbd.client import BlockingClient, Client, NoHypervisor, calls, client, discovery, open_client


def test_the_public_names_are_there() -> None:
    """Each name in `__all__` can be imported from the package and is listed; it is the module's own object."""
    assert set(xbd.client.__all__) <= set(dir(xbd.client))
    for name in xbd.client.__all__:
        assert getattr(xbd.client, name).__name__ == name
    assert open_client is client.open_client
    assert NoHypervisor is discovery.NoHypervisor


def test_another_name_is_refused_with_those_that_there_are() -> None:
    """As by any module, and the sentence names the public ones."""
    with pytest.raises(AttributeError, match=r"no attribute 'disconnect'; public are BlockingClient, .*, open_client"):
        xbd.client.disconnect  # noqa: B018 - reading it is what is tested


def test_importing_the_package_imports_nothing_heavy() -> None:
    """Neither trio nor numpy nor msgpack is imported before a name is used that needs them; `connect` needs but msgpack."""
    script = (
        "import sys, xbd.client\n"
        "def heavy(): print([name for name in ('trio', 'numpy', 'msgpack') if name in sys.modules])\n"
        "heavy(); xbd.client.connect; heavy()"
    )
    imported = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)  # noqa: S603 - our own interpreter
    assert imported.stdout == "[]\n['msgpack']\n"


def test_both_clients_have_the_same_methods() -> None:
    """Whoever knows one knows the other: names, parameters and what they say of themselves."""
    for name in (
        "list",
        "changes",
        "info",
        "host",
        "create",
        "destroy",
        "shutdown",
        "set_target",
        "set_max",
        "claim",
        "audit",
    ):
        assert vars(calls.HypervisorMethods)[name] is getattr(Client, name) is getattr(BlockingClient, name)
    events = (inspect.signature(one.events).parameters for one in (Client, BlockingClient))
    assert len({tuple(parameters) for parameters in events}) == 1
