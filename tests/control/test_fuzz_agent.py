"""An agent under fire: a daemon that talks nonsense gets `RemoteProtocolError` or `HypercallError`, nothing else.

The agent trusts its daemon with its memory, not with its life: whoever sits behind the socket, the
agent ends with an error that can be told.
"""

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.control.link import new_agent
from tests.garbage import GARBAGE, NO_MESSAGES, VALUES, nearly_right, pack, right_values, spoilt
from xbd.abi import BootInfo
from xbd.control.agent import Agent
from xbd.errors import HypercallError, RemoteProtocolError
from xbd.protocol.commands import boot_to_wire
from xbd.protocol.guest_methods import DOMAIN_NOTIFICATIONS

GFNS = 2048
RIGHT = right_values([3], ["web"], GFNS)
TOLD: dict[str, object] = {
    **boot_to_wire(BootInfo(3, "web", GFNS, np.array([[0, 1024]]), 1024, GFNS)),
    "resumed": False,
    "guest": {},
    "mode": "normal",
    "shutdown": False,
    "paused": False,
}
WELCOME = pack([1, 0, None, TOLD])

KINDS = {kind: told for kind, told in DOMAIN_NOTIFICATIONS.items() if told.params}
NOTICES = nearly_right(KINDS, RIGHT).map(lambda notice: pack([2, *notice]))
ANSWERS = st.builds(
    lambda msgid, result: pack([1, msgid, None, result]),
    st.integers(0, 9),
    st.tuples(st.integers(0, 600), st.sampled_from([None, "BUDGET", "ENOMEM", "EEXIST"])).map(list) | VALUES,
)
ERRORS = st.builds(lambda msgid, error: pack([1, msgid, error, None]), st.integers(0, 9), VALUES)
WRONG_WELCOMES = st.builds(
    lambda name, value: pack([1, 0, None, TOLD | {name: value}]),
    st.sampled_from(sorted(TOLD)),
    VALUES | st.integers(0, 5000) | st.dictionaries(st.sampled_from(["driver", "workload", "verify", "seed"]), VALUES),
)
ANYTHING = NOTICES | ANSWERS | ERRORS | GARBAGE | NO_MESSAGES | WRONG_WELCOMES | spoilt(NOTICES | ANSWERS)


def told(agent: Agent, stream: list[bytes]) -> bool:
    """Tell an agent all of it, letting time go by; says whether it is still content."""
    now = 0.0
    try:
        agent.connected()
        for piece in stream:
            agent.receive(piece, now)
            now += 3.0
            agent.tick(now)
    except (RemoteProtocolError, HypercallError):
        return False
    return True


@pytest.mark.slow
@settings(max_examples=120)
@given(st.lists(ANYTHING, max_size=4))
def test_garbage_instead_of_a_welcome(pieces: list[bytes]) -> None:
    """Whole or byte by byte, an agent that has not booted goes on waiting or ends its connection."""
    stream = b"".join(pieces)
    whole = told(new_agent(), [stream])

    assert told(new_agent(), [stream[at : at + 1] for at in range(len(stream))]) == whole


@pytest.mark.slow
@settings(max_examples=80)
@given(st.lists(ANYTHING, max_size=6), st.lists(ANYTHING, max_size=2))
def test_garbage_to_a_guest_that_runs(pieces: list[bytes], later: list[bytes]) -> None:
    """After a welcome: notices, answers to what was not asked, garbage; then another connection, and more of it."""
    agent = new_agent()
    told(agent, [WELCOME, *pieces])
    told(agent, [*later])


@pytest.mark.slow
@settings(max_examples=200)
@given(WRONG_WELCOMES | spoilt(st.just(WELCOME)))
def test_a_welcome_with_something_wrong(welcome: bytes) -> None:
    """A guest is built from what makes sense, or not at all."""
    agent = new_agent()
    if told(agent, [welcome, pack([2, "target", [{"number": 1, "pages": 512}]])]):
        with suppress(RemoteProtocolError, HypercallError):
            agent.receive(pack([1, 1, None, [512, None]]), 10.0)


def test_a_notice_before_the_welcome_is_refused() -> None:
    """There is no guest yet that could heed it."""
    agent = new_agent()
    agent.connected()

    with pytest.raises(RemoteProtocolError, match="before hello's answer"):
        agent.receive(pack([2, "messages", [{"number": 1}]]), 0.0)


@pytest.mark.parametrize("runs", [[[512, 1024], [0, 512]], [[0, GFNS + 1]], [[-1, 512]], [[512, 0]]])
def test_a_map_that_no_domain_has_is_refused(runs: list[list[int]]) -> None:
    """Runs that do not rise, or leave the domain."""
    agent = new_agent()
    agent.connected()
    told = TOLD | {"runs": np.array(runs, dtype="<i8").tobytes()}

    with pytest.raises(RemoteProtocolError, match="out of order"):
        agent.receive(pack([1, 0, None, told]), 0.0)
