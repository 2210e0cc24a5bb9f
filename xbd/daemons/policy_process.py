"""A stranger's policy in a process of its own, which is killed when it does not answer in time.

A pure function that does not return cannot be stopped from within its process: a thread cannot be ended in Python, and
shares the interpreter's lock with the whole daemon meanwhile; nor can one that ends the process, or takes all its
memory, be survived there. A process can be killed whatever it does, and its step takes the daemon's time for waiting
only: others are served meanwhile. Snapshot and answer cross a pipe as plain values, some 0.1 ms for each ten domains.
xbd's own policies are trusted as the daemon itself is, and asked in it.
"""

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]  # it has no annotations
import trio

from xbd.daemons.policy_child import LENGTH
from xbd.errors import RemoteProtocolError
from xbd.policy.model import Snapshot
from xbd.policy.plugin import Answer, checked
from xbd.text import printable, quote

# A policy is arithmetic on some numbers of each domain; one that takes longer would be late with everything.
ANSWER_WITHIN_S: Final = 1.0
# Python and what the policy imports, on a machine with much to do.
START_WITHIN_S: Final = 15.0
# A target has some hundred bytes; a host has at most some thousand domains.
_MOST_BYTES: Final = 4 << 20


class PolicyProcess:
    """A policy by its *name* and *settings*, in a process that is started when it is first asked."""

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        self.name = name
        self._settings = dict(settings)
        self._process: trio.Process | None = None

    async def ask(self, snapshot: Snapshot, now: float) -> Answer:
        """Ask it; if it fails in any way the process is ended, and the answer says what the trouble is."""
        answer = Answer(trouble=f"it did not start within {START_WITHIN_S:g} s")
        try:
            if self._process is None:
                with trio.move_on_after(START_WITHIN_S):
                    answer = await self._start()
            else:
                answer = Answer()
            if not answer.trouble:
                answer = await self._step(snapshot, now)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            answer = Answer(trouble=f"its process has ended ({type(error).__name__})")
        except RemoteProtocolError as error:
            answer = Answer(trouble=str(error))
        if answer.trouble:
            await self.end()
        return answer

    async def _start(self) -> Answer:
        command = [sys.executable, "-m", "xbd.daemons.policy_child"]
        # A session of its own: a Ctrl-C on the terminal is the daemon's.
        self._process = await trio.lowlevel.open_process(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        answered = await self._exchange({"name": self.name, "settings": self._settings})
        return Answer(trouble=_trouble(answered))

    async def _step(self, snapshot: Snapshot, now: float) -> Answer:
        with trio.move_on_after(ANSWER_WITHIN_S):
            answered = await self._exchange({"snapshot": asdict(snapshot), "now": now})
            trouble = _trouble(answered)
            return Answer(trouble=trouble) if trouble else checked(answered.get("targets"), None, snapshot)
        return Answer(trouble=f"it did not answer within {ANSWER_WITHIN_S:g} s, and its process was killed")

    async def _exchange(self, message: dict[str, object]) -> dict[str, Any]:
        """Send a message and receive the answer. Raises OSError, RemoteProtocolError: the process has ended, or babbles."""
        assert self._process is not None, "a policy without a process was spoken to"
        assert self._process.stdin is not None, "the process was started with pipes"
        packed = msgpack.packb(message)
        await self._process.stdin.send_all(LENGTH.pack(len(packed)) + packed)
        length = LENGTH.unpack(await self._receive(LENGTH.size))[0]
        if length > _MOST_BYTES:
            raise RemoteProtocolError(f"an answer of {length} bytes", f"at most {_MOST_BYTES}")
        try:
            answered = msgpack.unpackb(await self._receive(length), strict_map_key=False)
        except ValueError as error:
            raise RemoteProtocolError("an answer that is no MessagePack", "a map") from error
        if not isinstance(answered, dict):
            raise RemoteProtocolError(f"the answer {quote(answered)}", "a map")
        return answered

    async def _receive(self, count: int) -> bytes:
        assert self._process is not None, "a policy without a process was listened to"
        assert self._process.stdout is not None, "the process was started with pipes"
        received = bytearray()
        while len(received) < count:
            part = await self._process.stdout.receive_some(count - len(received))
            if not part:
                raise RemoteProtocolError("its process has ended", "an answer")
            received += part
        return bytes(received)

    async def end(self) -> None:
        """Kill its process, if there is one, and wait until it is gone."""
        if self._process is None:
            return
        process, self._process = self._process, None
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    await pipe.aclose()


def _trouble(answered: dict[str, Any]) -> str:
    trouble = answered.get("trouble")
    return printable(trouble) if isinstance(trouble, str) else ""
