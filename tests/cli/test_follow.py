"""Setting the targets of many domains, and following them, with a real daemon."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import trio

from tests.client.test_blocking import PATIENCE_S, in_thread, with_daemon
from tests.client.test_resume import Daemon
from tests.peer import connect as connect_peer
from tests.peer import create
from xbd.cli import follow as cli_follow
from xbd.cli.follow import follow, listed, send_targets
from xbd.cli.progress import Outcome
from xbd.client.blocking import connect
from xbd.client.calls import KnownDomains
from xbd.control.targets import BadRequest, choose, parse_amount, plan
from xbd.domain import DomainInfo
from xbd.machine import Machine
from xbd.units import SUPER_PAGES


async def test_targets_of_many_domains_are_set(tmp_path: Path) -> None:
    """max_pages follows the target, whichever way it goes."""

    def work() -> None:
        with connect(tmp_path) as client:
            for number in range(20):
                client.create(f"web{number}", max_pages=4 * SUPER_PAGES, target_pages=2 * SUPER_PAGES)
            client.set_max("web3", 2 * SUPER_PAGES)
            for text, supers in (("25%", 1), ("100%", 4), ("75%", 3)):
                changes = plan(choose(client.list(), ["*"]), parse_amount(text))
                following = send_targets(client, changes)
                assert {one.outcome for one in following} == {Outcome.MOVING}
                for domain in client.list():
                    assert (domain.target_pages, domain.max_pages) == (supers * SUPER_PAGES, supers * SUPER_PAGES)

    await with_daemon(tmp_path, work, superframes=512)


async def test_without_agents_following_ends_with_all_stuck(tmp_path: Path) -> None:
    """And says that nobody is there to move; those at their targets are there."""

    def work() -> None:
        with connect(tmp_path) as client:
            client.create("web1", max_pages=1024, target_pages=1024)
            client.create("web2", max_pages=512, target_pages=512)
            following = send_targets(client, plan(client.list(), parse_amount("2m")))
            views: list[int] = []
            follow(client, following, lambda shown: views.append(len(shown)), stuck_after_s=0.0)
            assert [one.outcome for one in following] == [Outcome.STUCK, Outcome.REACHED]
            assert "no agent is connected" in following[0].reason
            assert views

    await with_daemon(tmp_path, work)


async def test_a_guest_that_has_settled_ends_the_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, though nobody looks again for an hour; and no list of all is asked for, neither before nor then."""
    monkeypatch.setattr(cli_follow, "LOOK_EVERY_S", 3600.0)
    asked: list[str] = []
    daemon, waits = Daemon(tmp_path), trio.Event()
    async with trio.open_nursery() as nursery:
        host = await daemon.start(nursery, Machine(64))
        create(host, "web"), create(host, "db")
        guest = await connect_peer(tmp_path / "domains" / "1.sock")
        await guest.call("hello", version=1, session="a", last_seen=None)

        def work() -> Outcome:
            with connect(tmp_path) as client:
                monkeypatch.setattr(client, "list", lambda: asked.append("list"))
                since = client.subscribe()
                domains = choose(listed(client, ["web"]), ["web"])
                following = send_targets(client, plan(domains, parse_amount("6m")))
                shown = lambda _: trio.from_thread.run_sync(waits.set)  # noqa: E731 - one line
                follow(client, following, shown, KnownDomains(domains, since))
                return following[0].outcome

        async def shrink() -> None:
            await waits.wait()
            await guest.call("decrease", gfns=np.arange(512).astype("<u8").tobytes())

        nursery.start_soon(shrink)
        with trio.fail_after(PATIENCE_S):
            assert (await in_thread(work), asked) == (Outcome.REACHED, [])
        await daemon.kill()


async def test_names_that_no_domain_has_are_looked_for_among_all(tmp_path: Path) -> None:
    """So that what is said of them is the same; patterns are, too, and each that is named is told once."""

    def work() -> None:
        with connect(tmp_path) as client:
            for name in ("web1", "web2", "db"):
                client.create(name, max_pages=512, target_pages=512)
            for names in (["web1"], ["d2", "3", "web2"], ["web*"], ["web1", "d*"], ["web1", "nosuch"], ["", "db"]):
                told = listed(client, names)
                assert _chosen(told, names) == _chosen(client.list(), names)

    await with_daemon(tmp_path, work)


def _chosen(domains: Sequence[DomainInfo], names: Sequence[str]) -> list[str] | str:
    try:
        return [one.name for one in choose(domains, names)]
    except BadRequest as error:
        return str(error)
