"""The autoballoon daemon on real daemons: the policy's scenarios, played by guest modes, and its own life and death."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.processes import Xbd, running
from xbd.client.client import Client, open_client
from xbd.client.runtime_dir import autoballoon_socket
from xbd.domain import DomainInfo
from xbd.errors import BadArgument
from xbd.testing.processes import running_host

FILE = Path(__file__).resolve().parents[2] / "configs" / "autoballoon.toml"
MIB = 256
HEADROOM_MIB = 32
# Everything happens ten times as fast as by default: these are small guests.
POLICY = """
[autoballoon]
headroom = "32m"
threshold = "2m"
min_interval_s = 0.5
stuck_after_s = 0.5
uncooperative_after_s = 1.5
retry_after_s = 2.0
interval_s = 0.1
"""
GUEST = """
[[guest]]
name = "{name}"
count = {count}
maximum = "128m"
target = "32m"
workload = {{ profile = "idle", used = 0.1, cache = 0.02 }}
"""
_PATIENCE_S = 60.0


def guests(count: int = 4, name: str = "web{n}", more: str = "") -> str:
    """Describe guests of 32 MiB that could have 128, on a host of 416 MiB."""
    return '[host]\nmemory = "416m"\n' + GUEST.format(count=count, name=name) + more


@asynccontextmanager
async def balanced(directory: Path, host_toml: str, policy: str = POLICY) -> AsyncIterator[tuple[Client, Xbd]]:
    """Run a host with an autoballoon daemon; hands out a client of the hypervisor, and the daemon."""
    (directory / "policy.toml").write_text(policy)
    async with running_host(host_toml, directory) as client:
        with running(
            "--socket", str(directory / "run"), "autoballoon", "--config", str(directory / "policy.toml")
        ) as daemon:
            await trio.to_thread.run_sync(daemon.wait_until_it_says, "hypervisor_found")
            yield client, daemon


async def until(client: Client, holds: Callable[[dict[str, DomainInfo]], bool]) -> dict[str, DomainInfo]:
    """Wait until the domains, by name, are as they should be."""
    with trio.fail_after(_PATIENCE_S):
        while True:
            domains = {domain.name: domain for domain in await client.list()}
            if holds(domains):
                return domains
            await trio.sleep(0.05)


def held(domains: dict[str, DomainInfo]) -> list[int]:
    """List what the domains hold, in MiB."""
    return [domain.tot_pages // MIB for domain in domains.values()]


def settled(domains: dict[str, DomainInfo]) -> bool:
    """Whether every domain holds what it should."""
    return all(domain.tot_pages == domain.target_pages for domain in domains.values())


def alike(domains: dict[str, DomainInfo]) -> bool:
    """Whether all are settled, have grown, and none holds much more than another."""
    return settled(domains) and min(held(domains)) > 32 and max(held(domains)) - min(held(domains)) <= 4


async def free_mib(client: Client) -> int:
    """Tell how much of the host is free."""
    return int((await client.host())["free_frames"]) // MIB


async def verdict(directory: Path, domid: int) -> str:
    """Ask the daemon what it thinks of a domain."""
    async with open_client(autoballoon_socket(directory / "run")) as policy:
        return str((await policy.call("status"))["domains"].get(str(domid)))


async def until_verdict(directory: Path, domid: int, wanted: str) -> None:
    """Wait until the daemon thinks so of a domain."""
    with trio.fail_after(_PATIENCE_S):
        while await verdict(directory, domid) != wanted:  # noqa: ASYNC110 - another process
            await trio.sleep(0.05)


async def test_all_willing(tmp_path: Path) -> None:
    """Free memory is dealt out alike, down to the headroom, and no guest leaves its bounds."""
    async with balanced(tmp_path, guests()) as (client, _):
        domains = await until(client, alike)
        assert max(held(domains)) <= 128
        assert await free_mib(client) >= HEADROOM_MIB
        assert list(await client.audit()) == []


async def test_a_hundred_at_once(tmp_path: Path) -> None:
    """As with four."""
    host = '[host]\nmemory = "2g"\n' + GUEST.format(count=100, name="web{n}").replace('"32m"', '"16m"')
    async with balanced(tmp_path, host) as (client, _):
        await until(client, lambda domains: settled(domains) and max(held(domains)) - min(held(domains)) <= 4)
        assert await free_mib(client) >= HEADROOM_MIB


async def test_one_with_a_ceiling(tmp_path: Path) -> None:
    """What it does not take the others get."""
    async with balanced(tmp_path, guests()) as (client, _):
        await client.guest_mode("web1", "ceiling 40m")
        domains = await until(client, lambda domains: min(held(domains)[1:]) >= 104)
        assert domains["web1"].tot_pages <= 128 * MIB


async def test_one_with_a_floor(tmp_path: Path) -> None:
    """It keeps its floor when memory is needed; the others give the rest."""
    async with balanced(tmp_path, guests()) as (client, _):
        await until(client, alike)
        await client.guest_mode("web1", "floor 80m")
        async with open_client(autoballoon_socket(tmp_path / "run")) as reserving:
            await reserving.call("reserve", {"pages": 200 * MIB})
            await _until_state(reserving, "held")
            domains = {domain.name: domain for domain in await client.list()}
            assert domains["web1"].tot_pages >= 80 * MIB
            assert await free_mib(client) >= HEADROOM_MIB + 200


async def test_one_stuck_and_recovering(tmp_path: Path) -> None:
    """It is found uncooperative, its limit is held, the others go on without it; when it moves again it is taken back in."""
    async with balanced(tmp_path, guests()) as (client, _):
        await client.guest_mode("web1", "stuck")
        domains = await until(client, lambda domains: min(held(domains)[1:]) >= 90)
        stuck = domains["web1"]
        await until_verdict(tmp_path, stuck.domid, "uncooperative")
        assert (await client.info("web1")).max_pages <= 34 * MIB
        await client.guest_mode("web1", "normal")
        await until(client, alike)
        await until_verdict(tmp_path, stuck.domid, "willing")


async def test_one_that_wants_more_while_others_must_shrink(tmp_path: Path) -> None:
    """What somebody else sets its target to does not keep a reservation from being held."""
    async with balanced(tmp_path, guests()) as (client, _):
        await until(client, alike)
        async with open_client(autoballoon_socket(tmp_path / "run")) as reserving:
            await reserving.call("reserve", {"pages": 200 * MIB})
            # The policy may lower the limit again between the two calls.
            with trio.fail_after(_PATIENCE_S):
                while True:
                    await client.set_max("web1", 128 * MIB)
                    with suppress(BadArgument):
                        await client.set_target("web1", 128 * MIB)
                        break
            await _until_state(reserving, "held")
            assert await free_mib(client) >= 200


@pytest.mark.parametrize("mode", ["lies", "stuck"])
async def test_reports_are_not_trusted(tmp_path: Path, mode: str) -> None:
    """By demand: who claims to need all that it could have, or reports and does not balloon, takes nothing others need."""
    async with balanced(tmp_path, guests(), POLICY + 'balance = "demand"\n') as (client, _):
        await client.guest_mode("web1", mode)
        domains = await until(client, lambda domains: sum(held(domains)[1:]) > 3 * 40)
        assert max(held(domains)) <= 128
        assert await free_mib(client) >= HEADROOM_MIB


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("raise ValueError('no')", "ValueError: no"),
        ("while True: pass", "did not answer within 1 s"),
        ("return 0, 7", "TypeError"),
    ],
)
async def test_a_policy_that_fails_harms_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, says: str
) -> None:
    """The log says what it did, domains keep their targets, reservations are held; a reload brings another policy."""
    (tmp_path / "strangers.py").write_text(f"class Mine:\n    def step(self, state, snapshot, now):\n        {body}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    async with balanced(tmp_path, guests(), POLICY + 'policy = "strangers:Mine"\n') as (client, daemon):
        told = await trio.to_thread.run_sync(daemon.wait_until_it_says, "policy_failed")
        assert says in told
        assert '"goes_on_with": "static"' in told
        async with open_client(autoballoon_socket(tmp_path / "run")) as reserving:
            assert says in (await reserving.call("status"))["trouble"]
            await reserving.call("reserve", {"pages": 310 * MIB})
            await _until_state(reserving, "held")
        assert held(await until(client, settled)) == [18] * 4
        (tmp_path / "policy.toml").write_text(POLICY)
        daemon.process.send_signal(signal.SIGHUP)
        await until(client, alike)


async def test_a_move_says_why(tmp_path: Path) -> None:
    """The reason is in the daemon's log and in the host's event."""
    async with balanced(tmp_path, guests(), POLICY + 'policy = "fair"\n') as (client, daemon):
        logged = json.loads(await trio.to_thread.run_sync(daemon.wait_until_it_says, "target_set"))
        await until(client, alike)
        events = [event async for event in client.events(0, follow=False)]
        reasons = {event["reason"] for event in events if event["event"] == "target" and "reason" in event}
    assert reasons == {logged["reason"]} == {"the same part of its range as all"}


async def test_who_is_excluded_keeps_what_others_set(tmp_path: Path) -> None:
    """It is left alone, by the next daemon too; `explain` says so, `mem-set` no longer warns, and include ends it."""
    (tmp_path / "policy.toml").write_text(POLICY)
    xbd = [sys.executable, "-m", "xbd", "--socket", str(tmp_path / "run")]

    async def say(*arguments: str) -> str:
        done = await trio.run_process([*xbd, *arguments], capture_stdout=True, capture_stderr=True)
        return (done.stdout + done.stderr).decode()

    async with balanced(tmp_path, guests()) as (client, daemon):
        await until(client, alike)
        assert "autoballoon governs web1" in await say("mem-set", "web1", "96m")
        assert await say("autoballoon", "exclude", "web1") == "web1: left out\n"
        assert "governs" not in await say("mem-set", "web1", "40m")
        assert daemon.end(signal.SIGTERM) == 0
        with running("--socket", str(tmp_path / "run"), "autoballoon", "--config", str(tmp_path / "policy.toml")):
            domains = await until(client, lambda domains: held(domains)[1] >= 112)
            assert domains["web1"].target_pages == 40 * MIB
            assert "autoballoon was told to leave it out" in await say("explain", "web1")
            assert await say("autoballoon", "include", "web1") == "web1: governed again\n"
            await until(client, alike)


async def test_a_dry_run_says_what_would_be_done_and_does_nothing(tmp_path: Path) -> None:
    """Each domain's target as it would be, and why; as JSON too; a policy that fails is told, with exit code 1."""
    (tmp_path / "mom.toml").write_text('[autoballoon]\nheadroom = "32m"\npolicy = "mom"\nthreshold = "2m"\n')
    (tmp_path / "none.toml").write_text('[autoballoon]\npolicy = "nowhere_at_all:Policy"\n')
    command = [sys.executable, "-m", "xbd", "--socket", str(tmp_path / "run"), "autoballoon", "--dry-run", "--config"]
    async with running_host(guests(2), tmp_path) as client:
        await until(client, settled)
        (default, mom, none) = [
            await trio.run_process([*command, *arguments], capture_stdout=True, capture_stderr=True, check=False)
            for arguments in (
                [str(FILE)],
                [str(tmp_path / "mom.toml"), "--json"],
                [str(tmp_path / "none.toml")],
            )
        ]
        line = r"web[12]: 32 MiB -> 128 MiB, by what its guest asks for \([\d.]+ [KM]iB\)\n"
        assert re.fullmatch(line * 2, default.stdout.decode())
        told = json.loads(mom.stdout)["domains"][0]
        assert (told["name"], told["would_be_pages"]) == ("web1", 32 * MIB)
        assert told["reason"] == "84.6% of the host is free"
        assert (none.returncode, "ModuleNotFoundError" in none.stdout.decode()) == (1, True)
        assert {domain.target_pages for domain in await client.list()} == {32 * MIB}


