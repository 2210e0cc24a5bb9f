"""Steps of a host: whole, or undone while the daemon and all its connections go on."""

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.machine.crashing import assert_same_sections, assert_same_state
from tests.peer import DirectPeer, agent, clock, create, do, small_host
from xbd.control.controller import Controller
from xbd.control.endpoint import DomainEndpoint, ToolstackEndpoint
from xbd.daemons.recorder import RecordedMachine, Recorder
from xbd.machine import Machine
from xbd.machine.recovery import recover
from xbd.protocol import codec
from xbd.protocol.codec import Notification, Response, encode_notification
from xbd.storage.image import Image
from xbd.storage.memory import MemoryStore


class Sockets:
    """Notes which domains have a socket."""

    def __init__(self) -> None:
        self.domids: set[int] = set()

    def open(self, domid: int) -> None:
        """Open one."""
        self.domids.add(domid)

    def close(self, domid: int) -> None:
        """Close one that is there."""
        self.domids.remove(domid)

    def permit_group(self, group: str | None) -> None:
        """Let nobody in."""


def gfns(*numbers: int) -> bytes:
    """Write gfns as they travel."""
    return np.array(numbers, dtype="<u8").tobytes()


def begin_in_vain(host: Controller, method: str, **params: object) -> None:
    """Let a step fail by a bug after a call is done."""

    def fail() -> None:
        with host.step():
            host.call(method, params)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()


class Saved:
    """A saved host: web has an agent, whose page the guest db maps, and a toolstack has a session."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.sockets = Sockets()
        self.host = Controller(Machine(64, image=Image(self.store)), sockets=self.sockets, clock=clock)
        self.web, self.db = create(self.host, "web"), create(self.host, "db")
        self.client = DirectPeer(ToolstackEndpoint(self.host, lambda: None))
        self.client.call("hello", version=1, session="s")
        self.guest, self.other = agent(self.host, self.web), agent(self.host, self.db, "b")
        self.guest.call("store", gfns=gfns(7), words=gfns(70))
        self.guest.call("decrease", gfns=gfns(600, 601))
        refs = self.guest.call("grant", to=self.db, gfns=gfns(7))[2]
        self.other.call("decrease", gfns=gfns(5))
        assert self.other.call("map_grant", owner=self.web, refs=refs, gfns=gfns(5))[0] == 1
        for peer in (self.guest, self.other):
            peer.pending()

    def known(self) -> object:
        """What is known beside the machine's memory."""
        records = [self.host.domain_info(domid) for domid in self.host.machine.domains()]
        return records, self.host.events.since(0), self.host.events.next_number, set(self.sockets.domids)

    def is_as(self, before: MemoryStore) -> None:
        """Compare what is saved with a copy, and the machine with the one that a restart would derive of that."""
        machine = recover(before)
        for key in before.kept():
            section = machine.image.open_section(*key)
            if "answers" in section.layout.columns:
                # A slot needs no note: what it holds counts by the session's numbers, which are noted.
                first, end = section.span("answers")
                section.words[first:end] = self.store.open(*key)[1][first:end]
        assert_same_sections(before, self.store)
        assert_same_state(machine, self.host.machine)

    def fails_at_every_note(self, act: Callable[[], bool]) -> int:
        """Let memory run out at each note that *act* makes, until it is done; returns how often nothing had changed."""
        for notes in count(1):
            before, known = self.store.copy(), self.known()
            self.store.crash_after(notes, MemoryError)
            is_done = act()
            if self.store.undo.on_note is not None:
                self.store.undo.on_note = None
                assert is_done
                assert self.host.audit() == []
                return notes - 1
            assert not is_done
            self.is_as(before)
            assert (self.known(), self.host.audit()) == (known, [])
        raise AssertionError


