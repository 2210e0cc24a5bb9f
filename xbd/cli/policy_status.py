"""Asking a host's autoballoon daemon of its domains, for commands that can do without it."""

import os
from typing import Final

from xbd.cli.common import group_socket
from xbd.client.blocking import connect
from xbd.client.discovery import NotRunning, find_socket
from xbd.client.runtime_dir import autoballoon_socket
from xbd.control.policy_status import PolicyStatus, read_status
from xbd.errors import XbdError

# It answers in milliseconds; a command that can do without it waits no longer.
_PATIENCE_S: Final = 2.0


def autoballoon_status(socket_path: str | None) -> PolicyStatus:
    """Ask the autoballoon daemon beside the hypervisor's socket; what hinders that is told, not raised."""
    try:
        path = autoballoon_socket(find_socket(socket_path or group_socket(), os.environ).parent)
        with connect(path, patience_s=_PATIENCE_S) as client:
            return read_status(client.call("status", timeout_s=_PATIENCE_S))
    except NotRunning:
        return PolicyStatus()
    except XbdError as error:
        return PolicyStatus(trouble=str(error))
