"""The page's server: its files, whom it answers, what it tells, and that strangers cost it nothing. On real sockets, in process."""

import base64
import re
import socket
from pathlib import Path

import numpy as np
import pytest
import trio
from trio.testing import MockClock

from tests.daemons.test_autoballoon import balanced, guests
from tests.daemons.test_hypervisor import daemon
from tests.daemons.web.serving import serving
from tests.peer import create
from xbd.control.controller import Controller
from xbd.control.frames import Frames, frames_of
from xbd.control.series_read import runs_of
from xbd.daemons.http_server import MAX_REQUEST_BYTES, TAKE_WITHIN_S
from xbd.daemons.runtime.sockets import raise_descriptor_limit
from xbd.daemons.web.feed import LOOK_EVERY_S, SPARK_LOOKS, packed_frames
from xbd.daemons.web.files import page_files
from xbd.daemons.web.guard import Guard
from xbd.daemons.web.server import ASKED_AT_ONCE, MAX_STREAMS


def test_the_page_is_small_and_whole() -> None:
    """All its files have less than 300 KB; each that another one names is there; none names another server, or has style or script inline."""
    files = page_files()
    assert sum(len(file.body) for file in files.values()) < 300_000
    for path, file in files.items():
        text = file.body.decode()
        named = re.findall(r'(?:from "\.|src="|href=")/?([\w.-]+)"', text)
        assert {f"/{name}" for name in named} <= files.keys(), path
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), path
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b| style=|<style| on\w+=\"", text
        ), path
        assert len(text.splitlines()) <= 300, path


async def test_files_have_their_types_and_tags(tmp_path: Path) -> None:
    """A browser that has a file is told so; every answer, an error's too, has the strict policy."""
    async with serving(tmp_path) as server:
        page = await server.ask("/")
        script = await server.ask("/main.js")
        again = await server.ask("/main.js", ("If-None-Match", script.headers["etag"]))
        lacking = await server.ask("/../server.py")

    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    assert (again.status, again.body) == (304, b"")
    assert lacking.status == 404
    for answer in (page, script, again, lacking):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("host", "headers", "status"),
    [
        ("localhost", (), 200),
        ("127.0.0.1:9120", (), 200),
        ("[::1]:80", (), 200),
        ("LOCALHOST.:7", (), 200),
        ("127.8.9.10", (), 200),
        ("here.example", (), 200),
        ("evil.example", (), 421),
        ("localhost.evil.example", (), 421),
        ("127.0.0.1.evil.example", (), 421),
        ("evil@localhost", (), 421),
        ("10.0.0.1", (), 421),
        ("localhost:x", (), 421),
        ("[::1", (), 421),
        ("", (), 421),
        ("localhost:9120", (("Origin", "http://localhost:9120"),), 200),
        ("localhost:9120", (("Origin", "http://localhost:80"),), 403),
        ("localhost", (("Origin", "http://evil.example"),), 403),
        ("localhost", (("Origin", "null"),), 403),
        ("localhost", (("Sec-Fetch-Site", "cross-site"),), 403),
        ("localhost", (("Sec-Fetch-Site", "same-site"),), 403),
        ("localhost", (("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate")), 403),
        ("localhost", (("Sec-Fetch-Site", "same-origin"),), 200),
        ("localhost", (("Sec-Fetch-Site", "none"),), 200),
    ],
)
async def test_only_this_page_and_its_own_names_are_answered(
    tmp_path: Path, host: str, headers: tuple[tuple[str, str], ...], status: int
) -> None:
    """Other names that were made to point here, and other sites' pages, are refused in a sentence."""
    async with serving(tmp_path, guard=Guard(["here.example"])) as server:
        answer = await server.ask("/source", *headers, host=host)

    assert answer.status == status
    assert status == 200 or answer.body.endswith(b"\n")


