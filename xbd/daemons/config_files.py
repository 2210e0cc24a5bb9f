"""Reading the files that people write: host files, and those of the policy."""

from pathlib import Path

from xbd.config.autoballoon import AutoballoonConfig, parse_autoballoon_config
from xbd.config.host import HostConfig, parse_host_config
from xbd.daemons.runtime.outside import open_to_read
from xbd.errors import ConfigError


def read_text(path: Path) -> str:
    """Read a file. Raises ConfigError: it cannot be read, or is no text."""
    try:
        with open_to_read(path) as file:
            return file.read().decode()
    except OSError as error:
        raise ConfigError(path, "", f"cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(path, "", f"is not UTF-8 text (byte {error.start})") from error


def load_host_config(path: Path) -> HostConfig:
    """Read a host file. Raises ConfigError: it cannot be read, is no TOML, or says what cannot be."""
    return parse_host_config(read_text(path), path)


def load_autoballoon_config(path: Path) -> AutoballoonConfig:
    """Read the file. Raises ConfigError: it cannot be read, is no TOML, or says what cannot be."""
    return parse_autoballoon_config(read_text(path), path)
