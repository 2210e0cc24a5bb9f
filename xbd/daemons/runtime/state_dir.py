"""A host's state in a directory: sections and the undo log as files that are mapped into memory.

What is written to a shared mapping is in the kernel's page cache, whatever becomes of the process: a
daemon that is killed (SIGKILL) at any instant loses nothing. A machine that loses power may; that is
not what this is for.

    state.json       format and version, whether a step was ever committed, and which log belongs to it; it is
                     written before all else, so a directory without it is new, or damaged
    manifest-0       which sections the host has, and which are not yet committed (`state_manifest`); written next
    undo             the undo log (`xbd.storage.undo`)
    host-0, daemon-0, domain-N, agent-N
                     a section each: a page of header (a line of JSON with a checksum), then its words
    checksums.json   of all sections, when the daemon ended in order; the next one holds them against it
    lock             locked by the daemon that lives

A file is as long as its section and sparse: what was never touched is a hole, which costs nothing and
is found by SEEK_DATA; but what is read whole has its place on the disk from the beginning, because on
tmpfs reading a hole takes a page. What cannot be used (another format, a wrong checksum, a missing or shortened
file, a lock that is held) is a `ConfigError`, and nothing has been changed.
"""

import os
import secrets
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Final

import structlog

import xbd
from xbd.abi import Frames
from xbd.daemons.recorder import RecordedMachine, Recorder
from xbd.daemons.runtime.lock import FileLock
from xbd.daemons.runtime.outside import calls
from xbd.daemons.runtime.state_files import (
    FORMAT,
    HEADER_BYTES,
    LOG_BYTES,
    LOG_ID,
    LOG_IDS,
    WORD_BYTES,
    SavedState,
    check_log,
    checksum,
    checksums_of,
    header,
    map_log,
    map_words,
    open_regular,
    read_checksums,
    read_header,
    read_state,
    remove,
    section_name,
    touched_pages,
    write_json,
)
from xbd.daemons.runtime.state_lock import make_and_lock_state
from xbd.daemons.runtime.state_manifest import (
    NAME,
    Manifest,
    Mark,
    add_manifest,
    all_unsure,
    check_marks,
    make_manifest,
)
from xbd.errors import ConfigError, DamagedState
from xbd.limits import LIMITS, Limits
from xbd.machine import HostSettings, Machine
from xbd.machine.nodes import Nodes
from xbd.machine.recovery import recover
from xbd.replaceable import replaceable
from xbd.storage.image import Image, Kind, Layout, Store
from xbd.storage.undo import Rewound, Undo

_log = structlog.get_logger(__name__)

# Free space below which guests' calls wait: more than what a few turns can touch, so that the kernel never has to
# end the daemon (SIGBUS) because a page of the mapping finds no place on the disk.
SPARE_BYTES: Final = 256 << 20


