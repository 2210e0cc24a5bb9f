"""What the version of commit 8f8bf7d wrote is read for good: state directories, a dump, a recording, a XenStore.

How `tests/fixtures` was made, with that version: `xbd hypervisor --memory 32m --state-dir DIR`, and on its
sockets, as `rpc.Caller` calls them, a client of session `fixture-client` (hello is message 0) and agents of
sessions `agent-web`, `agent-db`, `agent-old`:

    client    1  create web: max_pages 2048, target_pages 1024, guest {verify: true}, on_crash preserve, no autostart
              2  create db: max_pages 1024, target_pages 1024, no autostart
              3  create old: max_pages 512, target_pages 512, no autostart
    web       1  store 1001 to 1008 at gfns 0 to 7       2  decrease gfns 10 to 19      3  grant gfns 0, 1, 2 to 2
    db        1  decrease gfns 100 to 107                2  map_grant of 1: refs 0, 1, 2 at gfns 100, 101, 102
    web       4  send 7, 8, 9 to 2
    old       1  store 3005 at gfn 5                     2  grant gfn 5 to 2
    db        3  map_grant of 3: ref 0 at gfn 103
    client    4  set_target web: pages 1536              5  destroy old
              6  list                                          7  audit

`state-killed.tar.gz`: then web's message 5, decrease of gfns 300 to 699, in whose middle the daemon sent itself a
SIGKILL: `Undo._publish`, wrapped, did so at its fifth note, when the cells of four had been written.
`state-ended.tar.gz`: then SIGTERM instead. Both `tar --format=gnu -S`, which keeps holes.
`host.dump`: `xbd dump` of the killed one. `host.record`: the calls above with `--record` instead of a state directory.
`xenstore.save`: of `xbd xenstored --state-dir`, killed after WRITE /tool/fixture "kept", WRITE /tool/fixture/bytes of
the bytes 1 to 255, WRITE and RM of /vm/gone, SET_PERMS of /tool/fixture to n0, r3.
"""

import json
import shutil
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.blackbox.host_directory import FIXTURES, run_xbd, unpack
from tests.blackbox.rpc import Caller
from tests.processes import running

pytestmark = pytest.mark.slow

_CREATE_DB = {"name": "db", "max_pages": 1024, "target_pages": 1024, "autostart": False}
_READ, _GET_PERMS = 2, 3


def words(*numbers: int) -> bytes:
    """Write words or gfns as they travel."""
    return struct.pack(f"<{len(numbers)}Q", *numbers)


def answer(agent: Caller, method: str, **params: object) -> object:
    """Call an operation, whose answer is a list."""
    return agent.call(method, **params)


@contextmanager
def host_on(state: Path, run: Path) -> Iterator[Path]:
    """Run a hypervisor on a state directory for the length of a block; it must end in order. Yields its sockets."""
    with running("hypervisor", "--memory", "32m", "--state-dir", str(state), "--runtime-dir", str(run)) as daemon:
        daemon.wait_until_it_says("hypervisor_ready")
        yield run
        assert daemon.end() == 0, "".join(daemon.said)


def resumed(path: Path, session: str, last_seen: int, next_msgid: int) -> Caller:
    """Resume a session whose next call has the number *next_msgid*."""
    caller = Caller(path, hello=False)
    assert caller.call("hello", version=1, session=session, last_seen=last_seen)["resumed"] is True
    caller._next_msgid = next_msgid
    return caller


def check_host(run: Path) -> list[str]:
    """Find everything of the fixture's host: domains, targets, words, grants, messages, kept answers; audit it.

    Returns the UUIDs that it has got.
    """
    with resumed(run / "hypervisor.sock", "fixture-client", 1, 2) as asking:
        assert asking.call("create", **_CREATE_DB) == {"domid": 2}
        asking._next_msgid = 4
        assert asking.call("set_target", domid=1, pages=1536) == {"pages": 1536}
        assert asking.call("destroy", domid="old") == {"zombie_pages": 1}
    with Caller(run / "hypervisor.sock") as client:
        found = {
            one["domid"]: (
                one["name"],
                one["state"] == "zombie",
                one["tot_pages"],
                one["target_pages"],
                one["max_pages"],
            )
            for one in client.call("list")["domains"]
        }
        assert found == {
            1: ("web", False, 1014, 1536, 2048),
            2: ("db", False, 1016, 1024, 1024),
            3: ("old", True, 1, 512, 512),
        }
        web = client.call("info", domain="web")
        assert (web["guest"], web["on_crash"], web["grants"], web["mapped_grants"]) == (
            {"verify": True},
            "preserve",
            3,
            0,
        )
        assert client.call("info", domain="db")["mapped_grants"] == 4
        assert client.call("events")["next"] >= 9
        assert client.call("audit") == {"violations": []}
        uuids = [client.call("host")["uuid"], *(one["uuid"] for one in client.call("list")["domains"])]
        assert len(set(uuids)) == len(uuids) == 4
        return uuids


