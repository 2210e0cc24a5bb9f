"""A stranger's policy in a process of its own, which is killed when it does not answer in time.

A pure function that does not return cannot be stopped from within its process: a thread cannot be ended in Python, and
shares the interpreter's lock with all else meanwhile; nor can one that ends the process, or takes all its memory, be
survived there. A process can be killed whatever it does. Snapshot and answer cross a pipe as plain values, some 0.1 ms
for each ten domains. xbd's own policies are trusted as xbd itself is, and asked where they are needed.

`PolicyProcess` is a policy as any other: whoever asks policies (autoballoon, the arena, simulations, tests) asks it in
the same way (`xbd.policy.plugin.ask`). To ask it blocks; a daemon does so in a thread, so that others are served meanwhile.
"""

import select
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from threading import Lock
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]  # it has no annotations

from xbd.config.policies import BUILT_IN, make_policy, refuse_unknown_policy
from xbd.daemons.policy_child import LENGTH
from xbd.daemons.runtime.outside import calls
from xbd.policy.model import SetTarget, Snapshot
from xbd.policy.plugin import Policy, PolicyFailed
from xbd.text import printable, quote

# A policy is arithmetic on some numbers of each domain; one that takes longer would be late with everything.
ANSWER_WITHIN_S: Final = 1.0
# Python and what the policy imports, on a machine with much to do.
START_WITHIN_S: Final = 15.0
# A target has some hundred bytes; a host has at most some thousand domains.
_MOST_BYTES: Final = 4 << 20
_Process = subprocess.Popen[bytes]


class PolicyProcess:
    """A policy by its *name* and *settings*, in a process that is started when it is first asked.

    It may be asked and ended from any thread; its state stays with it.
    """

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        self.name = name
        self._settings = dict(settings)
        self._process: _Process | None = None
        self._busy = Lock()

    def step(self, state: object, snapshot: Snapshot, now: float) -> tuple[bool, list[SetTarget]]:
        """Ask it, for at most `START_WITHIN_S` and `ANSWER_WITHIN_S`; its state begins anew where *state* is None.

        Raises PolicyFailed: what it did; its process is ended, and the next step starts another one.
        """
        with self._busy, self._ended_if_it_fails(ANSWER_WITHIN_S):
            self._start()
            anew = state is None
            raw = self._exchange({"snapshot": asdict(snapshot), "now": now, "anew": anew}, ANSWER_WITHIN_S)["targets"]
            return True, [SetTarget(*each) for each in raw]

    def start(self) -> None:
        """Start it, unless it runs. Raises PolicyFailed: it cannot be made, or refuses its settings."""
        with self._busy, self._ended_if_it_fails(START_WITHIN_S):
            self._start()

    def _start(self) -> None:
        if self._process is not None:
            return
        # A session of its own: a Ctrl-C on the terminal is not for it. It finds modules where this process does, too.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "xbd.daemons.policy_child"],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        with self._ended_if_it_fails(START_WITHIN_S, "start"):
            self._exchange({"name": self.name, "settings": self._settings, "path": sys.path}, START_WITHIN_S)

    @contextmanager
    def _ended_if_it_fails(self, within_s: float, what: str = "answer") -> Iterator[None]:
        """End its process if it fails in any way, and say how. Raises PolicyFailed."""
        try:
            yield
        except PolicyFailed:
            self._close()
            raise
        except TimeoutError:
            self._close()
            raise PolicyFailed(f"it did not {what} within {within_s:g} s, and its process was killed") from None
        except OSError as error:
            self._close()
            raise PolicyFailed(f"its process has ended ({type(error).__name__})") from error
        except (TypeError, KeyError) as error:
            self._close()
            raise PolicyFailed("its process answered what is no list of targets") from error

    def _exchange(self, message: dict[str, object], within_s: float) -> dict[str, Any]:
        """Send a message and receive the answer. Raises OSError, TimeoutError, PolicyFailed."""
        assert self._process is not None, "a policy without a process was spoken to"
        until_s = calls.monotonic() + within_s
        packed = msgpack.packb(message)
        _send(self._process, LENGTH.pack(len(packed)) + packed, until_s)
        length = LENGTH.unpack(_receive(self._process, LENGTH.size, until_s))[0]
        if length > _MOST_BYTES:
            raise PolicyFailed(f"an answer of {length} bytes; at most {_MOST_BYTES} were expected")
        try:
            answered = msgpack.unpackb(_receive(self._process, length, until_s), strict_map_key=False)
        except ValueError as error:
            raise PolicyFailed("an answer that is no MessagePack") from error
        if not isinstance(answered, dict):
            raise PolicyFailed(f"the answer {quote(answered)}; a map was expected")
        if trouble := answered.get("trouble"):
            raise PolicyFailed(printable(str(trouble)))
        return answered

    def end(self) -> None:
        """Kill its process, if there is one, and wait until it is gone; who asks it at the moment hears so."""
        process = self._process
        if process is not None:
            process.kill()
        with self._busy:
            self._close()

    def _close(self) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def _send(process: _Process, message: bytes, until_s: float) -> None:
    """Send all of a message. Raises OSError, TimeoutError."""
    assert process.stdin is not None, "the process was started with pipes"
    # A write of as much as a pipe takes at once never waits.
    unsent = memoryview(message)
    while unsent:
        _wait(process.stdin.fileno(), select.POLLOUT, until_s)
        unsent = unsent[process.stdin.write(unsent[: select.PIPE_BUF]) :]


def _receive(process: _Process, count: int, until_s: float) -> bytes:
    """Receive *count* bytes. Raises OSError, TimeoutError."""
    assert process.stdout is not None, "the process was started with pipes"
    received = bytearray()
    while len(received) < count:
        _wait(process.stdout.fileno(), select.POLLIN, until_s)
        part = process.stdout.read(count - len(received))
        if not part:
            raise PolicyFailed("its process has ended")
        received += part
    return bytes(received)


def _wait(descriptor: int, event: int, until_s: float) -> None:
    """Wait until a pipe can be written or read. Raises TimeoutError."""
    poll = select.poll()
    poll.register(descriptor, event)
    if not poll.poll(max(until_s - calls.monotonic(), 0) * 1000):
        raise TimeoutError


def policy_of(name: str, settings: Mapping[str, Any]) -> Policy:
    """Make a policy by name: xbd's own, or a stranger's in a process of its own, which is not started yet.

    Raises BadArgument, BadSetting: one of xbd's own refuses its settings, or there is none of that name.
    """
    if name in BUILT_IN:
        return make_policy(name, settings)
    refuse_unknown_policy(name)
    return PolicyProcess(name, settings)


@contextmanager
def started_policy(name: str, settings: Mapping[str, Any]) -> Iterator[Policy]:
    """Make a policy by name as `policy_of` does, ready to be asked, for the length of a block.

    Raises PolicyFailed, too: a stranger's cannot be made.
    """
    policy = policy_of(name, settings)
    if not isinstance(policy, PolicyProcess):
        yield policy
        return
    try:
        policy.start()
        yield policy
    finally:
        policy.end()
