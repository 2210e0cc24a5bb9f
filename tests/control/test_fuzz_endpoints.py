"""Endpoints under fire: whatever a peer sends, it is answered or dropped, and nobody else notices.

Each stream is fed to two hosts that are alike, to one whole, to the other byte by byte: answers and
hosts must be the same. A neighbour has stored words, and lets the attacker read two of its pages; when
all is over its words are what they were, it goes on, and the audit is clean.
"""

from collections.abc import Callable, Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.garbage import GARBAGE, NO_MESSAGES, VALUES, nearly_right, pack, right_values, spoilt
from tests.peer import DirectPeer, agent, create, small_host, toolstack
from xbd.control.balancer import Balancer, BalancerEndpoint
from xbd.control.endpoint import DomainEndpoint, Endpoint, ToolstackEndpoint
from xbd.policy.model import Settings
from xbd.protocol.autoballoon_methods import AUTOBALLOON_METHODS
from xbd.protocol.codec import Notification, Response
from xbd.protocol.guest_methods import DOMAIN_METHODS, GUEST_NOTIFICATIONS
from xbd.protocol.methods import TOOLSTACK_METHODS

ATTACKER, NEIGHBOUR = 1, 2
GFNS = 4096
SHARED = (3, 4)
RIGHT = right_values([0, ATTACKER, NEIGHBOUR, 7], ["attacker", "neighbour"], GFNS)
# What the toolstack may do it may; these tests want the neighbour to live.
TOOLSTACK_RIGHT = right_values([0, ATTACKER, 7], ["attacker", "nobody"], GFNS)
WORDS = np.arange(1000, 1000 + GFNS, dtype="<u8")

Call = tuple[str, object]
# A stream in the making: bytes as they are, or a call that gets the message id that is due.
Part = bytes | Call


def bases(*gfns: int) -> bytes:
    """Write gfns as they travel."""
    return np.array(gfns, dtype="<u8").tobytes()


class Scene:
    """A host, an attacker's domain, and a neighbour with words in its memory and two pages granted."""

    def __init__(self) -> None:
        self.host = small_host()
        assert create(self.host, "attacker") == ATTACKER
        assert create(self.host, "neighbour") == NEIGHBOUR
        self.neighbour = agent(self.host, NEIGHBOUR)
        assert self.neighbour.call("store", gfns=bases(*range(2048)), words=WORDS[:2048].tobytes())[0] == 2048
        granted = self.neighbour.call("grant", gfns=bases(*SHARED), to=ATTACKER, readonly=True)
        assert granted[:2] == [2, None]
        self.refs: bytes = granted[2]

    def check(self) -> None:
        """Look whether the neighbour and the host are as they should be."""
        done, stop, words = self.neighbour.call("load", gfns=bases(*range(2048)))
        assert (done, stop) == (2048, None)
        assert words == WORDS[:2048].tobytes()
        assert self.neighbour.call("populate", gfns=bases(2048)) == [1, None]
        assert self.host.audit() == []

    def state(self) -> tuple[object, ...]:
        """Say how the host is, for a comparison."""
        machine = self.host.machine
        domains = [machine.domain_info(domid) for domid in machine.domains()]
        return machine.statistics(), domains, self.host.events.since(0)


def assembled(parts: Iterable[Part], msgid: int) -> bytes:
    """Put a stream together; calls are numbered from *msgid* on."""
    stream = b""
    for part in parts:
        if isinstance(part, bytes):
            stream += part
        else:
            stream += pack([0, msgid, *part])
            msgid += 1
    return stream


def hostile(calls: SearchStrategy[Call], *others: SearchStrategy[bytes]) -> SearchStrategy[list[Part]]:
    """Draw mostly calls in turn, so that some come far, and now and then something else."""
    wrong = st.one_of(
        GARBAGE, NO_MESSAGES, spoilt(st.builds(lambda call, msgid: pack([0, msgid, *call]), calls, st.integers(0, 6)))
    )
    part: SearchStrategy[Part] = st.one_of([calls] * 12 + [wrong, *others])
    return st.lists(part, min_size=1, max_size=7)


def run(endpoint: Endpoint, pieces: Iterable[bytes]) -> bytes:
    """Feed a peer's bytes until it has been dropped; returns all that it is told."""
    told = b""
    for piece in pieces:
        endpoint.feed(piece)
        while endpoint.more and endpoint.dropped is None:
            told += endpoint.turn()
        told += endpoint.take_pending()
        if endpoint.dropped is not None:
            break
    endpoint.closed()
    return told


def bytewise(stream: bytes) -> list[bytes]:
    """Cut a stream into single bytes."""
    return [stream[at : at + 1] for at in range(len(stream))]