def check_guests(run: Path) -> None:
    """Resume both guests: their words are there, what was answered is answered so again, what was not is done now."""
    with (
        resumed(run / "domains/1.sock", "agent-web", 2, 3) as web,
        resumed(run / "domains/2.sock", "agent-db", 3, 4) as db,
    ):
        assert answer(web, "grant", gfns=words(0, 1, 2), to=2) == [3, None, words(0, 1, 2)]
        assert answer(web, "send", to=2, words=words(7, 8, 9)) == [3, None]
        assert answer(web, "decrease", gfns=words(*range(300, 700))) == [400, None]
        assert answer(web, "load", gfns=words(*range(8))) == [8, None, words(*range(1001, 1009))]
        assert answer(db, "load", gfns=words(100, 102, 103)) == [3, None, words(1001, 1003, 3005)]
        assert answer(db, "receive") == [5, None, words(1 << 32 | 3, 7, 8, 9, 3 << 32)]
        with Caller(run / "hypervisor.sock") as client:
            assert client.call("info", domain="web")["tot_pages"] == 614
            assert client.call("audit") == {"violations": []}


@pytest.mark.parametrize("how", ["killed", "ended"])
def test_a_state_directory_of_8f8bf7d_is_the_host_that_it_was(tmp_path: Path, how: str) -> None:
    """A host killed in mid-step and one ended in order go on, twice; the step that was half done was never begun."""
    state = unpack(f"state-{how}.tar.gz", tmp_path / "state")
    uuids = []
    for round_ in range(2):
        with host_on(state, tmp_path / f"run{round_}") as run:
            uuids.append(check_host(run))
    assert uuids[0] == uuids[1]
    with host_on(state, tmp_path / "run") as run:
        check_guests(run)


def test_the_killed_one_is_killed_in_mid_step_and_the_ended_one_is_not(tmp_path: Path) -> None:
    """The fixtures are what they say: notes in the undo log of the one, checksums of the other."""
    killed, ended = (unpack(f"state-{how}.tar.gz", tmp_path / how) for how in ("killed", "ended"))
    noted = [struct.unpack("<q", (path / "undo").read_bytes()[:8])[0] for path in (killed, ended)]
    assert noted == [2143, 0]
    assert [(path / "checksums.json").exists() for path in (killed, ended)] == [False, True]


def test_a_dump_of_8f8bf7d_is_restored(tmp_path: Path) -> None:
    """`xbd restore` makes a state directory of it, on which the same host goes on."""
    done = run_xbd("restore", str(FIXTURES / "host.dump"), str(tmp_path / "state"))
    assert (done.returncode, done.stderr) == (0, "")
    with host_on(tmp_path / "state", tmp_path / "run") as run:
        check_host(run)
        check_guests(run)


def test_a_recording_of_8f8bf7d_is_done_again_the_same() -> None:
    """`xbd rerun` finds every answer and the end as they were recorded."""
    done = run_xbd("rerun", str(FIXTURES / "host.record"), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["different"], told["violations"], told["truncated_line"]) == ({}, [], None)
    assert told["recorded_end"] == told["end"]
    assert told["done"]["create"] == 3
    assert sum(told["done"].values()) > 10


def test_a_xenstore_of_8f8bf7d_has_its_nodes(tmp_path: Path) -> None:
    """`xbd xenstored` reads what was saved: values of any bytes, permissions, and not what had been removed."""
    (tmp_path / "store").mkdir()
    shutil.copy(FIXTURES / "xenstore.save", tmp_path / "store")
    arguments = ("--xenstore-socket", str(tmp_path / "xs"), "--state-dir", str(tmp_path / "store"))
    with running("hypervisor", "--memory", "32m", "--runtime-dir", str(tmp_path / "run")) as daemon:
        daemon.wait_until_it_says("hypervisor_ready")
        with running("xenstored", "--socket", str(tmp_path / "run"), *arguments) as store:
            store.wait_until_it_says("xenstored_ready")
            assert _ask(tmp_path / "xs", _READ, "/tool/fixture") == (_READ, b"kept")
            assert _ask(tmp_path / "xs", _READ, "/tool/fixture/bytes") == (_READ, bytes(range(1, 256)))
            assert _ask(tmp_path / "xs", _READ, "/vm/gone")[1] == b"ENOENT\0"
            assert _ask(tmp_path / "xs", _GET_PERMS, "/tool/fixture")[1] == b"n0\0r3\0"
            assert store.end() == 0


def _ask(path: Path, kind: int, node: str) -> tuple[int, bytes]:
    """Ask a XenStore about a node, as its protocol says: kind, request, transaction, length, then the payload."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60.0)
        connection.connect(str(path))
        payload = node.encode() + b"\0"
        connection.sendall(struct.pack("<4I", kind, 1, 0, len(payload)) + payload)
        answered, _, _, length = struct.unpack("<4I", connection.recv(16, socket.MSG_WAITALL))
        return answered, connection.recv(length, socket.MSG_WAITALL) if length else b""
