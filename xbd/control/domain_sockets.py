"""What the daemon's core asks of the world: that a domain's socket be opened or closed."""

from typing import Protocol


class DomainSockets(Protocol):
    """Where a domain's socket is opened and closed."""

    def open(self, domid: int) -> None:
        """Make a domain reachable, before its creation is answered. Raises HypercallError: it is not created."""

    def close(self, domid: int) -> None:
        """End a domain's socket and whoever is connected to it."""

    def permit_group(self, group: str | None) -> None:
        """Let *group*, beside this user and root, use the toolstack's socket. Raises ConfigError: nothing has changed."""
