"""A host's sockets that are none: what is asked of them is noted."""

from xbd.errors import ConfigError


class Groups:
    """Notes which group is let in; one is unknown."""

    def __init__(self) -> None:
        self.group: str | None = None

    def open(self, domid: int) -> None:
        """Nobody connects to it."""

    def close(self, domid: int) -> None:
        """Nobody was connected to it."""

    def permit_group(self, group: str | None) -> None:
        """Let it in. Raises ConfigError."""
        if group == "unknown":
            raise ConfigError("hypervisor.sock", "group", "no group is called 'unknown'")
        self.group = group