async def test_a_link_of_another_site_opens_the_page_alone(tmp_path: Path) -> None:
    """A person may follow a link to it; a name that is no name of it stays refused, and two hosts are none."""
    link = (("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate"))
    async with serving(tmp_path) as server:
        assert (await server.ask("/", *link)).status == 200
        assert (await server.ask("/", *link, host="evil.example")).status == 421
        twice = await server.send(b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
        none = await server.send(b"GET / HTTP/1.0\r\n\r\n")
    async with serving(tmp_path, guard=Guard(from_other_machines=True)) as server:
        assert (await server.ask("/", host="10.0.0.1:9120")).status == 200
        assert (await server.ask("/", host="evil.example")).status == 421

    assert twice.startswith(b"HTTP/1.0 400")
    assert none.startswith(b"HTTP/1.0 421")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello", b"405"),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * MAX_REQUEST_BYTES, b"431"),
        (b"GET /superframe?index=-1 HTTP/1.1\r\nHost: localhost\r\n\r\n", b"400"),
        (b"GET /domain?domid=%3Cimg%3E HTTP/1.1\r\nHost: localhost\r\n\r\n", b"400"),
        (b"GET /domain?domid=1 HTTP/1.1\r\nHost: localhost\r\n\r\n", b"503"),
        (b"GET /moment?t=nan HTTP/1.1\r\nHost: localhost\r\n\r\n", b"404"),
    ],
)
async def test_wrong_requests_are_refused(tmp_path: Path, request_bytes: bytes, status: bytes) -> None:
    """Whatever is sent, the answer is an error in a sentence, and the next one gets the page; there is no hypervisor."""
    async with serving(tmp_path) as server:
        assert (await server.send(request_bytes)).startswith(b"HTTP/1.0 " + status)
        assert (await server.ask("/")).status == 200


