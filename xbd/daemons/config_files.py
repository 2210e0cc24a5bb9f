"""Reading the files that people write: host files, and those of the policy.

A daemon reads its file again while it serves, so that a file must neither hold it up nor fill its memory: what is
there may have become a pipe to which nobody writes, a device without an end, or something huge.
"""

import os
import stat
from pathlib import Path
from typing import Final

from xbd.client.runtime_dir import absolute_path
from xbd.config.autoballoon import AutoballoonConfig, parse_autoballoon_config
from xbd.config.host import HostConfig, parse_host_config
from xbd.daemons.runtime.outside import calls
from xbd.errors import ConfigError

# A host of as many guests as there can be, each described by itself, has some 8 MB.
MAX_FILE_BYTES: Final = 16 << 20


def read_text(path: Path, *, may_wait: bool = False, most_bytes: int = MAX_FILE_BYTES) -> str:
    """Read a file of at most *most_bytes*.

    Args:
        path: where it is.
        most_bytes: what is longer is refused.
        may_wait: whether it may be a pipe, as of a shell's `<(...)`; then this waits until whoever writes to it is done.

    Raises:
        ConfigError: it cannot be read, is longer, or is no text.
    """
    try:
        # A pipe that nobody writes to would hold up whoever opens it.
        descriptor = calls.open(path, os.O_RDONLY | os.O_CLOEXEC | (0 if may_wait else os.O_NONBLOCK))
        with os.fdopen(descriptor, "rb") as file:
            mode = os.fstat(descriptor).st_mode
            if not (stat.S_ISREG(mode) or (may_wait and stat.S_ISFIFO(mode))):
                raise ConfigError(path, "", f"cannot be read: {_strange(mode)}; write it to a file")
            text = file.read(most_bytes + 1)
        if len(text) > most_bytes:
            raise ConfigError(path, "", f"cannot be read: it is longer than {most_bytes >> 20} MiB")
        return text.decode()
    except OSError as error:
        raise ConfigError(path, "", f"cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(path, "", f"is not UTF-8 text (byte {error.start})") from error


def _strange(mode: int) -> str:
    return "it is a pipe, which is read only when a daemon starts" if stat.S_ISFIFO(mode) else "it is a device"


def load_host_config(path: Path, *, may_wait: bool = False) -> HostConfig:
    """Read a host file, as `read_text`. Raises ConfigError: it cannot be read, is no TOML, or says what cannot be."""
    return parse_host_config(read_text(path, may_wait=may_wait), path, absolute_path(path.parent))


def load_autoballoon_config(path: Path, *, may_wait: bool = False) -> AutoballoonConfig:
    """Read the file, as `read_text`. Raises ConfigError: it cannot be read, is no TOML, or says what cannot be."""
    return parse_autoballoon_config(read_text(path, may_wait=may_wait), path)