CALLS: dict[str, dict[str, object]] = {
    "create": {"name": "late", "max_pages": 1024, "target_pages": 1024},
    "destroy": {"domid": "web"},
    "shutdown": {"domid": "web"},
    "pause": {"domid": "web"},
    "start": {"domid": "lonely"},
    "rename": {"domid": "web", "name": "a-longer-name"},
    "set_target": {"domid": "web", "pages": 1024},
    "set_max": {"domid": "web", "pages": 1024},
    "claim": {"domid": "web", "pages": 3 * 1024},
    "guest_mode": {"domid": "web", "mode": "stuck"},
}


@pytest.mark.parametrize("method", CALLS)
def test_a_call_for_which_memory_runs_out_is_undone(method: str) -> None:
    """It is answered ENOMEM, machine, records, sessions and events are as before, and asked again it is done."""
    saved = Saved()
    create(saved.host, "lonely")
    peer = DirectPeer(ToolstackEndpoint(saved.host, lambda: None))
    peer.call("hello", version=1)

    def call() -> bool:
        answer = peer.call(method, **CALLS[method])
        assert answer.get("errno", "ENOMEM") == "ENOMEM"
        return "errno" not in answer

    assert saved.fails_at_every_note(call) > 0


def test_a_refusal_is_kept_in_a_client_s_session() -> None:
    """The call that was undone has had its turn: its answer is kept, and the next call is the next one."""
    saved = Saved()
    saved.store.crash_after(1, MemoryError)
    refusal = saved.client.call("set_target", domid=saved.web, pages=1024)
    assert refusal["errno"] == "ENOMEM"
    saved.client.msgid -= 1
    assert saved.client.call("set_target", domid=saved.web, pages=1024) == refusal
    assert saved.client.call("set_target", domid=saved.web, pages=1024) == {"pages": 1024}


COMMANDS: dict[str, dict[str, Any]] = {
    "decrease": {"gfns": gfns(1, 2, 3)},
    "populate": {"gfns": gfns(600, 601)},
    "store": {"gfns": gfns(9), "words": gfns(90)},
    "populate_depopulate": {"populate": gfns(600), "depopulate": gfns(1000)},
}


