"""A client's way to the hypervisor's toolstack socket."""

from collections.abc import Mapping
from pathlib import Path

from xbd.errors import XbdError
from xbd.services.runtime_dir import check_socket_path, default_runtime_dir, hypervisor_socket


class NoHypervisor(XbdError):
    """No connection to a hypervisor came about; says which, why, and what to do next."""


def find_socket(given: str | Path | None, environ: Mapping[str, str]) -> Path:
    """Find the toolstack socket: `--socket`, else `$XBD_SOCKET`, else in the run-time directory.

    A directory stands for the socket in it.

    Raises:
        ConfigError: the path is longer than a Unix socket's can be.
    """
    named = given or environ.get("XBD_SOCKET")
    path = Path(named) if named else hypervisor_socket(default_runtime_dir(environ))
    return check_socket_path(hypervisor_socket(path) if path.is_dir() else path)


def explain_connect(path: Path, error: OSError) -> NoHypervisor:
    """Say why no connection came about, and what to do."""
    match error:
        case FileNotFoundError():
            return NoHypervisor(
                f"no hypervisor at {path}: there is no such socket; "
                f"start one with `xbd up HOST.toml` or `xbd hypervisor`, or name its socket with --socket or $XBD_SOCKET"
            )
        case ConnectionRefusedError():
            return NoHypervisor(
                f"no hypervisor at {path}: nobody listens there, it may have been left by one that is gone; "
                f"start it again with `xbd up HOST.toml` or `xbd hypervisor`"
            )
        case PermissionError():
            return NoHypervisor(
                f"no permission to use {path}; be the user, or in the group, that the hypervisor was started with"
            )
        case _:
            return NoHypervisor(f"cannot connect to {path}: {error.strerror or error}; is it a hypervisor's socket?")
