"""The connections of `open_client` in a simulation: each can be cut in the middle of a send or a receive."""

from collections.abc import Awaitable, Callable

import trio

from xbd.lab.simulation.shell.faulty_calls import FaultyCalls

Connect = Callable[[str], Awaitable[trio.SocketStream]]


class CutStream(trio.abc.Stream):
    """A connection that is cut when the seed says so; of what was to be sent a half may have gone out."""

    def __init__(self, stream: trio.SocketStream, calls: FaultyCalls) -> None:
        self._stream = stream
        self._calls = calls

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all, or a half and then nothing more. Raises BrokenResourceError."""
        if await self._is_cut():
            with memoryview(data) as whole:
                await self._stream.send_all(whole[: len(whole) // 2])
            raise trio.BrokenResourceError("the connection was cut")
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait as the connection does."""
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive, unless the connection was cut. Raises BrokenResourceError."""
        received = await self._stream.receive_some(max_bytes)
        if await self._is_cut():
            raise trio.BrokenResourceError("the connection was cut")
        return received

    async def _is_cut(self) -> bool:
        try:
            return self._calls.strike_client()
        except OSError as error:
            raise trio.BrokenResourceError("the connection is gone") from error

    async def aclose(self) -> None:
        """Close it."""
        await self._stream.aclose()


def connect_through(calls: FaultyCalls, original: Connect) -> Callable[[str], Awaitable[CutStream]]:
    """Make what stands for trio's *original* `open_unix_socket`: one whose connections can be cut."""

    async def connect(path: str) -> CutStream:
        calls.strike_client()
        return CutStream(await original(path), calls)

    return connect
