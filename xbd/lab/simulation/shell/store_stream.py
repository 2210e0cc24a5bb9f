"""A client's end of the XenStore, on a trio stream."""

from typing import Final

import trio

from xbd.xenstore.codec import Decoder, Message, Operation, encode

_RECEIVE_BYTES: Final = 65536


async def ask(
    stream: trio.SocketStream, decoder: Decoder, operation: Operation, payload: bytes, *, request: int
) -> Message:
    """Ask one thing, as *request*; returns what comes next and is no event. Raises OSError, BrokenResourceError: the store is gone."""
    await stream.send_all(encode(operation, request, 0, payload))
    while True:
        while (answer := decoder.next_message()) is None:
            received = await stream.receive_some(_RECEIVE_BYTES)
            if not received:
                raise trio.BrokenResourceError("the XenStore closed the connection")
            decoder.feed(bytes(received))
        if answer.operation != Operation.WATCH_EVENT:
            return answer