async def test_strangers_hold_no_place(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Beside a thousand connections that say nothing, or half a request, the page is served; the half ones are dropped."""
    del autojump_clock
    raise_descriptor_limit()
    async with serving(tmp_path) as server:
        held = []
        for number in range(1000):
            stranger = socket.socket(socket.AF_UNIX)
            stranger.setblocking(False)  # noqa: FBT003 - socket's own signature
            held.append(stranger)
            stranger.connect(str(server.path))
            if number % 2:
                stranger.send(b"GET / HTTP/1.1\r\nHo")
            if number % 50 == 0:
                await trio.sleep(0.01)
        assert (await server.ask("/")).status == 200
        await trio.sleep(60)
        assert all(stranger.recv(1) == b"" for stranger in held)
        for stranger in held:
            stranger.close()


async def test_pages_are_bounded_and_leave_nothing_behind(tmp_path: Path) -> None:
    """One more page than may be open is told so, and others are served; when pages are closed there is room again, and nobody is looked at for them."""
    async with serving(tmp_path) as server:
        async with trio.open_nursery() as nursery:

            async def hold(task_status: trio.TaskStatus[None]) -> None:
                async with server.stream(frames=True) as told:
                    await told.next("lost")
                    task_status.started()
                    await trio.sleep_forever()

            for _ in range(MAX_STREAMS):
                await nursery.start(hold)
            refused = await server.ask("/stream?frames=0")
            assert (refused.status, "already" in refused.body.decode()) == (503, True)
            assert (await server.ask("/")).status == 200
            assert server.feed.statistics() == (MAX_STREAMS, MAX_STREAMS)
            nursery.cancel_scope.cancel()
        with trio.fail_after(30):
            while server.feed.statistics() != (0, 0):  # noqa: ASYNC110 - who leaves says so to nobody
                await trio.sleep(0.01)
        async with server.stream() as told:
            assert "cannot be reached" in (await told.next("lost"))["why"]


def filled(host: Controller, count: int) -> None:
    """Make domains of one superpage."""
    for number in range(count):
        host.call("create", {"name": f"web{number}", "max_pages": 512, "target_pages": 512})


async def test_a_page_that_does_not_read_is_dropped(tmp_path: Path, autojump_clock: MockClock) -> None:
    """It gets no more than its socket holds, and then its place goes; another page hears of everything meanwhile."""
    del autojump_clock
    async with daemon(tmp_path) as host, serving(tmp_path) as server:
        with socket.socket(socket.AF_UNIX) as slow:
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            slow.connect(str(server.path))
            async with server.stream() as told:
                await told.next("look")
                slow.send(b"GET /stream?frames=0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
                until_s = trio.current_time() + 3600
                filled(host, 1)
                await told.next("look")
                assert server.feed.statistics()[0] == 2
                host.call("destroy", {"domid": 1})
                while server.feed.statistics()[0] == 2:
                    assert trio.current_time() < until_s
                    filled(host, 4)
                    look = await told.next("look")
                    for row in look["rows"]:
                        host.call("destroy", {"domid": row["domid"]})
                    await told.next("look")
                assert trio.current_time() >= TAKE_WITHIN_S


def unpacked(told: dict[str, str | int], before: Frames) -> Frames:
    """Apply the changes that a stream tells to what was known before."""
    packed, count = base64.b64decode(str(told["packed"])), int(told["count"])
    at = np.frombuffer(packed[: 4 * count], dtype="<u4")
    kind, owner, used = before.kind.copy(), before.owner.copy(), before.used.copy()
    rest = packed[4 * count :]
    kind[at] = np.frombuffer(rest[:count], dtype=np.uint8)
    owner[at] = np.frombuffer(rest[count : 3 * count], dtype="<u2")
    used[at] = np.frombuffer(rest[3 * count :], dtype="<u2")
    return Frames(kind, owner, used)


async def test_superframes_that_nobody_looks_at_are_refused_for_that(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Where the hypervisor is there it is not said to be gone."""
    del autojump_clock
    async with daemon(tmp_path), serving(tmp_path) as server, server.stream(frames=False) as told:
        assert (await told.next("look"))["whole"]
        refused = await server.ask("/frames")

    assert (refused.status, b"nobody looks at the superframes" in refused.body) == (503, True)


def read_frames(body: bytes) -> Frames:
    """Read what `/frames` answers."""
    count = len(body) // 5
    owner, used = (np.frombuffer(body[at * count : (at + 2) * count], dtype="<u2") for at in (1, 3))
    return Frames(np.frombuffer(body[:count], dtype=np.uint8), owner, used)


async def test_pages_are_told_what_changes(tmp_path: Path, autojump_clock: MockClock) -> None:
    """First everything, then what is otherwise; superframes by their changes; all of it is what the hypervisor says."""
    del autojump_clock
    async with daemon(tmp_path) as host, serving(tmp_path) as server, server.stream(frames=True) as told:
        assert (await told.next("look"))["whole"]
        domid = create(host, "web")
        look = await told.next("look")
        assert [(row["name"], row["held"], row["state"]) for row in look["rows"]] == [("web", 2048, "waiting")]
        assert [event["event"] for event in look["events"]] == ["created"]
        answer = await server.ask("/frames")
        known, version = read_frames(answer.body), int(answer.headers["x-frames-version"])

        host.call("set_target", {"domid": domid, "pages": 1024})
        look = await told.next("look")
        assert "no agent" in look["rows"][0]["why"]
        host.call("destroy", {"domid": domid})
        assert (await told.next("look"))["gone"] == [domid]
        now = frames_of(host.call("frames", {}))
        while packed_frames(known) != packed_frames(now):
            changes = await told.next("frames")
            if changes["version"] > version:
                version += 1
                known = unpacked(changes, known)
        assert changes["version"] == version


async def test_the_last_looks_are_told(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Of each domain that is there, what it held and should hold at each look, the last one last; nothing where it was not there yet."""
    del autojump_clock
    async with daemon(tmp_path) as host, serving(tmp_path) as server, server.stream() as told:
        first, second = create(host, "a"), 0
        await told.next("look")
        host.call("set_target", {"domid": first, "pages": 1024})
        second = create(host, "b")
        while len((await told.next("look"))["rows"]) != 2:
            pass
        read = np.frombuffer((await server.ask("/recent")).body, dtype="<u4").reshape(2, -1)
    figures = read[:, 1:].copy().view("<f4").reshape(2, SPARK_LOOKS, -1)

    assert read[:, 0].tolist() == [first, second]
    assert figures[0, -2:, :2].tolist() == [[2048, 2048], [2048, 1024]]
    assert figures[1, -1, :2].tolist() == [2048, 2048]
    assert np.isnan(figures[1, :-1]).all()
    # No guest has said what it wants.
    assert np.isnan(figures[:, :, 2]).all()


async def test_pages_hear_of_a_restart(tmp_path: Path, autojump_clock: MockClock) -> None:
    """While the hypervisor is gone pages are told so in a sentence; when it is back, everything anew. The page's files stay there."""
    del autojump_clock
    async with serving(tmp_path) as server, server.stream(frames=True) as told:
        assert "cannot be reached" in (await told.next("lost"))["why"]
        async with daemon(tmp_path) as host:
            create(host, "web")
            assert (await told.next("look"))["whole"]
        assert "cannot be reached" in (await told.next("lost"))["why"]
        assert (await server.ask("/")).status == 200
        assert (await server.ask("/domain?domid=1")).status == 503
        async with daemon(tmp_path) as host:
            create(host, "db")
            while not (look := await told.next("look"))["rows"]:
                pass
            assert [row["name"] for row in look["rows"]] == ["db"]


async def test_one_domain_and_one_superframe(tmp_path: Path, autojump_clock: MockClock) -> None:
    """What is told of them adds up; what is asked for again at once costs no call, and more than the ration is refused."""
    del autojump_clock
    async with daemon(tmp_path) as host, serving(tmp_path) as server, server.stream() as told:
        domid = create(host, "<img src=x onerror=alert(1)>")
        await told.next("look")
        domain = (await server.ask(f"/domain?domid={domid}")).json
        populated = np.frombuffer(base64.b64decode(domain["blocks"]["populated"]), dtype="<u2")
        assert (domain["name"], int(populated.sum())) == ("<img src=x onerror=alert(1)>", domain["held"])
        assert domain["reasons"][0]["code"] == "target-set-by"
        owners = [(await server.ask(f"/superframe?index={index}")).json["owner"] for index in range(4)]
        held = np.frombuffer(b"".join(map(base64.b64decode, owners)), dtype="<u2")
        assert np.count_nonzero(held == domid + 1) == domain["held"]
        assert (await server.ask("/domain?domid=99")).status == 404
        statuses = [(await server.ask("/superframe?index=1")).status for _ in range(2 * ASKED_AT_ONCE)]
        assert set(statuses) == {200}
        statuses = [
            (await server.ask(f"/domain?domid={domid}")).status for domid in range(2000, 2000 + 2 * ASKED_AT_ONCE)
        ]
        assert statuses[-1] == 429
        await trio.sleep(5)
        assert (await server.ask("/superframe?index=2")).status == 200


async def test_the_policy_s_reasons_are_told(tmp_path: Path) -> None:
    """Of a domain that autoballoon governs, by real daemons; one whose socket does not answer as it does is said to be not known."""
    async with balanced(tmp_path, guests()) as (client, _), serving(tmp_path / "run") as server:
        ((domain, *_),) = (await client.list(),)
        codes: set[str] = set()
        with trio.fail_after(60):
            while "policy-goal" not in codes:
                answer = await server.ask(f"/domain?domid={domain.domid}")
                codes = {reason["code"] for reason in answer.json["reasons"]} if answer.status == 200 else set()
                await trio.sleep(0.2)
    assert {"target-set-by", "governed"} <= codes


async def test_the_last_hour_is_kept(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Each look is a moment of a series, with the superframes where a page looked at them; the first that is asked for is the one before."""
    del autojump_clock
    async with daemon(tmp_path) as host, serving(tmp_path) as server, server.stream(frames=True):
        create(host, "web")
        await trio.sleep(5 * LOOK_EVERY_S)
        times = (await server.ask("/times")).json
        answer = await server.ask(f"/moment?t={times[-1]['t_s']}")
        ((name, (moment,)),) = runs_of(answer.body.decode().splitlines(keepends=True)).items()
        assert (name, moment.host["held_pages"]) == (host.name, 2048)
        assert ",web," in answer.body.decode()
        with_frames = next(one for one in times if one["has_frames"])
        assert len((await server.ask(f"/moment-frames?t={with_frames['t_s']}")).body) % 5 == 0


async def test_a_file_is_shown(tmp_path: Path) -> None:
    """Its runs and their moments; there is nothing live beside, which is said."""
    header = "run,t_s,kind,domid,name,held_pages\n"
    runs = runs_of([header, *(f"{run},{t_s},host,,,{t_s}\n" for run in ("stock", "full") for t_s in (0, 5, 10))])
    async with serving(tmp_path, runs=runs) as server:
        assert (await server.ask("/source")).json == {"kind": "file", "name": "a file", "runs": ["stock", "full"]}
        times = (await server.ask("/times?run=full")).json
        assert [(one["t_s"], one["held_pages"]) for one in times] == [(0, 0), (5, 5), (10, 10)]
        assert b'"full","5","host"' in (await server.ask("/moment?run=full&t=7")).body
        assert (await server.ask("/moment?run=other&t=7")).status == 404
        assert (await server.ask("/stream?frames=0")).status == 404
