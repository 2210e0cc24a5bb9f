"""The client library for tasks: one connection to a hypervisor's toolstack socket, any number of calls at once.

    async with open_client(path) as client:
        for domain in await client.list():
            await client.set_target(domain.domid, domain.static_max_pages // 2)

Calls may be made from any number of tasks; each waits for its own answer. A refusal is raised as the
`HypercallError` that the daemon raised, the final loss of the connection as `PeerLost`. With `resume=True`
a connection that was lost, or whose daemon restarts with its state, is resumed: see `xbd.protocol.client_session`.
"""

import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from xbd.client.calls import HypervisorMethods
from xbd.client.connection import Connect, Connection
from xbd.client.discovery import daemon_at, explain_connect
from xbd.client.runtime_dir import check_socket_path
from xbd.protocol.toolstack_session import EventQueue, ToolstackSession

__all__ = ["Client", "open_client", "serve_client"]


class Client(HypervisorMethods, Connection):
    """A connection to a hypervisor; made by `open_client`."""

    async def events(self, since: int = 0, *, follow: bool = True) -> AsyncGenerator[dict[str, Any], None]:
        """Iterate over events from number *since*: those that the daemon still keeps, then, if *follow*, new ones.

        No event comes twice; a reader that falls too far behind gets those that the daemon still has.
        One iteration at a time per client.
        """
        queue = self.session.events = EventQueue(since)
        while True:
            queue.take_answer(await self.call("events", queue.ask()))
            while not queue.missed:
                if (event := queue.next()) is not None:
                    yield event
                elif follow:
                    await self.wait_for_events()
                else:
                    return


@asynccontextmanager
async def open_client(path: Path | str, *, resume: bool = False, client: str | None = None) -> AsyncIterator[Client]:
    """Connect to the hypervisor at *path* and say hello.

    Args:
        path: its socket.
        resume: open a session, and resume it when the connection is lost; calls wait meanwhile.
        client: what it calls itself: `xbd explain` says who set a target last.

    Raises:
        NoHypervisor: it cannot be connected to; the sentence says why, and what to do.
        HypercallError: the hypervisor speaks another version.
    """
    path = check_socket_path(Path(path))

    async def connect() -> trio.abc.Stream:
        try:
            return await trio.open_unix_socket(str(path))
        except OSError as error:
            raise explain_connect(path, error) from error

    name = str(uuid.uuid4()) if resume else None
    async with serve_client(connect, f"the {daemon_at(path)[0]} at {path}", name, client=client) as connected:
        yield connected


@asynccontextmanager
async def serve_client(
    connect: Connect, where: str, session: str | None = None, *, client: str | None = None
) -> AsyncIterator[Client]:
    """Run a client on the connection that *connect* makes; the last one is closed in the end.

    Args:
        connect: makes a connection, and the next one of a session that is resumed.
        where: what errors call the other end.
        session: its name, never used before; None: it ends with its connection.
        client: as for `open_client`.
    """
    connection = Client(await connect(), ToolstackSession(where, session, client=client), connect)
    try:
        await connection.greet()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.receive_all)
            yield connection
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # The receiving task reports its errors to the callers, so the only error in the group is the caller's own.
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from group.exceptions[0].__cause__
        raise
    finally:
        await trio.aclose_forcefully(connection.stream)
