"""The client library without tasks: for a script, a notebook, or a thread of a program that has a loop of its own.

    with connect() as client:
        for domain in client.list():
            client.set_target(domain.domid, domain.static_max_pages // 2)

It has the methods of `xbd.client.client.Client`, and raises what that raises; each returns when it is answered. Threads
that call take turns, and one that waits for an event keeps the others waiting: give it a client of its own. Neither trio
nor numpy is needed.
"""

import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xbd.client.calls import Blocking, HypervisorMethods, Request, T, number_in
from xbd.client.discovery import daemon_at, explain_connect, find_socket
from xbd.errors import PeerLost, XbdError
from xbd.protocol.client_session import Answered, Greeted, HelloAgain
from xbd.protocol.codec import MAX_EVENT_NUMBER, RECEIVE_BYTES
from xbd.protocol.toolstack_session import ANSWER_TIMEOUT_S, EventQueue, Outcome, ToolstackSession

# A socket without a time to wait is another kind of socket.
_LEAST_WAIT_S = 0.001


class _Call:
    """A call that was made, and later what it came to."""

    outcome: Outcome | None = None


class BlockingClient(HypervisorMethods, Blocking):
    """A connection to a hypervisor; made by `connect`."""

    def __init__(self, path: Path, session: ToolstackSession[_Call], patience_s: float = ANSWER_TIMEOUT_S) -> None:
        self._patience_s = patience_s
        self._path = path
        self._session = session
        self._turn = threading.Lock()
        self._ended: XbdError | None = None
        self._socket = self._connect()

    def _connect(self) -> socket.socket:
        """Connect. Raises NoHypervisor."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # Where too many wait already, connecting waits, too.
            connection.settimeout(self._patience_s)
            connection.connect(str(self._path))
        except BaseException as error:
            connection.close()
            if isinstance(error, OSError):
                raise explain_connect(self._path, error) from error
            raise
        return connection

    def close(self) -> None:
        """End the connection; does nothing where there is none."""
        self._socket.close()

    def ask(self, request: Request[T]) -> T:
        """Make a call, and return what its answer says.

        Raises:
            HypercallError: the daemon refused; nothing was changed.
            PeerLost: the connection ended, or no answer came in time.
            RemoteProtocolError: the answer makes no sense.
        """
        until_s = time.monotonic() + request.timeout_s
        with self._turn:
            call = _Call()
            try:
                while self._session.in_flight >= self._session.window:
                    # Nobody waits for these any more, but they are answered first.
                    self._continue(until_s)
                self._continue(until_s, self._session.make_call(request.method, request.params, call))
                while call.outcome is None:
                    self._continue(until_s)
            except TimeoutError as error:
                raise self._hangs(request.method, request.timeout_s) from error
        return request.result(call.outcome)

    def events(self, since: int = 0, *, follow: bool = True) -> Iterator[dict[str, Any]]:
        """Iterate over events from number *since*: those that the daemon still keeps, then, if *follow*, new ones.

        No event comes twice; a reader that falls too far behind gets those that the daemon still has.
        One iteration at a time per client.
        """
        self._session.events = EventQueue(since)
        self._session.events.missed = True
        while (event := self._next_event(None, wait=follow)) is not None:
            yield event

    def subscribe(self) -> int:
        """Have events told from now on (`next_event`); returns the number of the next one."""
        number: int = self.ask(Request("events", {"since": MAX_EVENT_NUMBER}, number_in("next")))
        self._session.events = EventQueue(number)
        return number

    def next_event(self, until_s: float) -> dict[str, Any] | None:
        """Return the next event since `subscribe`, or else since now; None: there was none until then (time.monotonic)."""
        if self._session.events is None:
            self.subscribe()
        return self._next_event(until_s, wait=True)

    def _next_event(self, until_s: float | None, *, wait: bool) -> dict[str, Any] | None:
        """Return the next event, which is waited for if need be; None: there is none."""
        queue = self._session.events
        assert queue is not None, "events are awaited that nobody tells"
        while True:
            if queue.missed:
                queue.take_answer(self.call("events", queue.ask()))
            if (event := queue.next()) is not None or not wait:
                return event
            try:
                with self._turn:
                    self._continue(until_s)
            except TimeoutError:
                return None

    def greet(self) -> None:
        """Say hello on a new connection, and send again what has no answer.

        Raises:
            HypercallError, PeerLost, RemoteProtocolError: as for `ask`.
        """
        until_s = self._session.give_up_at_s or time.monotonic() + self._patience_s
        try:
            self._send(self._session.connected(), until_s)
            while not self._session.is_greeted:
                self._receive(until_s)
        except TimeoutError as error:
            raise self._hangs("hello", self._patience_s) from error

    def _hangs(self, method: str, timeout_s: float) -> PeerLost:
        return PeerLost(f"{self._session.where} has not answered `{method}` for {timeout_s:g} s; is it hanging?")

    def _continue(self, until_s: float | None, message: bytes = b"") -> None:
        """Send *message* if there is one, else take what comes next; a session that is lost meanwhile is resumed.

        Raises:
            TimeoutError: nothing came by *until_s*.
            XbdError: the session is over.
        """
        if self._ended is not None:
            raise self._ended
        try:
            if message:
                self._send(message, until_s)
            else:
                self._receive(until_s)
        except XbdError as error:
            self._resume_after(error)

    def _send(self, message: bytes, until_s: float | None) -> None:
        """Send a message whole, or end the connection. Raises PeerLost, TimeoutError."""
        self._wait_until(until_s)
        try:
            self._socket.sendall(message)
        except BaseException as error:
            # A part of it may be on its way, and nothing can follow that.
            self._socket.close()
            if isinstance(error, OSError) and not isinstance(error, TimeoutError):
                raise self._broke(error) from error
            raise

    def _receive(self, until_s: float | None) -> None:
        """Take what comes next. Raises PeerLost, TimeoutError, and what the session raises."""
        self._wait_until(until_s)
        try:
            received = self._socket.recv(RECEIVE_BYTES)
        except TimeoutError:
            raise
        except OSError as error:
            raise self._broke(error) from error
        if not received:
            raise PeerLost(f"{self._session.where} closed the connection; it may have been stopped (see its log)")
        for message in self._session.receive(received):
            match message:
                case Answered(call, outcome):
                    call.outcome = outcome
                case Greeted(_, resumed=True):
                    self._send(self._session.resend(), until_s)
                case HelloAgain(packed):
                    self._send(packed, until_s)

    def _wait_until(self, until_s: float | None) -> None:
        """Set how long the socket waits. Raises PeerLost: it is closed."""
        try:
            self._socket.settimeout(None if until_s is None else max(until_s - time.monotonic(), _LEAST_WAIT_S))
        except OSError as error:
            raise self._broke(error) from error

    def _broke(self, error: OSError) -> PeerLost:
        return PeerLost(f"the connection to {self._session.where} broke ({error.strerror or type(error).__name__})")

    def _resume_after(self, error: XbdError) -> None:
        """Connect again until hello is answered. Raises XbdError: the session is over."""
        while True:
            self._socket.close()
            try:
                pause_s = self._session.lost(error, time.monotonic())
            except XbdError as final:
                self._ended = final
                raise
            time.sleep(pause_s)  # noqa: TID251 - a thread waits
            try:
                self._socket = self._connect()
                self.greet()
            except XbdError as again:
                error = again
            else:
                return


@contextmanager
def connect(
    path: Path | str | None = None,
    *,
    resume: bool = False,
    client: str | None = None,
    patience_s: float = ANSWER_TIMEOUT_S,
) -> Iterator[BlockingClient]:
    """Connect to a hypervisor and say hello.

    Args:
        path: its socket, or the directory of that; None: where `xbd list` looks, too.
        resume: open a session, and resume it when the connection is lost; calls wait meanwhile.
        client: what it calls itself: `xbd explain` says who set a target last.
        patience_s: how long it may take to be let in.

    Raises:
        NoHypervisor: it cannot be connected to; the sentence says why, and what to do.
        ConfigError: the path is too long for a socket's.
        HypercallError: the hypervisor speaks another version.
    """
    found = find_socket(path, os.environ)
    name = str(uuid.uuid4()) if resume else None
    session: ToolstackSession[_Call] = ToolstackSession(f"the {daemon_at(found)[0]} at {found}", name, client=client)
    connection = BlockingClient(found, session, patience_s)
    try:
        connection.greet()
        yield connection
    finally:
        connection.close()