@pytest.mark.parametrize("method", COMMANDS)
def test_a_hypercall_for_which_memory_runs_out_is_sent_again(method: str) -> None:
    """The guest is dropped, resumes its session and sends it again: it is done once. Another guest notices nothing."""
    saved = Saved()
    msgid = saved.guest.msgid

    def call() -> bool:
        (answer,) = saved.guest.send(codec.encode_request(msgid + 1, method, COMMANDS[method]))
        if saved.guest.endpoint.dropped is None:
            assert isinstance(answer, Response)
            assert answer.untrusted_result == [len(next(iter(COMMANDS[method].values()))) // 8, None]
            return True
        assert "undone" in str(saved.guest.endpoint.dropped)
        return False

    notes = 0
    while True:
        before = saved.store.copy()
        saved.store.crash_after(notes + 1, MemoryError)
        if call():
            break
        notes += 1
        saved.is_as(before)
        assert saved.other.call("load", gfns=gfns(9)) == [1, None, gfns(0)]
        saved.guest.endpoint.closed()
        saved.guest = agent(saved.host, saved.web, last_seen=msgid)
    saved.store.undo.on_note = None
    assert notes > 0
    assert saved.host.audit() == []


def test_a_boot_for_which_memory_runs_out_is_undone() -> None:
    """The hello is refused, the guest's words and its session are kept, and the place is free for the next hello."""
    saved = Saved()
    saved.guest.endpoint.closed()

    def hello() -> bool:
        answer = DirectPeer(DomainEndpoint(saved.host, saved.web, lambda: None)).call("hello", version=1, session="c")
        assert answer.get("errno", "ENOMEM") == "ENOMEM"
        return "errno" not in answer

    assert saved.fails_at_every_note(hello) > 0


def test_a_connection_that_ends_without_memory_is_at_its_end_all_the_same() -> None:
    """What was to be noted of it is not, and the session can be resumed."""
    saved = Saved()
    saved.store.crash_after(1, MemoryError)
    saved.guest.endpoint.closed()
    assert saved.host.domain_info(saved.web).state == "waiting"
    assert agent(saved.host, saved.web, last_seen=saved.guest.msgid).endpoint.admitted


def test_a_notice_of_what_was_undone_is_not_sent() -> None:
    """An agent is told the target that holds, and not that it shall stop, whatever was begun."""
    saved = Saved()
    do(saved.host, "set_target", domid=saved.web, pages=1024)
    for method, more in (("set_target", {"pages": 512}), ("shutdown", {})):
        begin_in_vain(saved.host, method, domid=saved.web, **more)
    (notice,) = saved.guest.pending()
    assert isinstance(notice, Notification)
    assert (notice.method, notice.untrusted_params[0]["pages"]) == ("target", 1024)  # type: ignore[index]


def test_a_bug_is_no_answer_but_changes_nothing() -> None:
    """An exception that nobody expects passes through, and all is as before: a domain that was destroyed is there."""
    saved = Saved()
    before, events = saved.store.copy(), saved.host.events.since(0)
    begin_in_vain(saved.host, "destroy", domid=saved.web)
    begin_in_vain(saved.host, "create", name="late", max_pages=512, target_pages=512)
    saved.is_as(before)
    assert saved.host.events.since(0) == events
    assert saved.sockets.domids == {saved.web, saved.db}
    # Its connection was closed with its socket; its agent connects again.
    again = agent(saved.host, saved.web, last_seen=saved.guest.msgid)
    again.msgid = saved.guest.msgid
    assert again.call("load", gfns=gfns(7)) == [1, None, gfns(70)]
    assert saved.host.audit() == []


def test_what_is_changed_outside_of_a_step_is_found_by_the_next() -> None:
    """Nobody can forget a commit: the next step begins with what was left, and says so."""
    saved = Saved()
    saved.host.call("set_target", {"domid": saved.web, "pages": 1024})
    with pytest.raises(AssertionError, match="outside of a step"):
        do(saved.host, "list")


def test_without_saved_state_what_fails_half_way_is_not_answered() -> None:
    """There is no undo log, so the host may be half changed: the exception ends the daemon."""
    host = small_host()
    with pytest.raises(MemoryError), host.step():
        raise MemoryError


def test_what_was_undone_is_not_recorded(tmp_path: Path) -> None:
    """A recording has the steps that were committed, and no others."""
    store = MemoryStore()
    recorder = Recorder(tmp_path / "recording")
    host = Controller(RecordedMachine(64, recorder, image=Image(store)), clock=clock)
    domid = create(host)
    begin_in_vain(host, "set_target", domid=domid, pages=512)
    do(host, "set_target", domid=domid, pages=1024)
    recorder.close()
    lines = [json.loads(line) for line in (tmp_path / "recording").read_text().splitlines()]
    assert [(line["do"], line.get("target_pages")) for line in lines[1:]] == [("create", 2048), ("set_target", 1024)]


def test_a_saved_session_that_a_hello_could_not_open_is_free() -> None:
    """A toolstack's hello that is undone leaves no session behind that nobody holds, nor takes another's place."""
    saved = Saved()
    peer = DirectPeer(ToolstackEndpoint(saved.host, lambda: None))
    saved.store.crash_after(1, MemoryError)
    assert peer.call("hello", version=1, session="t")["errno"] == "ENOMEM"
    assert peer.call("hello", version=1, session="t")["resumed"] is False
    assert saved.client.call("info", domain="web")["name"] == "web"


def test_an_agent_s_word_that_it_leaves_is_undone_too() -> None:
    """A notification has no answer: who sent it is dropped, and nothing is noted."""
    saved = Saved()
    saved.store.crash_after(1, MemoryError)
    saved.guest.send(encode_notification("leaving", {}))
    assert saved.guest.endpoint.dropped is not None
    assert not saved.host.record(saved.web).left