class StateDir(Store):
    """The store in directory *path*, locked until `close`; *has_manifest*: it is not of the format before that had none.

    Until `begin` nothing that is there is given up: whoever closes it before leaves every byte as it was found.

    Raises:
        ConfigError: it is in use, is none of ours, of another format, or damaged; it is left as it was.
    """

    undo: Undo

    def __init__(self, path: Path, *, spare_bytes: int = SPARE_BYTES) -> None:
        self.path = path
        self._spare_bytes = spare_bytes
        self._is_begun = False
        self._log_id = 0
        self._checksums: dict[str, Any] | None = None
        self._rewound = Rewound(0, [])
        self._manifest = Manifest()
        self._leftover: list[tuple[Kind, int]] = []  # what `begin` removes: marked, and not of the host
        self.undone = 0  # notes of the step in whose middle an earlier daemon died
        self._changed_ns: dict[str, tuple[int, int]] = {}
        self._lock: FileLock | None = make_and_lock_state(path)
        try:
            self._open()
        except OSError as error:
            raise self.refuse(f"cannot be the state directory: {error.strerror}") from error
        except BaseException:
            self.close(in_order=False)
            raise

    def _open(self) -> None:
        told = read_state(self.path)
        self.is_new = told is None or not told.is_committed
        self.has_manifest = told is not None and told.format == FORMAT
        if told is None or not told.is_committed:
            self._make_new(told)
        else:
            self._log_id = told.log_id
            self._checksums = read_checksums(self.path, told)
            self._manifest = self._read_manifest()
            self._log = self._read_log(told)
            self.undo = Undo(self._log, self._grow)
            self._rewound = self.roll_back()
            self.undone = self._rewound.notes

    def _make_new(self, told: SavedState | None) -> None:
        """Begin a new host, in the place of what a daemon left that was killed before it had committed anything."""
        # One that was killed before it had a manifest had no section, either.
        if told is not None and (not self.has_manifest or (self.path / NAME).exists()):
            self._manifest = self._read_manifest()
        check_marks(self.path, self._manifest)
        for name in (*(section_name(*key) for key in self.kept()), "undo", "checksums.json"):
            remove(self.path / name)
        # First of all it is said that nothing is committed yet: what has no state.json is then never taken for that.
        self.has_manifest = True
        self._write_state(is_committed=False)
        self._manifest = make_manifest(self.path, {})
        self._log = map_log(self.path / "undo", LOG_BYTES)
        self.undo = Undo(self._log, self._grow)

    def _read_manifest(self) -> Manifest:
        """Map the manifest that an earlier daemon left; one of the format without it was sure of nothing. Raises ConfigError."""
        if not self.has_manifest:
            return all_unsure(self.path)
        try:
            manifest = Manifest(self.open(Kind.MANIFEST, 0)[1])
        except DamagedState as error:
            raise ConfigError(self.path, "", f"the saved host cannot be used: {error}") from error
        check_marks(self.path, manifest)
        return manifest

    def _read_log(self, told: SavedState) -> Frames:
        """Map the log that an earlier daemon left. Raises ConfigError."""
        path = self.path / "undo"
        log = check_log(path, told)
        if self._checksums is not None and log[0]:
            raise ConfigError(path, "", "tells of a step, though the last daemon ended in order; it is damaged")
        return log

    @replaceable
    def roll_back(self) -> Rewound:
        """Undo the step in whose middle an earlier daemon died."""
        try:
            return self.undo.rewind(self._find)
        except (ValueError, DamagedState) as error:
            raise ConfigError(self.path / "undo", "", f"the last step cannot be undone: {error}") from error

    def _find(self, kind: int, number: int) -> Frames:
        # There is a file for all that was ever noted: a section is noted when it was committed, and goes after the notes.
        words = self.open(Kind(kind), number)[1]
        self._remember_times(section_name(Kind(kind), number))
        return words

    def _remember_times(self, name: str) -> None:
        """Remember when a file was changed, before it is, while the state may still be left as it was found."""
        if not self._is_begun and not self.is_new and name not in self._changed_ns:
            status = (self.path / name).stat()
            self._changed_ns[name] = (status.st_atime_ns, status.st_mtime_ns)

    def put_back(self) -> None:
        """Leave what was found: nobody went on with it."""
        if self._rewound.notes and self.undo.noted_words:
            self._rewound.put_back()
        for name, times_ns in self._changed_ns.items():
            os.utime(self.path / name, ns=times_ns)

    def _grow(self, words: int) -> Frames:
        # The bytes are the file's: a larger mapping has what the smaller one had.
        try:
            self._log = map_log(self.path / "undo", max(2 * self._log.nbytes, 2 * words * WORD_BYTES))
        except OSError:
            # What it got of a disk that is full would be missed elsewhere; the old mapping has all notes.
            calls.truncate(self.path / "undo", self._log.nbytes)
            raise
        return self._log

    def _write_state(self, *, is_committed: bool) -> None:
        told = {"format": FORMAT if self.has_manifest else FORMAT - 1, "xbd": xbd.__version__}
        write_json(self.path / "state.json", told | {"committed": is_committed, "log": self._log_id})

    # -- sections

    def create(self, kind: Kind, number: int, layout: Layout) -> Frames:
        """Make a file of zeros with a header. Raises OSError: no file is left."""
        path = self.path / section_name(kind, number)
        if self._manifest.of(kind, number):
            # Who still has an older file of that name mapped keeps that one; it must not be shortened under it.
            remove(path)
        self._manifest.mark(kind, number, Mark.UNSURE)
        descriptor = calls.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            calls.fallocate(descriptor, 0, HEADER_BYTES)
            calls.pwrite(descriptor, header(kind, number, layout), 0)
            calls.truncate(descriptor, HEADER_BYTES + layout.words * WORD_BYTES)
            return map_words(descriptor)
        except BaseException:
            self.discard(kind, number)
            raise
        finally:
            os.close(descriptor)

    def allocate(self, kind: Kind, number: int, spans: Sequence[tuple[int, int]]) -> None:
        """Give words of a section their place on the disk. Raises OSError."""
        self._remember_times(section_name(kind, number))
        descriptor = calls.open(self.path / section_name(kind, number), os.O_RDWR | os.O_CLOEXEC)
        try:
            for first, end in spans:
                calls.fallocate(descriptor, HEADER_BYTES + first * WORD_BYTES, (end - first) * WORD_BYTES)
        finally:
            os.close(descriptor)

    def open(self, kind: Kind, number: int) -> tuple[Layout, Frames]:
        """Map a section's file. Raises DamagedState."""
        name = section_name(kind, number)
        try:
            descriptor = open_regular(self.path / name, os.O_RDWR)
        except OSError as error:
            raise DamagedState(f"{name} cannot be opened: {error.strerror}") from error
        try:
            layout = read_header(descriptor, name, kind, number)
            if self._checksums is not None and self._checksums.get(name) != checksum(descriptor):
                raise DamagedState(f"{name} is not what the last daemon left: its checksum differs")
            return layout, map_words(descriptor)
        except (OSError, OverflowError) as error:
            raise DamagedState(f"{name} cannot be mapped into memory: {error}") from error
        finally:
            os.close(descriptor)

    def keep(self, kind: Kind, number: int) -> None:
        """Mark a section as committed."""
        self._manifest.mark(kind, number, Mark.KEPT)

    def doubt(self, kind: Kind, number: int) -> None:
        """Mark a section as one that may go."""
        self._manifest.mark(kind, number, Mark.UNSURE)

    def discard(self, kind: Kind, number: int) -> None:
        """Remove a section's file; one that cannot be is removed by the next daemon."""
        path = self.path / section_name(kind, number)
        try:
            remove(path)
        except OSError as error:
            _log.error("section_not_removed", file=str(path), reason=error.strerror)
        else:
            self._manifest.mark(kind, number, Mark.NONE)

    def kept(self) -> set[tuple[Kind, int]]:
        """Name the sections that the manifest marks."""
        return set(self._manifest.marks)

    def sweep(self, opened: AbstractSet[tuple[Kind, int]]) -> None:
        """Have `begin` remove what is not of the host. Raises DamagedState: the host does not know what is committed."""
        self._leftover = sorted(self.kept() - opened)
        for kind, number in self._leftover:
            if self._manifest.of(kind, number) is Mark.KEPT:
                raise DamagedState(
                    f"{section_name(kind, number)} belongs to it, by {NAME}, and its tables have no such domain"
                )

    def touched(self, kind: Kind, number: int, words: Frames, first: int, end: int) -> Frames:
        """List the pages of a section, from word *first* to *end*, that are no holes in its file."""
        del words
        return touched_pages(self.path / section_name(kind, number), first, end)

    # -- beginning and end

    def begin(self) -> None:
        """Note that the state is in use and will change: from here on it is there, and older checksums mean nothing.

        So is the log of the step in whose middle an earlier daemon died: it is undone for good.
        """
        self.undo.clear()
        if not self.is_new:
            # What a large domain's end once needed is not kept for ever.
            calls.truncate(self.path / "undo", LOG_BYTES)
            self._log = map_log(self.path / "undo", LOG_BYTES)
            self.undo.move(self._log)
        remove(self.path / "checksums.json")
        self._checksums = None
        added = None if self.has_manifest else add_manifest(self.path, self._manifest)
        if added is not None:
            self._manifest, self.has_manifest = added, True
        if self.is_new or not self._log_id or added is not None:
            if not self._log_id:
                # The log is marked first: a mark that nobody asks for does no harm.
                self._log_id = secrets.randbelow(LOG_IDS - 1) + 1
                self._log[LOG_ID] = self._log_id
            self._write_state(is_committed=True)
        for key in self.kept().difference(self._leftover):
            self.keep(*key)
        for key in self._leftover:
            self.discard(*key)
        self.is_new, self._leftover = False, []
        self._rewound = Rewound(0, [])
        self._is_begun = True

    @property
    def is_full(self) -> bool:
        """Whether the file system has less room than a few turns may need. Raises OSError: the directory is not there."""
        told = calls.statvfs(self.path)
        return told.f_bavail * told.f_frsize < self._spare_bytes

    def close(self, *, in_order: bool) -> None:
        """Let go of the directory, unless that was done before.

        One that is left *in_order* is held against its checksums by the next daemon, unless there is no room for them, or
        the directory is gone: then the log says so. One that was never begun is left as it was found.
        """
        if self._lock is None:
            return
        lock, self._lock = self._lock, None
        try:
            if in_order:
                assert self.undo.noted_words == 0, "the state was closed in the middle of a step"
                self._write_checksums()
            elif not self._is_begun:
                self.put_back()
        finally:
            lock.release(as_found=not self._is_begun)

    def _write_checksums(self) -> None:
        """Write down what the next daemon compares; without it the state is as good as after a kill."""
        try:
            write_json(self.path / "checksums.json", checksums_of(self.path))
        except OSError as error:
            effect = "the next daemon goes on without comparing, as after a kill"
            _log.error("checksums_not_written", directory=str(self.path), reason=error.strerror, effect=effect)

    def refuse(self, reason: str) -> ConfigError:
        """Leave all as it was found, and return the error to raise."""
        self.close(in_order=False)
        return ConfigError(self.path, "", reason)


