"""What a guest can do with its own socket is bounded, and others do not notice: each bound by what happens at it.

Real sockets and a real daemon, on a clock of the tests' own.
"""

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from tests.peer import HOST_SUPERFRAMES, DirectPeer, StreamPeer, agent, connect, create, small_host, toolstack
from xbd import shapes
from xbd.abi import MAX_WORDS, SENDER_WORDS
from xbd.client.runtime_dir import domain_socket, hypervisor_socket
from xbd.control import domain_record, endpoint, rate_limit
from xbd.control.controller import Controller
from xbd.control.endpoint import DomainEndpoint
from xbd.daemons import domain_sockets, hypervisor
from xbd.daemons.runtime import listener, peers, sockets
from xbd.machine import Machine
from xbd.protocol import codec, session
from xbd.protocol.codec import Notification


@asynccontextmanager
async def daemon(runtime_dir: Path) -> AsyncIterator[Controller]:
    """Run a daemon with an attacker's domain 1 and an honest one's 2; it must end with a clean audit."""
    stop = trio.Event()
    async with trio.open_nursery() as nursery:

        async def run(task_status: trio.TaskStatus[Controller] = trio.TASK_STATUS_IGNORED) -> None:
            machine = Machine(HOST_SUPERFRAMES)
            assert not await hypervisor.serve(machine, runtime_dir, stop=stop, task_status=task_status)

        host = await nursery.start(run)
        assert (create(host, "attacker"), create(host, "honest")) == (1, 2)
        yield host
        stop.set()


async def greeted(runtime_dir: Path, domid: int, name: str = "a") -> StreamPeer:
    """Connect an agent and say hello."""
    peer = await connect(domain_socket(runtime_dir, domid))
    assert (await peer.call("hello", version=1, session=name, last_seen=None))["domid"] == domid
    return peer


async def reason_of_the_end(peer: StreamPeer) -> str:
    """Read until the connection ends; returns what the peer was told last, if anything."""
    told = ""
    while (message := await peer.next_message()) is not None:
        if isinstance(message, Notification) and message.method == "dropped":
            match message.untrusted_params:
                case [{"reason": str(told)}]:
                    pass
    return told


async def test_garbage_in_a_loop_is_paced_and_logged_now_and_then(tmp_path: Path, autojump_clock: MockClock) -> None:
    """After some connections at once there is one each two seconds, of which a line a minute is logged."""
    del autojump_clock
    extra = 90
    with capture_logs() as lines:
        async with daemon(tmp_path):
            began = trio.current_time()
            for _ in range(rate_limit.CONNECTS_AT_ONCE + extra):
                peer = await connect(domain_socket(tmp_path, 1))
                await peer.stream.send_all(b"\xc1")
                assert "not a MessagePack message" in await reason_of_the_end(peer)
                await peer.stream.aclose()
            took_s = trio.current_time() - began

    assert took_s == pytest.approx(extra / rate_limit.CONNECTS_PER_S)
    dropped = [line for line in lines if line["event"] == "peer_dropped"]
    assert len(dropped) == rate_limit.LINES_AT_ONCE + int(took_s * rate_limit.LINES_PER_S)
    assert {line["socket"] for line in dropped} == {str(domain_socket(tmp_path, 1))}
    assert dropped[-1]["suppressed"] > 0


