"""A socket may be closed at any time while a daemon waits for somebody to come in by it; the daemon lives on."""

import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from tests.blackbox.host import SMALL, beside, connecting, descriptors_of, end_in_order, hypervisor
from tests.blackbox.rpc import Caller, Refused
from tests.blackbox.xs import ERROR, Store, introduce, release

# Enough to end a daemon that cannot do it many times over: the order of its tasks is drawn by chance.
ROUNDS: Final = 60
# A domain's files and socket that were let go of a moment ago; who leaks has one more after each round.
NOT_COLLECTED_YET: Final = 4
Calls = list[tuple[str, dict[str, Any]]]


def create(name: str) -> tuple[str, dict[str, Any]]:
    """Say a call that creates a small domain."""
    return "create", {"name": name, **SMALL}


def destroy(name: str) -> tuple[str, dict[str, Any]]:
    """Say the call that destroys it."""
    return "destroy", {"domid": name}


def assert_all_went_well(answers: list[dict[str, Any] | Refused]) -> None:
    """Fail if a call was refused."""
    assert [one for one in answers if isinstance(one, Refused)] == []


@pytest.mark.parametrize("state", ["forgotten", "saved"])
@pytest.mark.parametrize("at_once", [1, 2, 8, 40])
def test_domains_go_as_soon_as_they_came(tmp_path: Path, at_once: int, state: str) -> None:
    """Calls in one write, or each after the answer to the last: all are done, and nothing is left open."""
    more = ("--state-dir", str(tmp_path / "state")) if state == "saved" else ()
    calls: Calls = [call for _ in range(ROUNDS) for call in (create("web"), destroy("web"))]
    with hypervisor(tmp_path, *more) as xbd, Caller(tmp_path / "hypervisor.sock") as caller:
        assert_all_went_well(caller.pipeline(calls[:2]))
        open_before = descriptors_of(xbd)
        for first in range(0, len(calls), at_once):
            assert_all_went_well(caller.pipeline(calls[first : first + at_once]))
        assert caller.call("list") == {"domains": []}
        assert caller.call("audit") == {"violations": []}
        assert descriptors_of(xbd) <= open_before + NOT_COLLECTED_YET
        assert list((tmp_path / "domains").iterdir()) == []


@pytest.mark.parametrize("at_once", [1, 2, 8, 40])
def test_domains_of_a_store_go_as_soon_as_they_came(tmp_path: Path, at_once: int) -> None:
    """INTRODUCE and RELEASE in one write, or one by one; also RELEASE and INTRODUCE of the same number."""
    asked = [one for _ in range(ROUNDS) for one in (introduce(8), release(8), introduce(8), release(8))]
    with beside(tmp_path, "xenstored") as xbd, Store(tmp_path / "xenstored" / "socket") as store:
        store.ask(*asked[:2])
        open_before = descriptors_of(xbd)
        for first in range(0, len(asked), at_once):
            answers = store.ask(*asked[first : first + at_once])
            assert [payload for operation, payload in answers if operation == ERROR] == []
        assert descriptors_of(xbd) <= open_before + NOT_COLLECTED_YET
        assert list((tmp_path / "xenstored" / "domains").iterdir()) == []


def test_somebody_comes_in_while_the_domain_goes(tmp_path: Path) -> None:
    """At the hypervisor's socket of the domain and at the store's: whoever connects is let go, and the next domain is served."""
    with (
        hypervisor(tmp_path),
        beside(tmp_path, "xenstored"),
        Caller(tmp_path / "hypervisor.sock") as caller,
        Store(tmp_path / "xenstored" / "socket") as store,
        connecting(tmp_path / "domains" / "*.sock"),
        connecting(tmp_path / "xenstored" / "domains" / "9.sock"),
    ):
        for _ in range(ROUNDS):
            caller.call("create", name="web", **SMALL)
            store.ask(introduce(9))
            store.ask(release(9))
            caller.call("destroy", domid="web")
        assert caller.call("audit") == {"violations": []}


def test_everything_lives_while_domains_come_and_go(tmp_path: Path) -> None:
    """Agents, the store and the policy follow what comes and goes, and end in order after it."""
    with ExitStack() as daemons:
        daemons.enter_context(hypervisor(tmp_path))
        for daemon in ("guests", "xenstored", "autoballoon"):
            daemons.enter_context(beside(tmp_path, daemon))
        caller = daemons.enter_context(Caller(tmp_path / "hypervisor.sock"))
        for number in range(ROUNDS):
            method, parameters = create(f"web-{number}")
            calls: Calls = [(method, parameters | {"autostart": True}), destroy(f"web-{number}")]
            for batch in [calls] if number % 2 else [calls[:1], calls[1:]]:
                assert_all_went_well(caller.pipeline(batch))
        assert caller.call("audit") == {"violations": []}


@pytest.mark.parametrize("daemon", ["hypervisor", "xenstored", "autoballoon"])
@pytest.mark.parametrize("with_signal", [signal.SIGTERM, signal.SIGINT])
def test_a_daemon_ends_in_order_while_others_come_in(tmp_path: Path, daemon: str, with_signal: signal.Signals) -> None:
    """Its sockets are closed under those who connect: exit code 0, and no socket is left."""
    path = tmp_path / {"xenstored": "xenstored/socket"}.get(daemon, f"{daemon}.sock")
    with ExitStack() as daemons:
        own = daemons.enter_context(hypervisor(tmp_path))
        if daemon != "hypervisor":
            own = daemons.enter_context(beside(tmp_path, daemon))
        with connecting(path):
            end_in_order(own, with_signal)
        assert not path.exists()