async def test_one_that_never_reports(tmp_path: Path) -> None:
    """A domain without an agent is left as it is."""
    silent = GUEST.format(count=1, name="silent") + "autostart = false\n"
    async with balanced(tmp_path, guests(3, more=silent)) as (client, _):
        domains = await until(client, lambda domains: min(held(domains)[:3]) >= 90)
        assert domains["silent"].tot_pages == 32 * MIB
        assert await verdict(tmp_path, domains["silent"].domid) == "unable"


async def test_one_whose_minimum_is_its_maximum(tmp_path: Path) -> None:
    """A range of nothing is divided by nobody; it stays, the others share."""
    fixed = GUEST.format(count=1, name="fixed").replace('"128m"', '"32m"') + 'minimum = "32m"\n'
    async with balanced(tmp_path, guests(3, more=fixed)) as (client, _):
        domains = await until(client, lambda domains: min(held(domains)[:3]) >= 90)
        assert domains["fixed"].tot_pages == 32 * MIB


async def test_killed_it_leaves_the_host_as_it_is_and_another_picks_it_up(tmp_path: Path) -> None:
    """SIGKILL changes no target; the next daemon goes on from what the host says, and a second one is refused."""
    async with balanced(tmp_path, guests()) as (client, daemon):
        before = await until(client, alike)
        refused = await trio.run_process(_command(tmp_path, "autoballoon"), check=False, capture_stderr=True)
        assert (refused.returncode, b"another `xbd autoballoon`" in refused.stderr) == (78, True)
        daemon.end(signal.SIGKILL)
        assert held({domain.name: domain for domain in await client.list()}) == held(before)
        with running("--socket", str(tmp_path / "run"), "autoballoon") as next_one:
            await trio.to_thread.run_sync(next_one.wait_until_it_says, "hypervisor_found")
            await until_verdict(tmp_path, before["web1"].domid, "willing")
            assert next_one.end(signal.SIGTERM) == 0


