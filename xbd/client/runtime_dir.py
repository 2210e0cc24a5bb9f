"""The paths of a host's sockets: the run-time directory and the names in it."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from xbd.errors import ConfigError

# sockaddr_un.sun_path is char[108]. Linux does not insist on the final NUL, but 107 bytes always work (man 7 unix).
MAX_SOCKET_PATH_BYTES: Final = 107
# Where a service of the system has its sockets.
SYSTEM_RUNTIME_DIR: Final = Path("/run/xbd")


def default_runtime_dir(environ: Mapping[str, str]) -> Path:
    """Choose the run-time directory: $RUNTIME_DIRECTORY, else $XDG_RUNTIME_DIR/xbd, else /run/xbd."""
    if environ.get("RUNTIME_DIRECTORY"):
        # systemd lists several, separated by colons, where a unit asks for several.
        return Path(environ["RUNTIME_DIRECTORY"].split(":")[0])
    if environ.get("XDG_RUNTIME_DIR"):
        return Path(environ["XDG_RUNTIME_DIR"]) / "xbd"
    return SYSTEM_RUNTIME_DIR


def hypervisor_socket(runtime_dir: Path) -> Path:
    """Name the toolstack's socket."""
    return runtime_dir / "hypervisor.sock"


def autoballoon_socket(runtime_dir: Path) -> Path:
    """Name the socket of the autoballoon daemon."""
    return runtime_dir / "autoballoon.sock"


def domain_socket(runtime_dir: Path, domid: int) -> Path:
    """Name the socket of a domain."""
    return runtime_dir / "domains" / f"{domid}.sock"


def absolute_path(path: Path) -> Path:
    """Make a path absolute, and follow its links as far as they can be followed.

    Not Path.resolve(), which raises where links go in a circle.

    Raises:
        ConfigError: the path is relative, and the current directory is gone.
    """
    try:
        return Path(os.path.realpath(path))
    except OSError as error:
        raise ConfigError(
            path, "", f"is relative to a current directory that cannot be named ({error.strerror}); begin it with /"
        ) from error


def check_socket_path(path: Path) -> Path:
    """Refuse a path that is too long for a Unix socket's address. Raises ConfigError, naming path and lengths."""
    size_bytes = len(os.fsencode(path))
    if size_bytes > MAX_SOCKET_PATH_BYTES:
        raise ConfigError(
            path,
            "",
            f"a socket path of {size_bytes} bytes, at most {MAX_SOCKET_PATH_BYTES} are possible; use a shorter directory",
        )
    return path
