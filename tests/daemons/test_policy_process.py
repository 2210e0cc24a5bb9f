"""A stranger's policy in its process: it is asked, and whatever it does there is heard of in time."""

from pathlib import Path

import pytest
import trio

from xbd.daemons.policy_process import ANSWER_WITHIN_S, PolicyProcess, policy_of, started_policy
from xbd.errors import BadArgument
from xbd.policy import DomainSnapshot, GuestReport, SetTarget, Snapshot
from xbd.policy.builtin.mom import Mom
from xbd.policy.plugin import PolicyFailed, ask

STRANGERS = '''
"""What strangers write."""
import ctypes, os, sys, time
from xbd.policy import SetTarget

class Counts:
    def __init__(self, reason="step"):
        self.reason = reason
    def step(self, state, snapshot, now):
        print("this goes nowhere")
        number = (state or 0) + 1
        domain = snapshot.domains[0]
        return number, [SetTarget(domain.domid, domain.guest.used_pages + number, f"{self.reason} at {now:g}", True)]

def of(does):
    class Policy:
        def step(self, state, snapshot, now):
            return None, does()
    return Policy

def forever():
    while True:
        pass

Loops, Exits, Dies = of(forever), of(lambda: sys.exit(3)), of(lambda: os._exit(3))
Crashes, Eats, Babbles = of(lambda: ctypes.string_at(1)), of(lambda: bytearray(1 << 40)), of(lambda: os.write(3, b"?" * 99) and [])
'''
SNAPSHOT = Snapshot(1000, 9000, 0, (DomainSnapshot(1, 700, 700, 700, 0, 9000, guest=GuestReport(used_pages=500)),))


@pytest.fixture
def _strangers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "strangers.py").write_text(STRANGERS)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("_strangers")
def test_it_is_asked_and_its_state_stays_with_it() -> None:
    """Snapshot, settings and time reach it, and its answers come back; what it prints is in nobody's way; it can begin anew."""
    with started_policy("strangers:Counts", {"reason": "asked"}) as process:
        first = ask(process, None, SNAPSHOT, 1.0)
        second = ask(process, first.own, SNAPSHOT, 2.5)
        anew = ask(process, None, SNAPSHOT, 3.0)

    assert [answer.trouble for answer in (first, second, anew)] == [""] * 3
    assert [answer.targets for answer in (first, second, anew)] == [
        (SetTarget(1, 501),), (SetTarget(1, 502),), (SetTarget(1, 501),)
    ]  # fmt: skip
    assert (second.targets[0].reason, second.targets[0].urgent) == ("asked at 2.5", True)


@pytest.mark.slow
@pytest.mark.usefixtures("_strangers")
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("strangers:Loops", f"it did not answer within {ANSWER_WITHIN_S:g} s, and its process was killed"),
        ("strangers:Exits", "it raised SystemExit: 3"),
        ("strangers:Dies", "its process has ended"),
        ("strangers:Crashes", "its process has ended"),
        ("strangers:Eats", "it raised MemoryError"),
        ("strangers:Babbles", "an answer of 1061109567 bytes"),
        ("strangers:Missing", "cannot be imported: AttributeError"),
        ("strangers:Counts", "cannot be made of its settings: TypeError"),
    ],
)
def test_whatever_it_does_who_asks_goes_on(name: str, says: str) -> None:
    """It is ended, and the trouble is a sentence; asked again, it begins anew."""
    process = PolicyProcess(name, {"unknown": 1} if name.endswith("Counts") else {})
    answer = ask(process, None, SNAPSHOT, 1.0)

    assert says in answer.trouble
    assert (answer.targets, process._process) == ((), None)


@pytest.mark.usefixtures("_strangers")
async def test_to_end_it_does_not_wait_for_its_answer() -> None:
    """While one thread waits for an answer, another ends the policy: the first hears so, and the process is gone."""
    process = PolicyProcess("strangers:Loops", {})
    process.start()
    answers = []

    def asking() -> None:
        answers.append(ask(process, None, SNAPSHOT, 1.0))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, asking)
        while not process._busy.locked():  # noqa: ASYNC110 - no event tells of a thread's lock
            await trio.sleep(0.001)
        process.end()

    assert "its process has ended" in answers[0].trouble
    assert process._process is None


def test_only_a_strangers_policy_gets_a_process() -> None:
    """One of xbd's own is asked where it is needed; what is no policy at all is refused by name."""
    assert policy_of("mom", {"every_s": 1}) == Mom(every_s=1.0)
    with pytest.raises(BadArgument, match="did you mean 'fair'"):
        policy_of("fare", {})
    with pytest.raises(PolicyFailed, match="cannot be imported"), started_policy("nowhere_at_all:x", {}):
        pass
