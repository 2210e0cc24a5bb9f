"""Recording: a machine that writes down all that is done to it (`xbd.protocol.recording`).

What cannot be written is not worth a host: when the file's disk is full, recording ends with an error
in the log, and the machine goes on.
"""

import io
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Final

import structlog

import xbd
from xbd.abi import Command, Frames, Result
from xbd.daemons.runtime.outside import open_new
from xbd.errors import ConfigError
from xbd.machine import Machine
from xbd.machine.reboot import Reboot
from xbd.protocol.recording import Header, Line, answer_to_line, command_to_line

_log = structlog.get_logger(__name__)

# A killed daemon's recording ends so many lines early at most; each flush is a call of the system, 2 us.
FLUSH_EVERY: Final = 64


class Recorder:
    """Writes lines to a new file. Raises ConfigError: it is there already, or cannot be made."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file: IO[str] | None = io.TextIOWrapper(open_new(path), encoding="utf-8")
        except OSError as error:
            raise ConfigError(path, "", f"cannot be recorded to: {error.strerror}") from error
        self._number = 0

    def write(self, line: Line) -> None:
        """Write a line, unless recording has failed before."""
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(line, separators=(",", ":")) + "\n")
            if self._number % FLUSH_EVERY == 0:
                self._file.flush()
        except OSError as error:
            _log.error("recording_failed", file=str(self._path), reason=error.strerror, lines=self._number)
            with suppress(OSError):
                self._file.close()
            self._file = None

    def write_numbered(self, line: Line) -> None:
        """Write a line about something that was done."""
        self._number += 1
        self.write({"n": self._number, **line})

    def close(self) -> None:
        """Be done."""
        if self._file is not None:
            try:
                self._file.close()
            except OSError as error:
                _log.error("recording_failed", file=str(self._path), reason=error.strerror, lines=self._number)
            self._file = None


class RecordedMachine(Machine):
    """A machine all of whose operations are recorded; what was refused and changed nothing is not, but for hypercalls."""

    def __init__(self, superframes: int, recorder: Recorder, **made_of: Any) -> None:  # noqa: ANN401 - as Machine's own
        super().__init__(superframes, **made_of)
        self._recorder = recorder
        # What the step that is under way has done.
        self._done: list[Line] = []
        nodes = self.host.nodes
        described = asdict(nodes) if nodes.count > 1 else None
        recorder.write(Header(superframes, asdict(self.settings), xbd.__version__, described).line())

    def _did(self, what: str, domid: int, **details: Any) -> None:  # noqa: ANN401 - numbers and texts
        self._done.append({"do": what, "domain": domid, **details})

    def commit(self) -> None:
        """End the step: what it did is written down."""
        super().commit()
        self._write_down()

    def _write_down(self) -> None:
        for line in self._done:
            self._recorder.write_numbered(line)
        self._done.clear()

    def become(self, derived: Machine) -> None:
        """Go on after a step that was undone: what it did is not recorded."""
        super().become(derived)
        self._done.clear()

    def execute(self, domid: int, command: Command) -> Result:
        """Do one turn of a hypercall."""
        result = super().execute(domid, command)
        self._done.append(command_to_line(domid, command) | {"answer": answer_to_line(result)})
        return result

    def create(self, name: str, **parameters: Any) -> int:  # noqa: ANN401 - as Machine's own
        """Make a domain."""
        domid = super().create(name, **parameters)
        # Nothing that is answered follows from its UUID, which is of chance.
        told = {key: value for key, value in parameters.items() if key not in ("domid", "uuid")}
        self._did("create", domid, name=name, **told)
        return domid

    def destroy(self, domid: int) -> int:
        """End a domain."""
        left = super().destroy(domid)
        self._did("destroy", domid)
        return left

    def begin_reboot(self, domid: int, contacts: Frames | None = None) -> Reboot:
        """Boot a domain anew."""
        reboot = super().begin_reboot(domid, contacts)
        self._did("reboot", domid)
        return reboot

    def rename(self, domid: int, name: str) -> None:
        """Call a domain otherwise."""
        super().rename(domid, name)
        self._did("rename", domid, name=name)

    def set_max_pages(self, domid: int, max_pages: int) -> None:
        """Set a cap."""
        super().set_max_pages(domid, max_pages)
        self._did("set_max_pages", domid, max_pages=max_pages)

    def set_target(self, domid: int, target_pages: int) -> None:
        """Note a target."""
        super().set_target(domid, target_pages)
        self._did("set_target", domid, target_pages=target_pages)

    def claim(self, domid: int, pages: int) -> None:
        """Promise a domain frames."""
        super().claim(domid, pages)
        self._did("claim", domid, pages=pages)

    def claim_set(self, domid: int, entries: Sequence[tuple[int, int | None]]) -> None:
        """Promise a domain frames on nodes."""
        super().claim_set(domid, entries)
        self._did("claim_set", domid, claims=[{"pages": pages, "node": node} for pages, node in entries])

    def go_offline(self, node: int, pages: int) -> dict[int, int]:
        """Take frames of a node out of use."""
        recalled = super().go_offline(node, pages)
        self._done.append({"do": "go_offline", "node": node, "pages": pages})
        return recalled

    def come_online(self, node: int, pages: int) -> None:
        """Take frames of a node into use again."""
        super().come_online(node, pages)
        self._done.append({"do": "come_online", "node": node, "pages": pages})

    def end_recording(self) -> None:
        """Write how it stands in the end, and close the file."""
        self._write_down()
        counts = self.statistics()
        leaves = {str(domid): self.domain(domid).leaves for domid in self.domains()}
        self._recorder.write(
            {"end": {"free_frames": counts.free_frames, "free_superframes": counts.free_superframes, "leaves": leaves}}
        )
        self._recorder.close()