def attack(make: Callable[[Scene], Endpoint], stream: bytes, *, check: bool = True) -> None:
    """Attack two hosts alike, whole and byte by byte; what comes back is messages, and the same."""
    told, states = [], []
    for pieces in ([stream] if stream else [], bytewise(stream)):
        scene = Scene()
        endpoint = make(scene)
        told.append(run(endpoint, pieces))
        for message in DirectPeer(endpoint).messages(told[-1]):
            assert isinstance(message, Response | Notification)
        if check:
            scene.check()
        assert scene.host.audit() == []
        assert toolstack(scene.host).call("list")["domains"]
        states.append(scene.state())
    assert told[0].count(b"dropped") == told[1].count(b"dropped")
    assert states[0] == states[1]
    # Unasked notices come between answers, at other places; answers alone must be the same.
    answers = [[repr(m) for m in DirectPeer(endpoint).messages(part) if isinstance(m, Response)] for part in told]
    assert answers[0] == answers[1]


GUEST_CALLS = nearly_right(DOMAIN_METHODS, RIGHT) | st.tuples(st.sampled_from(sorted(DOMAIN_METHODS)), VALUES)
REPORTS = st.builds(lambda kind, params: pack([2, kind, params]), st.sampled_from(sorted(GUEST_NOTIFICATIONS)), VALUES)
HELLO: Call = ("hello", [{"version": 1, "session": "a"}])


@pytest.mark.slow
@settings(max_examples=100)
@given(hostile(GUEST_CALLS, REPORTS))
def test_a_guest_with_a_session(parts: list[Part]) -> None:
    """Calls in turn with arbitrary and nearly right parameters, reports, garbage."""
    attack(lambda scene: DomainEndpoint(scene.host, ATTACKER, lambda: None), assembled([HELLO, *parts], 0))


@pytest.mark.slow
@settings(max_examples=60)
@given(hostile(GUEST_CALLS, REPORTS), st.integers(0, 3))
def test_a_guest_that_may_not_have_said_hello(parts: list[Part], msgid: int) -> None:
    """Nothing is done for it before it has."""
    attack(lambda scene: DomainEndpoint(scene.host, ATTACKER, lambda: None), assembled(parts, msgid))


@pytest.mark.slow
@settings(max_examples=60)
@given(st.lists(GUEST_CALLS, min_size=1, max_size=4), st.lists(GARBAGE, max_size=2), st.integers(0, 6))
def test_a_guest_that_resumes_and_repeats(calls: list[Call], garbage: list[bytes], seen: int) -> None:
    """Connections that come and go, with repeats and gaps of what was said before, harm nobody but itself."""
    scene = Scene()
    stream = assembled([HELLO, *calls], 0)
    for last_seen in (None, seen, None):
        hello = pack([0, 9, "hello", [{"version": 1, "session": "a", "last_seen": last_seen}]])
        run(DomainEndpoint(scene.host, ATTACKER, lambda: None), [hello + stream + b"".join(garbage)])
    scene.check()


TOOLSTACK_CALLS = nearly_right(TOOLSTACK_METHODS, TOOLSTACK_RIGHT) | st.tuples(
    st.sampled_from(sorted(TOOLSTACK_METHODS)), VALUES
)
GREETING: Call = ("hello", [{"version": 1}])


@pytest.mark.slow
@settings(max_examples=60)
@given(hostile(TOOLSTACK_CALLS))
def test_a_toolstack(parts: list[Part]) -> None:
    """It may end domains, but not the daemon, whatever it says."""
    attack(lambda scene: ToolstackEndpoint(scene.host, lambda: None), assembled([GREETING, *parts], 0))


BALANCER_CALLS = nearly_right(AUTOBALLOON_METHODS, RIGHT) | st.tuples(
    st.sampled_from([*sorted(AUTOBALLOON_METHODS), "hello", "list"]), VALUES
)


@pytest.mark.slow
@settings(max_examples=100)
@given(hostile(BALANCER_CALLS))
def test_a_client_of_the_autoballoon_daemon(parts: list[Part]) -> None:
    """What it reserved is let go of with its connection."""
    stream = assembled([GREETING, *parts], 0)
    told = []
    for pieces in ([stream], bytewise(stream)):
        balancer = Balancer(Settings())
        told.append(run(BalancerEndpoint(balancer, lambda: None), pieces))
        assert balancer.state.reservations == ()
    assert told[0] == told[1]


def test_the_attacks_come_far() -> None:
    """A stream of right calls is answered call by call: what the examples build on holds."""
    scene = Scene()
    mapping: Call = (
        "map_grant",
        [{"owner": NEIGHBOUR, "refs": scene.refs, "gfns": bases(3000, 3001), "readonly": True}],
    )
    calls: list[Call] = [
        HELLO,
        mapping,
        ("load", [{"gfns": bases(3000)}]),
        ("store", [{"gfns": bases(3000), "words": bases(7)}]),
    ]
    endpoint = DomainEndpoint(scene.host, ATTACKER, lambda: None)
    answers = DirectPeer(endpoint).messages(run(endpoint, [assembled(calls, 0)]))

    assert [answer.untrusted_result for answer in answers[1:] if isinstance(answer, Response)] == [
        [2, None],
        [1, None, bases(1003)],
        [0, "EACCES"],
    ]
    scene.check()
