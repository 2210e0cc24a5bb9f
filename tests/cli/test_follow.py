"""Setting the targets of many domains, and following them, with a real daemon."""

from pathlib import Path

from tests.client.test_blocking import with_daemon
from xbd.cli.follow import follow, send_targets
from xbd.cli.progress import Outcome
from xbd.client.blocking import connect
from xbd.control.targets import choose, parse_amount, plan
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
