"""A stranger's policy in its process: it is asked, and whatever it does there the daemon hears of it in time."""

from pathlib import Path

import pytest

from xbd.daemons.policy_process import ANSWER_WITHIN_S, PolicyProcess
from xbd.policy import DomainSnapshot, GuestReport, SetTarget, Snapshot

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
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


@pytest.mark.usefixtures("_strangers")
async def test_it_is_asked_and_its_state_stays_with_it() -> None:
    """Snapshot, settings and time reach it, and its answers come back; what it prints is in nobody's way."""
    process = PolicyProcess("strangers:Counts", {"reason": "asked"})
    try:
        answers = [await process.ask(SNAPSHOT, now) for now in (1.0, 2.5)]
    finally:
        await process.end()

    assert [answer.trouble for answer in answers] == ["", ""]
    assert [answer.targets for answer in answers] == [(SetTarget(1, 501),), (SetTarget(1, 502),)]
    assert (answers[1].targets[0].reason, answers[1].targets[0].urgent) == ("asked at 2.5", True)


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
async def test_whatever_it_does_the_daemon_goes_on(name: str, says: str) -> None:
    """It is ended, and the trouble is a sentence; asked again, it begins anew."""
    process = PolicyProcess(name, {"unknown": 1} if name.endswith("Counts") else {})
    answer = await process.ask(SNAPSHOT, 1.0)

    assert says in answer.trouble
    assert (answer.targets, process._process) == ((), None)