async def test_reboots_in_a_loop_are_paced_and_so_are_their_events(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Hello under a new name each time: two events for each connection, and the connections are rationed."""
    del autojump_clock
    connections = rate_limit.CONNECTS_AT_ONCE + 10
    async with daemon(tmp_path) as host:
        before, began = host.events.next_number, trio.current_time()
        for n in range(connections):
            await (await greeted(tmp_path, 1, f"s{n}")).stream.aclose()
            await trio.testing.wait_all_tasks_blocked()
        assert trio.current_time() - began == pytest.approx(10 / rate_limit.CONNECTS_PER_S)
        assert host.events.next_number - before == 2 * connections


async def test_who_connects_all_the_time_starves_nobody(tmp_path: Path, autojump_clock: MockClock) -> None:
    """While one domain's socket is besieged, another's agent and the toolstack are let in at once."""
    del autojump_clock
    async with daemon(tmp_path) as host:
        began = trio.current_time()
        besiegers = [await connect(domain_socket(tmp_path, 1)) for _ in range(sockets.BACKLOG)]
        honest = await greeted(tmp_path, 2)
        assert await honest.call("decrease", gfns=bytes(8)) == [1, None]
        operator = await connect(hypervisor_socket(tmp_path))
        await operator.call("hello", version=1)
        assert len((await operator.call("list"))["domains"]) == 2
        assert trio.current_time() == began
        for besieger in besiegers:
            await besieger.stream.aclose()
        assert host.audit() == []


@pytest.mark.parametrize("said", [b"", b"\xc1"])
async def test_dead_connects_take_nothing_of_an_agent_s_ration(
    tmp_path: Path, autojump_clock: MockClock, said: bytes
) -> None:
    """A full queue of peers that are gone already: whatever they said, the agent behind them is let in at once."""
    del autojump_clock
    async with daemon(tmp_path):
        began = trio.current_time()
        for _ in range(sockets.BACKLOG + 17):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
                dead.settimeout(0)
                if dead.connect_ex(str(domain_socket(tmp_path, 1))):
                    # The queue is full: let the daemon have a turn.
                    await trio.testing.wait_all_tasks_blocked()
                elif said:
                    dead.send(said)
        await greeted(tmp_path, 1)
        assert trio.current_time() - began < 1


async def test_dead_connects_in_a_loop_are_paced(tmp_path: Path, autojump_clock: MockClock) -> None:
    """After a queue's worth of them, so many a second are looked at: they cost the daemon little."""
    del autojump_clock
    extra = 400
    async with daemon(tmp_path):
        began = trio.current_time()
        for _ in range(rate_limit.DEAD_AT_ONCE + extra):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
                dead.settimeout(0)
                assert dead.connect_ex(str(domain_socket(tmp_path, 1))) == 0
            await trio.testing.wait_all_tasks_blocked()
        await greeted(tmp_path, 1)
        assert trio.current_time() - began == pytest.approx(extra / rate_limit.DEAD_PER_S, abs=1)


@pytest.mark.parametrize("says", ["nothing", "hello", "session", "events"])
async def test_idle_clients_hold_no_places(tmp_path: Path, autojump_clock: MockClock, says: str) -> None:
    """Whatever is kept for them: the next client is answered, and the longest idle is told why it goes."""
    del autojump_clock
    path = hypervisor_socket(tmp_path)
    async with daemon(tmp_path), AsyncExitStack() as held:
        idle = []
        for number in range(domain_sockets.MAX_TOOLSTACK_PEERS):
            idle.append(await connect(path))
            held.push_async_callback(idle[-1].stream.aclose)
            if says != "nothing":
                await idle[-1].call("hello", version=1, **({"session": f"s{number}"} if says == "session" else {}))
            if says == "events":
                await idle[-1].call("events", since=0)
            await trio.sleep(0.001)
        began = trio.current_time()
        operator = await connect(path)
        held.push_async_callback(operator.stream.aclose)
        await operator.call("hello", version=1, session="the operator's")
        assert len((await operator.call("list"))["domains"]) == 2
        assert trio.current_time() - began < 2 * listener.IDLE_S
        assert "it was idle" in await reason_of_the_end(idle[0])
        if says != "nothing":
            assert (await idle[1].call("list"))["domains"]


async def test_peers_that_never_say_hello_lose_their_places(tmp_path: Path, autojump_clock: MockClock) -> None:
    """All places taken by silence: they are told why they go, the first to the agent that comes, the others in time."""
    del autojump_clock
    async with daemon(tmp_path):
        began = trio.current_time()
        silent = [await connect(domain_socket(tmp_path, 1)) for _ in range(domain_sockets.MAX_DOMAIN_PEERS)]
        await trio.testing.wait_all_tasks_blocked()
        await greeted(tmp_path, 1)
        assert trio.current_time() == began + listener.IDLE_S
        reasons = [await reason_of_the_end(peer) for peer in silent]
        assert sum("another one came" in reason for reason in reasons) == 1
        assert reasons.count(f"no hello within {peers.HELLO_PATIENCE_S:g} s") == len(silent) - 1
        assert trio.current_time() == began + peers.HELLO_PATIENCE_S


async def test_half_a_hello_is_no_hello(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Nor is a hello that is refused; a connection that was accepted stays however long it says nothing."""
    del autojump_clock
    async with daemon(tmp_path) as host:
        honest, half = await greeted(tmp_path, 1), await connect(domain_socket(tmp_path, 1))
        await half.stream.send_all(half.pack("hello", {"version": 1, "session": "b"})[:-1])
        refused = await connect(domain_socket(tmp_path, 1))
        assert (await refused.call("hello", version=1, session="b"))["errno"] == "EBUSY"
        for peer in (half, refused):
            assert "no hello" in await reason_of_the_end(peer)
        await trio.sleep(1000)
        assert await honest.call("decrease", gfns=bytes(8)) == [1, None]
        assert host.record(1).agent


@pytest.mark.parametrize("admitted", [False, True])
async def test_half_a_message_is_held_up_to_the_limit(
    tmp_path: Path, autojump_clock: MockClock, *, admitted: bool
) -> None:
    """Whoever promises 4 GiB is dropped at 1 MiB, before hello at 4 KiB, and holds no more meanwhile."""
    del autojump_clock
    limit = codec.MAX_CALL_BYTES if admitted else codec.MAX_HELLO_BYTES
    async with daemon(tmp_path):
        peer = await greeted(tmp_path, 1) if admitted else await connect(domain_socket(tmp_path, 1))
        await peer.stream.send_all(b"\x94\x00\x01\xa5store\xc6\xff\xff\xff\xff" + bytes(limit - 100))
        await trio.testing.wait_all_tasks_blocked()
        honest = await greeted(tmp_path, 2)
        assert await honest.call("load", gfns=bytes(8)) == [1, None, bytes(8)]
        await peer.stream.send_all(bytes(200))
        assert await reason_of_the_end(peer) == f"a message of more than {limit} bytes"


async def test_who_does_not_read_is_done_nothing_for_and_dropped(tmp_path: Path, autojump_clock: MockClock) -> None:
    """One answer waits; the calls behind it are not executed; after a minute the connection goes, the session stays."""
    del autojump_clock
    async with daemon(tmp_path) as host:
        peer = await greeted(tmp_path, 1)
        gfns = np.arange(2048, dtype="<u8").tobytes()
        calls = 200  # of which each answer has 16 KiB: far more than a socket holds
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_quietly, peer, b"".join(peer.pack("load", {"gfns": gfns}) for _ in range(calls)))
            await trio.testing.wait_all_tasks_blocked()
            began, answered = trio.current_time(), host.record(1).session.next_msgid
            assert 1 < answered < calls
            honest = await greeted(tmp_path, 2)
            assert await honest.call("decrease", gfns=bytes(8)) == [1, None]
            await trio.sleep(peers.DOMAIN_PATIENCE_S - 1)
            assert host.record(1).agent
            assert host.record(1).session.next_msgid == answered
            await trio.sleep(2)
            assert not host.record(1).agent
            assert trio.current_time() == began + peers.DOMAIN_PATIENCE_S + 1
            nursery.cancel_scope.cancel()
        again = await connect(domain_socket(tmp_path, 1))
        told = await again.call("hello", version=1, session="a", last_seen=answered - 1)
        assert told["resumed"] is True


async def send_quietly(peer: StreamPeer, stream: bytes) -> None:
    """Send for as long as somebody reads."""
    try:
        await peer.stream.send_all(stream)
    except trio.BrokenResourceError:
        return


# -- what needs no socket


def test_refused_hellos_are_counted() -> None:
    """A connection may try a few times; then it is dropped, and the agent that is there goes on."""
    host = small_host()
    domid = create(host)
    honest, second = agent(host, domid), DirectPeer(DomainEndpoint(host, domid, lambda: None))
    for _ in range(endpoint.MAX_REFUSED_HELLOS):
        assert second.call("hello", version=1, session="b", last_seen=None)["errno"] == "EBUSY"
    second.send(second.pack("hello", {"version": 1, "session": "b"}))

    assert "hellos refused" in str(second.endpoint.dropped)
    assert honest.call("decrease", gfns=bytes(8)) == [1, None]


@pytest.mark.parametrize(
    "report",
    [
        {f"{n:03}" + "k" * 1000: "v" * 1000 for n in range(shapes.MAX_MAP_ENTRIES)},
        {"chars": "\N{GRINNING FACE}" * shapes.MAX_TEXT_CHARS, "more": 1},
        {str(n): "x" * 50 for n in range(90)},
    ],
)
def test_a_report_of_any_length_is_no_report(report: dict[str, object]) -> None:
    """`list` answers all domains' reports at once, so each is short: 4 KiB as it is written."""
    host = small_host()
    peer = agent(host, create(host))
    peer.send(codec.encode_notification("report", {"current_pages": 7}))
    peer.send(codec.encode_notification("report", report))

    assert f"at most {shapes.MAX_REPORT_BYTES}" in getattr(peer.endpoint.dropped, "hint", "")
    (told,) = toolstack(host).call("list")["domains"]
    assert told["report"] == {"current_pages": 7}


def test_reports_and_events_of_a_guest_that_reports_all_the_time() -> None:
    """The latest report is kept, and none is an event."""
    host = small_host()
    domid = create(host)
    peer = agent(host, domid)
    before = host.events.next_number
    for n in range(2000):
        peer.send(codec.encode_notification("report", {"current_pages": n}))

    assert host.record(domid).report == {"current_pages": 1999}
    assert host.events.next_number == before


def test_answers_are_kept_for_the_window_alone() -> None:
    """However many calls were made, the last eight answers are kept, each of 512 KiB at most."""
    host = small_host()
    domid = create(host)
    peer = agent(host, domid)
    for _ in range(30):
        done, stop, words = peer.call("load", gfns=np.arange(2048, dtype="<u8").tobytes())
        assert (done, stop, len(words)) == (2048, None, 8 * 2048)
    kept = host.record(domid).session._answers

    assert len(kept) == session.WINDOW_ANSWERS
    assert max(len(answer) for answer in kept) <= 8 * MAX_WORDS + 64


def test_messages_in_a_loop_fill_their_sender_s_share_alone() -> None:
    """The attacker is told EAGAIN; the receiver got one hint, and others are still heard."""
    host = small_host()
    sender, receiver, other = (create(host, name) for name in ("attacker", "receiver", "other"))
    attacker, honest, third = (agent(host, domid) for domid in (sender, receiver, other))
    honest.pending()
    answers = [attacker.call("send", to=receiver, words=bytes(8)) for _ in range(SENDER_WORDS)]

    assert answers.count([1, None]) == SENDER_WORDS // 2
    assert answers[-1] == [0, "EAGAIN"]
    assert [notice.method for notice in honest.pending() if isinstance(notice, Notification)] == ["messages"]
    assert third.call("send", to=receiver, words=bytes(8)) == [1, None]


def test_who_waits_to_be_let_in_has_not_crashed() -> None:
    """An agent that has used up its connections comes in again before its guest is taken for dead."""
    assert 2 / rate_limit.CONNECTS_PER_S < domain_record.CRASHED_AFTER_S


def test_every_place_of_a_domain_has_its_descriptor() -> None:
    """What guests can hold open is counted when the daemon starts, so that none takes another's."""
    assert 1 + domain_sockets.MAX_DOMAIN_PEERS == sockets.DESCRIPTORS_PER_DOMAIN
    assert domain_sockets.MAX_TOOLSTACK_PEERS < sockets.DESCRIPTORS_APART
