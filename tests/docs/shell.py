"""A shell for a page's sessions: a real bash, whose `xbd` is this one, with a run-time directory of its own.

All commands of a page are typed into the same shell, so that variables, jobs and files go on from one to the next.
Processes that a session leaves running are ended with it.
"""

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.docs.pages import ROOT, Command, pattern_of

# Nothing takes so long; a session that hangs fails instead.
PATIENCE_S: Final = 60.0
_LOOK_EVERY_S: Final = 0.02
_MARK: Final = "--- done: "


class Shell:
    """A bash in *directory*, with copies of the project's configs."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._runtime = directory / "runtime"
        self._work = directory / "work"
        self._runtime.mkdir(mode=0o700)
        self._logs = 0
        self._pending = b""
        shutil.copytree(ROOT / "configs", self._work / "configs")
        path = self._path_with_xbd(directory / "bin")
        kept = {name: os.environ[name] for name in ("HOME", "LANG", "LC_ALL", "TMPDIR") if name in os.environ}
        self._bash = subprocess.Popen(
            ["bash", "--norc"],  # noqa: S607 - the reader's shell, found as the reader's is
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self._work,
            env={
                **kept,
                "PATH": path,
                "XDG_RUNTIME_DIR": str(self._runtime),
                "COLUMNS": "100",
                "PYTHONUNBUFFERED": "1",
            },
            start_new_session=True,
        )

    @staticmethod
    def _path_with_xbd(directory: Path) -> str:
        """Put an `xbd` and a `python3` that are this interpreter's before all others."""
        directory.mkdir()
        for name, options in (("xbd", " -m xbd"), ("python3", "")):
            script = directory / name
            script.write_text(f'#!/bin/sh\nexec "{sys.executable}"{options} "$@"\n', encoding="utf-8")
            script.chmod(0o755)
        return f"{directory}:{os.environ['PATH']}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End what the session started: jobs as a user would, then the whole session."""
        try:
            if self._bash.poll() is None:
                self._type("for job in $(jobs -p); do kill $job 2>/dev/null; done; wait")
                self._read_until_done()
        finally:
            # Whatever is left of this shell's own session.
            with suppress(ProcessLookupError):
                os.killpg(self._bash.pid, signal.SIGKILL)
            assert self._bash.stdin is not None
            assert self._bash.stdout is not None
            self._bash.stdin.close()
            self._bash.stdout.close()
            self._bash.wait()

    def run(self, command: Command) -> None:
        """Type a command; it must print what it is to print, and end as it is to end."""
        if command.in_background:
            self._run_in_background(command)
            return
        self._type(command.typed)
        printed, code = self._read_until_done()
        assert pattern_of(command.expected).fullmatch(printed), (
            f"{command.where}: `{command.typed}` printed:\n{printed}\nThe page says:\n" + "\n".join(command.expected)
        )
        assert code == command.exit_code, f"{command.where}: `{command.typed}` ended with exit code {code}"

    def _run_in_background(self, command: Command) -> None:
        self._logs += 1
        log = self._directory / f"background-{self._logs}.log"
        self._type(f"{command.typed.rstrip()[:-1]} >{log} 2>&1 </dev/null &")
        self._read_until_done()
        expected, deadline = pattern_of(command.expected), time.monotonic() + PATIENCE_S
        while not (log.exists() and expected.match(log.read_text(encoding="utf-8"))):
            assert time.monotonic() < deadline, (
                f"{command.where}: `{command.typed}` said:\n{log.read_text(encoding='utf-8')}\nThe page says:\n"
                + "\n".join(command.expected)
            )
            select.select([], [], [], _LOOK_EVERY_S)

    def _type(self, typed: str) -> None:
        assert self._bash.stdin is not None
        # The command's own input is nothing: it must not read what is typed after it.
        self._bash.stdin.write(f"{{ {typed}\n}} </dev/null\necho '{_MARK}'$?\n".encode())
        self._bash.stdin.flush()

    def _read_until_done(self) -> tuple[str, int]:
        """Return what was printed up to the mark, and the exit code that it tells."""
        assert self._bash.stdout is not None
        mark, deadline = _MARK.encode(), time.monotonic() + PATIENCE_S
        while not (self._pending.endswith(b"\n") and mark in self._pending):
            ready, _, _ = select.select([self._bash.stdout], [], [], max(deadline - time.monotonic(), 0))
            assert ready, f"the session hangs; it has printed:\n{self._pending.decode(errors='replace')}"
            received = os.read(self._bash.stdout.fileno(), 65536)
            assert received, f"the shell is gone; it had printed:\n{self._pending.decode(errors='replace')}"
            self._pending += received
        printed, _, told = self._pending.partition(mark)
        self._pending = b""
        lines = printed.decode().splitlines()
        return "".join(line.rstrip() + "\n" for line in lines), int(told)
