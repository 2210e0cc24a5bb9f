"""Telling the service manager how things stand, where there is one."""

import os
import socket


def sd_notify(state: str) -> None:
    """Send *state* (such as "READY=1") to $NOTIFY_SOCKET; without one, do nothing.

    Source: man 3 sd_notify.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # an abstract socket
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notifier:
        notifier.connect(address)
        notifier.sendall(state.encode())