def make_machine(
    state: StateDir | None,
    superframes: int,
    settings: HostSettings,
    recorder: Recorder | None = None,
    limits: Limits = LIMITS,
    *,
    nodes: Nodes | None = None,
) -> Machine:
    """Make a machine, or recover the one that *state* holds; then *superframes*, *settings* and *nodes* are its own.

    Raises:
        ConfigError: what is saved cannot be used, or is to be recorded from its middle on; nothing of it has been changed.
    """
    if state is None or state.is_new:
        image = None if state is None else Image(state)
        try:
            if recorder is not None:
                return RecordedMachine(
                    superframes, recorder, settings=settings, image=image, limits=limits, nodes=nodes
                )
            return Machine(superframes, settings=settings, image=image, limits=limits, nodes=nodes)
        except OSError as error:
            if state is None:
                raise
            raise state.refuse(f"cannot hold the host: {error.strerror}") from error
    if recorder is not None:
        raise state.refuse("holds a host already, and a recording begins with a new one; use an empty one")
    started_s = calls.monotonic()
    try:
        machine = recover(state, limits)
    except DamagedState as error:
        raise state.refuse(f"the saved host cannot be used: {error}") from error
    except OSError as error:
        raise state.refuse(f"the saved host cannot be read: {error.strerror}") from error
    counts = {"domains": len(machine.domains()), "undone_notes": state.undone}
    _log.info("state_recovered", directory=str(state.path), **counts, seconds=round(calls.monotonic() - started_s, 3))
    return machine
