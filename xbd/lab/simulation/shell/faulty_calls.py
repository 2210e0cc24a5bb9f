"""The calls by which daemons reach the outside, and how each of them fails: the facade's, replaced for a run."""

import errno
import os
import socket
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final
from weakref import WeakKeyDictionary

import trio

from xbd.control.rate_limit import CONNECTS_AT_ONCE, CONNECTS_PER_S
from xbd.daemons.runtime import outside, sockets
from xbd.lab.simulation.daemons.trace import Trace
from xbd.lab.simulation.rng import Rng
from xbd.lab.simulation.shell.process import Process, current
from xbd.testing.oracle import Violation

# By fault: the calls that it can happen to, and the errors of which one is drawn.
_ERRORS: Final[Mapping[str, tuple[frozenset[str], tuple[int, ...]]]] = {
    "accept": (frozenset({"accept"}), (errno.ECONNABORTED, errno.EPERM, errno.ENOBUFS)),
    "descriptors": (frozenset({"accept", "open", "socket", "duplicate"}), (errno.EMFILE, errno.ENFILE)),
    "disk": (
        frozenset({"open", "fallocate", "write", "pwrite", "replace", "truncate", "fsync"}),
        (errno.ENOSPC, errno.EDQUOT, errno.EIO),
    ),
    "memory": (frozenset({"mmap"}), (errno.ENOMEM,)),
    "remove": (frozenset({"unlink"}), (errno.EACCES, errno.EIO, errno.EROFS)),
    "reset": (frozenset({"send", "receive"}), (errno.ECONNRESET, errno.EPIPE)),
    "log": (frozenset({"write_log"}), (errno.EPIPE, errno.EAGAIN, errno.ENOSPC, errno.EIO)),
}
# What a full disk refuses.
_FILLS: Final = frozenset({"fallocate", "write", "pwrite"})
_MAKES: Final = os.O_CREAT | os.O_WRONLY
# A process that was dropped leaves its sockets' files where they are.
_UNSEEN_OF_DROPPED: Final = frozenset({"unlink", "write_log"})
# The wall clock of a run begins there.
EPOCH_S: Final = 1.8e9
_FULL: Final = os.statvfs_result((4096, 4096, 1 << 20, 0, 0, 0, 0, 0, 0, 255))
_ROOMY: Final = os.statvfs_result((4096, 4096, 1 << 20, 1 << 19, 1 << 19, 0, 0, 0, 0, 255))