async def test_reserve_holds_memory_while_a_command_runs(tmp_path: Path) -> None:
    """The command finds the memory free; what cannot be freed is said exactly, and then nothing runs."""
    async with balanced(tmp_path, guests()) as (client, _):
        await until(client, alike)
        look = [sys.executable, "-m", "xbd", "--socket", str(tmp_path / "run"), "info", "--json"]
        done = await trio.run_process(_command(tmp_path, "reserve", "100m", *look), capture_stdout=True)
        assert json.loads(done.stdout)["free_frames"] >= (100 + HEADROOM_MIB) * MIB
        held = await trio.run_process(
            _command(tmp_path, "reserve", "--json", "99m", "true"), capture_stdout=True, capture_stderr=True
        )
        assert json.loads(held.stderr) == {"state": "held", "pages": 98 * MIB, "asked_pages": 99 * MIB}
        much = await trio.run_process(
            _command(tmp_path, "reserve", "400m", "false"), check=False, capture_stderr=True, stdout=subprocess.DEVNULL
        )
        assert (much.returncode, b"is the most that is possible" in much.stderr) == (1, True)


_TOLD_TO_END = "trap 'kill $!; echo told to end; exit 0' TERM; echo begun; sleep 60 & wait"


@pytest.mark.parametrize("command", [[], ["sh", "-c", _TOLD_TO_END]])
async def test_who_holds_a_reservation_notices_that_it_is_gone(tmp_path: Path, command: list[str]) -> None:
    """With autoballoon killed, `xbd reserve` says so and fails, and the command that it was for is told to end."""
    async with balanced(tmp_path, guests()) as (client, daemon), trio.open_nursery() as nursery:
        await until(client, alike)
        reserve = _command(tmp_path, "reserve", "100m", *command)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "check": False}
        process: trio.Process = await nursery.start(partial(trio.run_process, reserve, **pipes))
        assert process.stdout is not None
        assert process.stderr is not None
        assert await process.stderr.receive_some() == b"100 MiB is free, and held\n"
        if command:
            assert await process.stdout.receive_some() == b"begun\n"
        daemon.end(signal.SIGKILL)
        with trio.fail_after(_PATIENCE_S):
            said = b"".join([part async for part in process.stderr])
            told = b"".join([part async for part in process.stdout])
        assert await process.wait() == 1
        assert b"100 MiB is no longer held" in said
        assert (b"sh is told to end" in said, told) == (bool(command), b"told to end\n" if command else b"")


def _command(directory: Path, *arguments: str) -> Sequence[str]:
    return [sys.executable, "-m", "xbd", "--socket", str(directory / "run"), *arguments]


async def _until_state(reserving: Client, wanted: str) -> None:
    with trio.fail_after(_PATIENCE_S):
        while (told := await reserving.call("reservation"))["state"] != wanted:
            assert told["state"] == "pending", told
            await trio.sleep(0.05)
