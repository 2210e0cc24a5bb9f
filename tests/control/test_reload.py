"""Reading the host file again: what is applied, what is said, and that a broken file changes nothing."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from tests.control.sockets import Groups
from tests.peer import clock
from xbd import log
from xbd.config.host import HostConfig, parse_host_config
from xbd.control.controller import Controller
from xbd.control.reload import Difference, plan_reload
from xbd.daemons.host_file import HostFile
from xbd.machine import Machine

HOST = '[host]\nmemory = "1g"\n'
WEB = '[[guest]]\nname = "web{n}"\ncount = 3\nmaximum = "64m"\ntarget = "32m"\n'
DB = '[[guest]]\nname = "db"\nmaximum = "128m"\n'


def parse(text: str) -> HostConfig:
    """Read the text of a host file."""
    return parse_host_config(text, "host.toml")


@pytest.fixture(autouse=True)
def default_log_again() -> Iterator[None]:
    """Leave structlog as it was."""
    yield
    structlog.reset_defaults()


# -- the plan


def test_the_same_file_comes_to_nothing() -> None:
    """Neither to a domain nor to a word."""
    plan = plan_reload(parse(HOST + WEB), parse(HOST + WEB), {"web1", "web2", "web3"})
    assert (plan.create, plan.left) == ((), ())


def test_guests_described_newly_are_created() -> None:
    """Also further ones of a count; one whose name is taken is left to who created it."""
    more = WEB.replace("count = 3", "count = 5")
    plan = plan_reload(parse(HOST + WEB), parse(HOST + more + DB), {"web1", "web2", "web3", "web4"})
    assert [guest.name for guest in plan.create] == ["web5", "db"]
    (taken,) = plan.left
    assert (taken.key, taken.guests) == ("guest.name", ("web4",))


LIVING = ("web1", "web2", "web3")


@pytest.mark.parametrize(
    ("now", "key", "words", "guests"),
    [
        (HOST.replace("1g", "2g") + WEB, "host.memory", "2 GiB now, the host has 1 GiB; begin a new host", ()),
        (HOST + "keep_holes = false\n" + WEB, "host.keep_holes", "False now, True in force; begin a new host", ()),
        (HOST + 'runtime_dir = "x"\n' + WEB, "host.runtime_dir", "the sockets stay where they are", ()),
        (HOST + '[dom0]\nmaximum = "128m"\n' + WEB, "dom0", "is made before all other domains", ()),
        (HOST + WEB.replace("32m", "16m"), "guest.target", "16 MiB now; targets .* `xbd mem-set`", LIVING),
        (HOST + WEB.replace("64m", "96m"), "guest.maximum", "96 MiB now; it is settled when", LIVING),
        (HOST + WEB + 'minimum = "4m"\n', "guest.minimum", "4 MiB now; it is settled when", LIVING),
        (HOST + WEB + "verify = true\n", "guest", "is described differently; it is settled when", LIVING),
        (HOST + WEB.replace("count = 3", "count = 1"), "guest", "runs on; `xbd destroy` ends it", ("web2", "web3")),
    ],
)
def test_what_cannot_be_applied_is_said(now: str, key: str, words: str, guests: tuple[str, ...]) -> None:
    """By key, with the reason and what to do, once for all guests that it is true of."""
    plan = plan_reload(parse(HOST + WEB), parse(now), LIVING)
    assert plan.create == ()
    (left,) = plan.left
    assert (left.key, left.guests) == (key, guests)
    assert re.search(words, left.reason)


def test_a_destroyed_guest_is_not_brought_back() -> None:
    """Who destroyed it meant it; how to get it back is said."""
    plan = plan_reload(parse(HOST + WEB), parse(HOST + WEB), {"web1", "web3"})
    assert plan.create == ()
    assert [(left.key, left.guests) for left in plan.left] == [("guest", ("web2",))]
    assert "`xbd create`" in plan.left[0].reason


def test_both_of_two_differences_are_said() -> None:
    """A guest may differ in more than one way."""
    now = WEB.replace("32m", "16m").replace("64m", "48m")
    left = plan_reload(parse(HOST + WEB), parse(HOST + now), LIVING).left
    assert [difference.key for difference in left] == ["guest.target", "guest.maximum"]
    assert all(type(difference) is Difference for difference in left)


# -- a host and its file


class Running:
    """A host that was started with a file."""

    def __init__(self, path: Path, text: str, decided: tuple[str, ...] = ()) -> None:
        path.write_text(text)
        self.path = path
        self.sockets = Groups()
        config = parse_host_config(text, path)
        self.host = Controller(Machine(config.superframes), sockets=self.sockets, clock=clock)
        for guest in config.guests:
            self.host.call("create", guest.as_params())
        self.file = HostFile(path, config, decided)

    @property
    def names(self) -> list[str]:
        """The domains that there are."""
        return [self.host.record(domid).name for domid in self.host.machine.living_domains()]

    async def reload(self, text: str) -> list[dict[str, object]]:
        """Write the file anew and reload; returns what was logged."""
        self.path.write_text(text)
        with capture_logs() as logged:
            await self.file.reload(self.host)
        return [dict(entry) for entry in logged]


async def test_what_is_new_is_applied(tmp_path: Path) -> None:
    """Guests, the name, the group; nothing that runs is touched; a second reload finds nothing to do."""
    running = Running(tmp_path / "host.toml", HOST + WEB)
    running.host.call("set_target", {"domid": 1, "pages": 4096})
    text = HOST + 'name = "big"\ngroup = "tools"\n' + WEB + DB
    (told,) = await running.reload(text)

    assert (told["event"], told["applied"], told["guests"]) == ("reloaded", ["host.group", "host.name"], ["db"])
    assert running.names == ["web1", "web2", "web3", "db"]
    assert (running.host.name, running.sockets.group) == ("big", "tools")
    assert running.host.machine.domain(1).target_pages == 4096
    (told,) = await running.reload(text)
    assert (told["applied"], told["created"]) == ([], 0)


@pytest.mark.parametrize(
    ("broken", "key", "reason"),
    [
        (HOST + DB + "[[guest]]\nname =", "", "is not TOML"),
        (HOST + 'name = "new"\n' + DB + 'colour = "red"\n', "guest[1].colour", "is not a key"),
        (HOST + DB.replace("128m", "2g"), "guest.target", "the domains' targets are 2 GiB together"),
        (HOST + 'name = "new"\nlog_level = "error"\ngroup = "unknown"\n' + DB, "group", "no group is called"),
    ],
)
async def test_a_broken_file_changes_nothing(tmp_path: Path, broken: str, key: str, reason: str) -> None:
    """Clear words, the old state stays, and a good file is applied afterwards."""
    running = Running(tmp_path / "host.toml", HOST + WEB)
    (told,) = await running.reload(broken)

    assert (told["event"], told["log_level"], told["key"]) == ("reload_failed", "error", key)
    assert reason in str(told["reason"])
    assert running.names == ["web1", "web2", "web3"]
    assert (running.host.name, running.sockets.group) == ("host", None)
    await running.reload(HOST + WEB + DB)
    assert running.names == ["web1", "web2", "web3", "db"]


async def test_the_maximum_by_its_old_name_is_logged_and_no_difference(tmp_path: Path) -> None:
    """At the start and at a reload, once each; a file that is corrected to the new name is what is in force already."""
    old = HOST + WEB.replace("maximum", "memory") + DB.replace("maximum", "memory")
    with capture_logs() as logged:
        running = Running(tmp_path / "host.toml", old)
    remark, reloaded = await running.reload(old)
    (corrected,) = await running.reload(HOST + WEB + DB)

    assert [entry["event"] for entry in logged] == [remark["event"]] == ["host_file_remark"]
    assert str(remark["remark"]).startswith("guest[1].memory and 1 other section: the key is called 'maximum' now")
    assert reloaded["event"] == corrected["event"] == "reloaded"
    assert running.names == ["web1", "web2", "web3", "db"]


async def test_a_file_that_is_gone_changes_nothing(tmp_path: Path) -> None:
    """As a broken one."""
    running = Running(tmp_path / "host.toml", HOST)
    (tmp_path / "host.toml").unlink()
    with capture_logs() as logged:
        await running.file.reload(running.host)
    assert [(entry["event"], entry["reason"]) for entry in logged] == [
        ("reload_failed", "cannot be read: No such file or directory")
    ]


async def test_a_guest_that_cannot_be_created_is_tried_again(tmp_path: Path) -> None:
    """The others are made; when there is room, the next reload makes it."""
    running = Running(tmp_path / "host.toml", HOST)
    hog = {"name": "hog", "max_pages": 512 * 480, "target_pages": 512 * 480}
    running.host.call("create", hog)
    text = HOST + DB + WEB.replace("count = 3", "count = 1")
    failed, told = await running.reload(text)
    assert (failed["event"], failed["guest"], "ENOMEM" in str(failed["reason"])) == ("guest_not_created", "db", True)
    assert told["guests"] == ["web1"]

    running.host.call("destroy", {"domid": "hog"})
    (told,) = await running.reload(text)
    assert told["guests"] == ["db"]


async def test_a_guest_that_was_taken_out_and_destroyed_is_new_again(tmp_path: Path) -> None:
    """Described anew, it is created anew."""
    running = Running(tmp_path / "host.toml", HOST + WEB)
    left, _ = await running.reload(HOST)
    assert left["guests"] == ["web1", "web2", "web3"]
    for domid in (1, 2, 3):
        running.host.call("destroy", {"domid": domid})
    (told,) = await running.reload(HOST)
    assert told["created"] == 0
    (told,) = await running.reload(HOST + WEB)
    assert told["created"] == 3


async def test_many_guests_are_named_in_part(tmp_path: Path) -> None:
    """A line of the log that a person can read."""
    running = Running(tmp_path / "host.toml", HOST)
    (told,) = await running.reload(HOST + WEB.replace("count = 3", "count = 12").replace("32m", "2m"))
    guests = told["guests"]
    assert isinstance(guests, list)
    assert guests[-2:] == ["web8", "and 4 more"]


async def test_the_command_line_decides(tmp_path: Path) -> None:
    """What was given as an option is not taken from the file; that is said."""
    running = Running(tmp_path / "host.toml", HOST, decided=("group", "log_level"))
    told = await running.reload(HOST + 'group = "tools"\nlog_level = "error"\n')
    assert [entry.get("reason") for entry in told[:2]] == [
        "--group on the command line decides it",
        "--log-level on the command line decides it",
    ]
    assert running.sockets.group is None


async def test_the_log_s_level_follows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also for loggers that were in use before."""
    log.configure("warning")
    logger = structlog.get_logger("one")
    logger.info("before")
    running = Running(tmp_path / "host.toml", HOST)
    (tmp_path / "host.toml").write_text(HOST + 'log_level = "debug"\n')
    await running.file.reload(running.host)
    logger.debug("after")
    said = capsys.readouterr().err
    assert '"after"' in said
    assert '"before"' not in said
