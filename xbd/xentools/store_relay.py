"""A socket between a program and its XenStore, at which operations fail, or are answered late, on demand.

Every request goes on to the store, so that answers come in the order of the requests; in the place of one that is to fail goes
one that changes nothing (of a commit: the end of the transaction without it, as of one that has failed), and its answer
becomes the error. Each connection has two threads, one for each way: a program that does not read holds up nobody else.
"""

import errno
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Final

from xbd.errors import RemoteProtocolError
from xbd.hypercalls.faults import Faults
from xbd.xenstore.codec import Decoder, Message, Operation, encode

# What `--fail` and `--delay` call the operations; a transaction's end is a commit or an abort.
COMMIT: Final = "xenstore-commit"
ABORT: Final = "xenstore-abort"
_NAMES: Final = {
    Operation.DIRECTORY: "xenstore-directory",
    Operation.DIRECTORY_PART: "xenstore-directory",
    Operation.READ: "xenstore-read",
    Operation.GET_PERMS: "xenstore-get-perms",
    Operation.WATCH: "xenstore-watch",
    Operation.UNWATCH: "xenstore-unwatch",
    Operation.TRANSACTION_START: "xenstore-start",
    Operation.WRITE: "xenstore-write",
    Operation.MKDIR: "xenstore-mkdir",
    Operation.RM: "xenstore-rm",
    Operation.SET_PERMS: "xenstore-set-perms",
    Operation.INTRODUCE: "xenstore-introduce",
    Operation.RELEASE: "xenstore-release",
}
STORE_OPERATIONS: Final = frozenset({*_NAMES.values(), COMMIT, ABORT})
# The errors that a store answers; its clients know no others. Source: xsd_errors of Xen's xs_wire.h.
STORE_ERRORS: Final = frozenset(
    {
        "EINVAL",
        "EACCES",
        "EEXIST",
        "EISDIR",
        "ENOENT",
        "ENOMEM",
        "ENOSPC",
        "EIO",
        "ENOTEMPTY",
        "ENOSYS",
        "EROFS",
        "EBUSY",
    }
    | {"EAGAIN", "EISCONN", "E2BIG", "EPERM"}
)
_COMMITTED: Final = b"T\0"
_RECEIVE_BYTES: Final = 1 << 16
# More than any tool has; each takes two threads.
MAX_CONNECTIONS: Final = 64
# After a connection that came to nothing the next one waits so long.
PAUSE_S: Final = 0.05


def name_of(request: Message) -> str:
    """Name the operation that a request asks for; empty: it has no name, and never fails on demand."""
    if request.operation == Operation.TRANSACTION_END:
        return COMMIT if request.payload == _COMMITTED else ABORT
    try:
        return _NAMES.get(Operation(request.operation), "")
    except ValueError:
        return ""


class Conversation:
    """What one connection asks and is answered, as messages, without the sockets; one thread for each way.

    *counting* is held while a fault is counted: other connections have the same faults.
    """

    def __init__(self, faults: Faults, counting: threading.Lock) -> None:
        self._faults = faults
        self._counting = counting
        self._requests = Decoder()
        self._answers = Decoder()
        # Of each request that is under way the error that it is answered with, empty: what the store answers.
        self._errors: deque[str] = deque()

    def ask(self, received: bytes, send: Callable[[bytes], None], wait: Callable[[float], None]) -> None:
        """Take bytes of the program, and send what goes to the store. Raises RemoteProtocolError: they are no requests."""
        self._requests.feed(received)
        while (request := self._requests.next_message()) is not None:
            name = name_of(request)
            with self._counting:
                failure = self._faults.failure(name) if name else 0
                delay_s = self._faults.delay_s([name])
            if delay_s:
                wait(delay_s)
            self._errors.append(errno.errorcode[failure] if failure else "")
            send(encode(*(_in_place_of(request) if failure else request)))

    def answer(self, received: bytes) -> bytes:
        """Take bytes of the store; return what goes to the program. Raises RemoteProtocolError: they are no answers."""
        self._answers.feed(received)
        answers = []
        while (answer := self._answers.next_message()) is not None:
            if answer.operation != Operation.WATCH_EVENT and self._errors and (error := self._errors.popleft()):
                answer = answer._replace(operation=Operation.ERROR, payload=error.encode() + b"\0")
            answers.append(encode(*answer))
        return b"".join(answers)


def _in_place_of(request: Message) -> Message:
    """Make the request that goes to the store in the place of one that fails."""
    if name_of(request) == COMMIT:
        return request._replace(payload=b"F\0")
    return request._replace(operation=Operation.GET_DOMAIN_PATH, payload=b"0\0")


class StoreRelay:
    """A socket of its own, *path*, in front of the one at *store*. Raises OSError: it cannot be made."""

    def __init__(self, store: str, faults: Faults) -> None:
        self._store = store
        self._faults = faults
        directory = Path(mkdtemp(prefix="xbd-xenstore-"))
        self.path: Final = directory / "socket"
        self._listening = socket.socket(socket.AF_UNIX)
        self._counting = threading.Lock()
        self._places = threading.BoundedSemaphore(MAX_CONNECTIONS)
        try:
            self._listening.bind(str(self.path))
            self._listening.listen()
        except OSError:
            self.remove()
            raise

    def start(self) -> None:
        """Serve from now on, as long as this process lives."""
        threading.Thread(target=self._serve, name="store relay", daemon=True).start()

    def remove(self) -> None:
        """Let nobody in any more."""
        self._listening.close()
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
            self.path.parent.rmdir()

    def _serve(self) -> None:
        while self._listening.fileno() >= 0:
            self._places.acquire()
            with ExitStack() as opened:
                try:
                    # Before there is anybody who would have to go for want of it.
                    store = opened.enter_context(socket.socket(socket.AF_UNIX))
                    program = opened.enter_context(self._listening.accept()[0])
                    store.connect(self._store)
                    conversation = Conversation(self._faults, self._counting)
                    _Connection(program, store, conversation, self._places.release).start()
                    opened.pop_all()
                    continue
                except (OSError, RuntimeError):
                    # As where there is no store: the connection is lost with the first request. Or a descriptor, or a
                    # thread, is missing, and may be there again soon.
                    self._places.release()
            time.sleep(PAUSE_S)  # noqa: TID251 - a thread waits


class _Connection:
    """A program's connection and the one that belongs to it at the store; *ended* is called once, in the end."""

    def __init__(
        self, program: socket.socket, store: socket.socket, conversation: Conversation, ended: Callable[[], None]
    ) -> None:
        self._program, self._store = program, store
        self._conversation = conversation
        self._ended = ended

    def start(self) -> None:
        """Carry both ways."""
        asking = threading.Thread(target=self._carry, args=(self._program, self._ask), daemon=True)
        asking.start()
        threading.Thread(target=self._finish, args=(asking,), daemon=True).start()

    def _finish(self, asking: threading.Thread) -> None:
        self._carry(self._store, self._answer)
        asking.join()
        self._program.close()
        self._store.close()
        self._ended()

    def _ask(self, received: bytes) -> None:
        self._conversation.ask(received, self._store.sendall, time.sleep)  # noqa: TID251 - a thread waits

    def _answer(self, received: bytes) -> None:
        self._program.sendall(self._conversation.answer(received))

    def _carry(self, source: socket.socket, take: Callable[[bytes], None]) -> None:
        """Carry until either side is gone or makes no sense; then both end."""
        with suppress(OSError, RemoteProtocolError):
            while received := source.recv(_RECEIVE_BYTES):
                take(received)
        for end in (self._program, self._store):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