class FaultyCalls:
    """All calls of a run.

    Args:
        rates: by fault, of a call.
        rng: what is drawn from.
        trace: of the run.

    Attributes:
        active: whether faults happen.
        is_full: whether the disk is full: what statvfs says, and what no file gets more of.
        clock_ahead_s: of the wall clock.
        exiled: which daemons reach nobody.
        not_removed: the files whose removal failed; they may stay.
    """

    def __init__(self, rates: Mapping[str, float], rng: Rng, trace: Trace) -> None:
        self.active = False
        self.is_full = False
        self.clock_ahead_s = 0.0
        self.exiled: set[str] = set()
        self._stopped: Collection[str] = ()
        self._held: list[Callable[[], int]] = []
        self.not_removed: set[str] = set()
        self._rates = rates
        self._rng = rng
        self._trace = trace
        self._accepted: WeakKeyDictionary[socket.socket, int] = WeakKeyDictionary()
        self._bound_at_s: WeakKeyDictionary[socket.socket, float] = WeakKeyDictionary()

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Stand in the place of the facade's calls for the length of a block."""
        names = [name for name in outside.Calls.__slots__ if name not in ("signals", "monotonic", "wall_clock")]
        others: dict[str, Callable[..., Any]] = {name: self._wrapped(name) for name in names}
        others |= {"monotonic": trio.current_time, "wall_clock": self.wall_clock}
        with outside.replaced(**others):
            yield

    def wall_clock(self) -> float:
        """Tell the time of day."""
        return EPOCH_S + trio.current_time() + self.clock_ahead_s

    def _wrapped(self, name: str) -> Callable[..., Any]:
        original: Callable[..., Any] = getattr(outside.calls, name)
        own: dict[str, Callable[..., Any]] = {
            "send": self._send,
            "receive": self._receive,
            "connect": self._connect,
            "write_log": self._write_log,
            "statvfs": self._statvfs,
            "accept": self._accept,
            "listen": self._listen,
        }
        special = own.get(name)
        faults = [kind for kind, (calls, _) in _ERRORS.items() if name in calls]

        def call(*args: Any, **options: Any) -> Any:  # noqa: ANN401 - it passes on what it is given
            process = current.get()
            if process is not None:
                if process.dropped and name in _UNSEEN_OF_DROPPED:
                    return None
                process.reach("call")
                if self.is_full and name in _FILLS and not process.immune:
                    process.struck += 1
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                for kind in faults:
                    self._strike(process, kind, name, args)
            return original(*args, **options) if special is None else special(original, process, *args, **options)

        return call

    # -- faults

    def _happens(self, process: Process | None, kind: str) -> bool:
        if process is None or not self.active or process.immune or not self._rng.bernoulli(self._rates[kind]):
            return False
        process.struck += 1
        return True

    def _strike(self, process: Process, kind: str, name: str, args: tuple[Any, ...]) -> None:
        """Raise an error of this kind, if it happens now."""
        if kind == "disk" and name == "open" and not (len(args) > 1 and args[1] & _MAKES):
            return
        if self._happens(process, kind):
            number = self._rng.choice(_ERRORS[kind][1])
            self._trace.fault(process.name, kind, f"{name} {errno.errorcode[number]}")
            if kind == "remove":
                self.not_removed.add(os.fspath(args[0]))
            if kind == "reset":
                # It is gone indeed: no answer can reach the peer any more.
                with suppress(OSError):
                    args[0].shutdown(socket.SHUT_RDWR)
            raise OSError(number, os.strerror(number))

    def _refuse_exiled(self, process: Process | None) -> None:
        """Raise the error of one who reaches nobody."""
        if process is not None and process.name in self.exiled:
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))

    def _connect(self, original: Callable[..., int], process: Process | None, *args: Any) -> int:  # noqa: ANN401
        is_exiled = process is not None and process.name in self.exiled
        return errno.ECONNREFUSED if is_exiled else original(*args)

    def strike_client(self) -> bool:
        """Tell whether a client's connection is to be cut now. Raises OSError: its process was dropped, or is in exile."""
        process = current.get()
        if process is not None:
            process.reach("call")
            self._refuse_exiled(process)
            if process.immune:
                return False
        if not self.active or not self._rng.bernoulli(self._rates["cut"]):
            return False
        self._trace.fault("a client" if process is None else process.name, "cut")
        if process is not None:
            process.struck += 1
        return True

    @contextmanager
    def stopped(self, names: Collection[str]) -> Iterator[None]:
        """Let nothing come from some daemons for the length of a block, as if they were stopped; it is sent afterwards."""
        self._stopped = names
        yield
        self._stopped, held, self._held = (), self._held, []
        for send in held:
            # Whoever was to get it may be gone.
            with suppress(OSError):
                send()

    def _send(self, original: Callable[..., int], process: Process | None, *args: Any) -> int:  # noqa: ANN401
        self._refuse_exiled(process)
        connection, sent, *flags = args
        if process is not None and process.name in self._stopped:
            self._held.append(partial(original, connection, bytes(sent), *flags))
            return len(sent)
        if len(sent) > 1 and self._happens(process, "half-send"):
            part = self._rng.below(len(sent))
            self._trace.fault("" if process is None else process.name, "half-send")
            if not part:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            sent = memoryview(sent)[:part]
        return original(connection, sent, *flags)

    def _receive(
        self, original: Callable[..., bytes], process: Process | None, connection: socket.socket, most: int
    ) -> bytes:
        self._refuse_exiled(process)
        if self._happens(process, "pieces"):
            self._trace.happened["pieces"] += 1
            most = 1 + self._rng.below(16)
        return original(connection, most)

    def _write_log(self, _: object, process: Process | None, descriptor: int, encoded: bytes) -> int:
        """Write to the process's own pipe, maybe a part."""
        del descriptor
        if process is None:
            return len(encoded)
        if len(encoded) > 1 and self._happens(process, "log"):
            encoded = encoded[: 1 + self._rng.below(len(encoded) - 1)]
            self._trace.sometimes("a log line was written in part")
        process.pipe.out += encoded
        return len(encoded)

    def _statvfs(self, original: object, process: Process | None, path: object) -> os.statvfs_result:
        del original, process, path
        return _FULL if self.is_full else _ROOMY

    # -- rations: how often a guest's socket is accepted from

    def _listen(self, original: Callable[..., None], _: object, listener: socket.socket, backlog: int) -> None:
        self._bound_at_s[listener] = trio.current_time()
        original(listener, backlog)

    def _accept(self, original: Callable[..., Any], _: object, listener: socket.socket) -> Any:  # noqa: ANN401
        path = listener.getsockname()
        accepted = original(listener)
        # Who has left already is let go again, and takes nothing of what a socket may.
        if "/domains/" in path and not sockets.has_left(accepted[0]):
            self._accepted[listener] = self._accepted.get(listener, 0) + 1
            allowed = CONNECTS_AT_ONCE + CONNECTS_PER_S * (trio.current_time() - self._bound_at_s[listener]) + 1
            if self._accepted[listener] > allowed:
                accepted[0].close()
                raise Violation(
                    f"{self._accepted[listener]} were let in by a guest's socket, at most {allowed:.0f} may be by now"
                )
        return accepted
