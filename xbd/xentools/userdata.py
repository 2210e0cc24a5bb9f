"""The files in which libxl keeps what it knows of domains, written for those that a tool is about to be told of."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from xbd.domain import DomainInfo
from xbd.hypercalls.userdata import userdata, userdata_name


class UserdataFiles:
    """The files of one host's domains, in a directory that its tools see as their own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._written: dict[str, None] = {}

    def keep(self, domains: Sequence[DomainInfo], *, are_all: bool) -> None:
        """Write what is missing of these; if they are all, what others had goes. A disk that is full keeps nobody waiting."""
        names = {userdata_name(one): one for one in domains}
        with suppress(OSError):
            for name in [name for name in names if name not in self._written]:
                # libxl may have changed it meanwhile.
                if not (self._directory / name).exists():
                    (self._directory / name).write_text(userdata(names[name]), encoding="utf-8")
                self._written[name] = None
            for gone in [name for name in self._written if are_all and name not in names]:
                del self._written[gone]
                (self._directory / gone).unlink(missing_ok=True)
