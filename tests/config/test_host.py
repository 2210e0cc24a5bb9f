"""The host file: what it can say, and how it is refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from xbd.abi import DomainType
from xbd.config.guest import PlaysTrace
from xbd.config.host import HostConfig, parse_host_config
from xbd.config.strategies import STRATEGIES
from xbd.control.guest_settings import plan_guest
from xbd.daemons.config_files import load_host_config
from xbd.errors import ConfigError
from xbd.guest import DRIVERS
from xbd.guest.workload import Steady
from xbd.machine.settings import HostSettings

CONFIGS = Path(__file__).parents[2] / "configs"
HOST = '[host]\nmemory = "1g"\n'
GUEST = HOST + '[[guest]]\nname = "web1"\nmaximum = "256m"\n'


def parse(text: str) -> HostConfig:
    """Parse a host file called host.toml."""
    return parse_host_config(text, "host.toml")


DOM0 = '[host]\nmemory = "2g"\n[dom0]\nmaximum = "512m"\n'
IO = 'workload = { profile = "idle", io_pages_s = 8 }\n'


def test_dom0_is_described_like_a_guest() -> None:
    """It has xl's minimum, serves the others' disks, and counts where the targets must fit."""
    config = parse_host_config(DOM0 + "persistent_grants = true\n[[guest]]\nname = 'web'\nmaximum = '64m'\n" + IO, "h")

    assert config.dom0 is not None
    assert (config.dom0.name, config.dom0.max_pages, config.dom0.min_pages) == ("dom0", 512 * 256, 128 * 256)
    assert config.dom0.guest["block_back_end"] == {"persistent": True}
    assert config.dom0.as_params()["type"] == "pvh"
    assert config.guests[0].as_params()["min_pages"] == 0
    small = parse_host_config('[host]\nmemory = "1g"\n[dom0]\nmaximum = "64m"\n', "h").dom0
    assert small is not None
    assert small.min_pages == 64 * 256


def test_the_strategies_span_host_and_guest() -> None:
    """`stock` is today's Xen with today's Linux, `full` all that xbd has."""
    stock = STRATEGIES["stock"]
    assert (stock.host.home_fill, stock.host.coalesce, stock.host.keep_holes) == ("never", False, False)
    assert stock.limit_beyond_pages == 256
    assert (stock.host.high_first, stock.driver.commands_in_flight, stock.driver.keeps_to_limit) == (True, 1, False)
    assert (stock.driver.queues, stock.driver.migration) == (("stack", "foreign"), False)
    assert STRATEGIES["full"].host == HostSettings()
    assert STRATEGIES["full"].driver == DRIVERS["full"]


def test_the_maximum_by_its_old_name_is_the_same_host() -> None:
    """What is read of it is equal, so that a reload after the key was renamed changes nothing; only a remark is made."""
    old, new = parse(GUEST.replace("maximum", "memory")), parse(GUEST)
    assert old == new
    assert len(old.remarks) == 1
    assert old.remarks[0].startswith("guest[1].memory: ")
    assert new.remarks == ()


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_differs_from_each_other_one(name: str) -> None:
    """In what it switches, not in its name alone; and a host file can name it."""
    strategy = STRATEGIES[name]
    switched = [(s.host, s.driver, s.granularity_pages, s.domain_type) for s in STRATEGIES.values()]
    assert strategy.name == name
    assert switched.count((strategy.host, strategy.driver, strategy.granularity_pages, strategy.domain_type)) == 1
    config = parse(HOST + f'strategy = "{name}"\n' + GUEST.removeprefix(HOST))
    assert config.settings == strategy.host
    assert config.guests[0].type is strategy.domain_type


def test_dom0_of_a_virtio_host_is_none_itself() -> None:
    """It maps what guests of other types grant."""
    config = parse(HOST + 'strategy = "virtio"\n[dom0]\nmaximum = "256m"\n')
    assert config.dom0 is not None
    assert config.dom0.type is DomainType.PVH


def test_a_host_needs_nothing_but_memory() -> None:
    """Everything else has a default: the full strategy, no guests."""
    config = parse(HOST)
    assert (config.memory_pages, config.superframes, config.guests) == (262144, 512, ())
    assert config.settings == HostSettings()
    assert (config.runtime_dir, config.group, config.name) == (None, None, "host")


def test_a_count_makes_guests_by_number() -> None:
    """{n} in the name, and one seed after the other."""
    config = parse(GUEST.replace("web1", "web{n}") + "count = 3\nseed = 7\n")
    assert [guest.name for guest in config.guests] == ["web1", "web2", "web3"]
    assert [guest.guest["seed"] for guest in config.guests] == [7, 8, 9]


def test_a_guest_holds_all_its_memory_unless_a_target_is_given() -> None:
    """The target is what it holds at first."""
    assert parse(GUEST).guests[0].target_pages == 65536
    config = parse(GUEST + 'target = "128m"\n')
    assert (config.guests[0].target_pages, config.guests[0].max_pages) == (32768, 65536)


def test_bare_numbers_are_mib() -> None:
    """As everywhere, quoted or not."""
    assert parse("[host]\nmemory = 1024\n").memory_pages == parse('[host]\nmemory = "1024"\n').memory_pages == 262144


def test_settings_of_the_host_win_over_its_strategy() -> None:
    """The strategy sets all of them, each can be set again; guests take the strategy of their host."""
    text = '[host]\nmemory = "1g"\nstrategy = "stock"\nhome_fill = "always"\np2m.coalesce = true\n'
    config = parse(text + '[[guest]]\nname = "a"\nmaximum = 2\n[[guest]]\nname = "b"\nmaximum = 2\nstrategy = "full"\n')
    assert config.settings == replace(STRATEGIES["stock"].host, home_fill="always", coalesce=True)
    assert [guest.guest["strategy"] for guest in config.guests] == ["stock", "full"]


def test_features_are_switched_off_by_name() -> None:
    """Each operation on its own."""
    settings = parse(HOST + "features = { populate_depopulate = false }\n").settings
    assert (settings.populate_depopulate, settings.exchange_translated) == (False, True)


def test_what_is_read_is_what_agents_understand() -> None:
    """The settings that travel are those that an agent builds its guest of."""
    text = GUEST + 'workload = { profile = "steady", churn = 0.05 }\nverify = true\ndriver = { retry_max = 7 }\n'
    plan = plan_guest(parse(text + "wear = 0.5\nhuge_pages = false\n").guests[0].guest)
    assert plan.settings.verify
    assert plan.settings.driver.retry_max == 7
    assert (plan.settings.wear, plan.settings.huge_pages) == (0.5, False)
    assert plan.workload == Steady(churn=0.05)


def test_a_trace_is_relative_to_the_file(tmp_path: Path) -> None:
    """The settings that travel have its whole path, wherever whoever plays it runs; nobody needs to name a profile."""
    (tmp_path / "host.toml").write_text(
        GUEST + 'workload = { trace = "t/web.csv", speed = 10, loop = true, offset_s = 3600 }'
    )
    (guest,) = load_host_config(tmp_path / "host.toml").guests
    assert guest.guest["workload"] == {
        "trace": str(tmp_path / "t/web.csv"), "speed": 10, "loop": True, "offset_s": 3600
    }  # fmt: skip
    assert plan_guest(guest.guest).workload == PlaysTrace(str(tmp_path / "t/web.csv"), 10.0, loop=True, offset_s=3600.0)


def test_a_relative_runtime_directory_lies_beside_the_file(tmp_path: Path) -> None:
    """So that a host file can be started from anywhere."""
    host_file = tmp_path / "host.toml"
    host_file.write_text(HOST + 'runtime_dir = "run"\n')
    assert load_host_config(host_file).runtime_dir == tmp_path / "run"


@pytest.mark.parametrize("name", ["small", "large"])
def test_the_configurations_that_come_along_are_good(name: str) -> None:
    """Each is read without complaint, and its agents would run."""
    config = load_host_config(CONFIGS / f"{name}.toml")
    assert len(config.guests) == {"small": 8, "large": 1000}[name]
    for guest in config.guests:
        plan_guest(guest.guest)


@pytest.mark.parametrize("name", ["small"])
def test_every_key_is_described(name: str) -> None:
    """What is commented out as the default is the default: with it written out, nothing changes."""
    text = (CONFIGS / f"{name}.toml").read_text()
    written_out = [
        line[2:]
        if line.startswith("# ") and " = " in line and "(not set)" not in line and line[2:3].isalpha()
        else line
        for line in text.splitlines()
    ]
    assert sum(a != b for a, b in zip(written_out, text.splitlines(), strict=True)) == 17
    spelled_out, as_is = parse("\n".join(written_out)), parse(text)
    assert spelled_out.settings == as_is.settings
    for one, other in zip(spelled_out.guests, as_is.guests, strict=True):
        plans = [plan_guest(each.guest) for each in (one, other)]
        assert len({(plan.settings, plan.workload, plan.seed) for plan in plans}) == 1


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """Missing, a directory, or no text."""
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    for path in (tmp_path / "missing.toml", tmp_path, binary):
        with pytest.raises(ConfigError, match=str(path)):
            load_host_config(path)
