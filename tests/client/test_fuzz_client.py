"""The toolstack's client under fire: a daemon that talks nonsense gets an `XbdError`, and no call hangs.

Each call is answered, or the connection ends, whole and byte by byte; what the library hands on is
checked, or is an error that can be told.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.garbage import GARBAGE, NO_MESSAGES, VALUES, pack, spoilt
from xbd.client.client import Client, serve_client
from xbd.errors import XbdError

EVENT = {"number": 1, "event": "created", "domid": 1, "name": "web"}


async def _last_events(client: Client) -> None:
    async for _ in client.events(follow=False):
        pass


CALLS: dict[str, Callable[[Client], Awaitable[object]]] = {
    "list": lambda client: client.list(),
    "info": lambda client: client.info(1),
    "host": lambda client: client.host(),
    "create": lambda client: client.create("web", max_pages=512, target_pages=512),
    "destroy": lambda client: client.destroy(1),
    "claim": lambda client: client.claim(1, 0),
    "audit": lambda client: client.audit(),
    "events": _last_events,
}
KEYS = st.sampled_from(["domains", "domid", "zombie_pages", "claimed_pages", "violations", "events"])
RESULTS = VALUES | st.dictionaries(KEYS, VALUES | st.lists(VALUES | st.just(EVENT), max_size=3), max_size=3)
NOTICES = st.builds(lambda kind, told: pack([2, kind, [told]]), st.sampled_from(["event", "dropped", "new"]), VALUES)
GREETING = pack([1, 0, None, {"version": 1, "host": "h"}])


async def converse(call: Callable[[Client], Awaitable[object]], *answers: Sequence[bytes]) -> None:
    """Answer hello, and the call if it comes to that, in these pieces, then leave; only an XbdError may come of it."""
    ours, theirs = trio.testing.memory_stream_pair()

    async def connect() -> trio.abc.Stream:
        return ours

    async def daemon() -> None:
        # A client that has heard nonsense hangs up in the middle of it.
        with suppress(trio.BrokenResourceError):
            for pieces in answers:
                await theirs.receive_some()
                for piece in pieces:
                    await theirs.send_all(piece)
        await theirs.aclose()

    with trio.fail_after(5):  # nothing of this waits for anything but itself
        async with trio.open_nursery() as nursery:
            nursery.start_soon(daemon)
            with suppress(XbdError):
                async with serve_client(connect, "the test") as client:
                    await call(client)
            nursery.cancel_scope.cancel()


@pytest.mark.slow
@settings(max_examples=150)
@given(st.sampled_from(sorted(CALLS)), RESULTS, st.none() | VALUES, st.lists(NOTICES, max_size=2))
def test_any_answer_at_all(method: str, result: object, error: object, notices: list[bytes]) -> None:
    """Well-formed answers of any shape, between notices of any shape, whole and byte by byte."""
    stream = b"".join(notices) + pack([1, 1, error, result])
    for answer in ([stream], [stream[at : at + 1] for at in range(len(stream))]):
        trio.run(converse, CALLS[method], [GREETING], answer)


@pytest.mark.slow
@settings(max_examples=100)
@given(st.lists(GARBAGE | NO_MESSAGES | NOTICES | spoilt(st.just(GREETING)), max_size=4))
def test_garbage_instead_of_a_greeting_or_an_answer(parts: list[bytes]) -> None:
    """Whatever comes instead."""
    stream = b"".join(parts)
    trio.run(converse, CALLS["host"], [GREETING], [stream])
    trio.run(converse, CALLS["host"], [stream])


def test_a_right_answer_comes_through() -> None:
    """What the examples build on holds: hello is answered, and then the call."""
    heard: list[object] = []

    async def ask(client: Client) -> None:
        heard.append(await client.claim(1, 0))

    answer = pack([1, 1, None, {"claimed_pages": 7}])
    trio.run(converse, ask, [GREETING], [answer[:5], answer[5:]])

    assert heard == [7]
