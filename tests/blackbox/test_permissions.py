"""What an ordinary user is told on a host of somebody else's, and what members of its group may do: real processes, two users."""

import os
import re
import signal
import socket
import stat
from pathlib import Path

import pytest
import trio

from tests.blackbox.host_directory import run_xbd
from tests.blackbox.rpc import PATIENCE_S
from tests.blackbox.users import STRANGER, as_stranger, needs_root, public_directory, some_group
from tests.processes import running

pytestmark = [needs_root, pytest.mark.slow]

# Every command that talks to a hypervisor, and a way to call it.
CLIENTS = (
    *(("list",), ("info",), ("explain", "web"), ("top", "--once"), ("map",), ("events", "--no-follow"), ("audit",)),
    *(("wait", "web", "--timeout", "5"), ("mem-set", "web", "64m"), ("mem-max", "web", "64m"), ("claim", "web", "64m")),
    *(("create", "web", "--target", "64m"), ("destroy", "web"), ("shutdown", "web"), ("guest-mode", "web", "stuck")),
    *(("reserve", "64m", "true"), ("guests",), ("guest", "web"), ("guest", "web", "--wait"), ("autoballoon",)),
    *(("xenstored",), ("metrics", "--listen", "127.0.0.1:0")),
)


def hypervisor(run: Path, *more: str) -> list[str]:
    """Spell the command of a small host in *run*."""
    return ["hypervisor", "--memory", "256m", "--runtime-dir", str(run), *more]


def is_shared_with(path: Path, gid: int | None) -> bool:
    """Tell whether a socket is its owner's and this group's, or, without a group, its owner's alone."""
    told = path.stat()
    return (
        stat.S_IMODE(told.st_mode) == 0o600
        if gid is None
        else (stat.S_IMODE(told.st_mode), told.st_gid) == (0o660, gid)
    )


async def until(path: Path, *, gid: int | None) -> None:
    """Wait until a socket is shared with a group, or with nobody; fail when it does not come to that."""
    with trio.fail_after(PATIENCE_S):
        while not is_shared_with(path, gid):  # noqa: ASYNC110 - a file tells nobody that its mode has changed
            await trio.sleep(0.05)


def test_every_client_names_the_group_that_may_enter_the_directory() -> None:
    """In one sentence, with what to do, and exit code 1; as a member of that group the same user is let in."""
    group = some_group()
    with public_directory() as directory:
        run = directory / "run"
        with running(*hypervisor(run, "--group", group.gr_name)) as daemon:
            daemon.wait_until_it_says("hypervisor_ready")
            commands = [
                ["--socket", str(path), *command] for path in (run, run / "hypervisor.sock") for command in CLIENTS
            ]
            ends = as_stranger(commands)
            member = as_stranger([["--socket", str(run), "list"]], [group])[0]
    for command, end in zip(commands, ends, strict=True):
        assert end.code == 1, (command, end)
        assert end.said.count("\n") == 1, (command, end)
        assert f"{run} belongs to group {group.gr_name} (mode 0750), which {STRANGER} is not in" in end.said
        assert f"usermod -aG {group.gr_name} {STRANGER}" in end.said
    assert (member.code, member.said.split()[0]) == (0, "Name")


def test_an_autoballoon_daemon_that_may_not_be_asked_is_not_taken_for_none() -> None:
    """One who may use the hypervisor and not its socket is told of that socket: by `reserve`, `explain` and `mem-set`."""
    group = some_group()
    with public_directory() as directory:
        run, settings = directory / "run", directory / "autoballoon.toml"
        settings.write_text("[autoballoon]\ninterval_s = 3600.0\n")
        with running(*hypervisor(run, "--group", group.gr_name)) as daemon:
            daemon.wait_until_it_says("hypervisor_ready")
            run_xbd("--socket", str(run), "create", "web", "--target", "64m")
            with running("autoballoon", "--socket", str(run), "--config", str(settings)):
                # It sees to its socket's group when it looks at the host, which it does once.
                while "autoballoon governs" not in run_xbd("--socket", str(run), "explain", "web").stdout:
                    pass
                (run / "autoballoon.sock").chmod(0o600)
                asked = [["reserve", "64m", "true"], ["explain", "web"]]
                reserved, explained = as_stranger([["--socket", str(run), *one] for one in asked], [group])
    assert reserved.code == 1
    assert "no autoballoon daemon" not in reserved.said
    assert "autoballoon.sock" in reserved.said
    assert explained.code == 0
    assert "what autoballoon decides is not known: " in explained.said
    assert "autoballoon.sock" in explained.said


def test_every_client_names_the_group_of_a_socket_in_a_directory_for_everybody() -> None:
    """The socket's, where the directory keeps nobody out; and its owner, where no group may use it."""
    group = some_group()
    with public_directory() as directory:
        run = directory / "run"
        run.mkdir()
        with running(*hypervisor(run, "--group", group.gr_name)) as daemon:
            daemon.wait_until_it_says("hypervisor_ready")
            shared = as_stranger([["--socket", str(run), *command] for command in CLIENTS])
        with running(*hypervisor(run)) as daemon:
            daemon.wait_until_it_says("hypervisor_ready")
            alone = as_stranger([["--socket", str(run), *command] for command in CLIENTS])
    path = run / "hypervisor.sock"
    assert {(end.code, end.said.count("\n")) for end in (*shared, *alone)} == {(1, 1)}
    assert all(f"{path} belongs to group {group.gr_name} (mode 0660)" in end.said for end in shared)
    assert all(f"{path} belongs to user root alone (mode 0600)" in end.said for end in alone)


def test_members_of_the_group_reserve() -> None:
    """The autoballoon daemon's socket is as usable as the hypervisor's: by its group, and by nobody else."""
    group = some_group()
    with public_directory() as directory:
        run = directory / "run"
        with running(*hypervisor(run, "--group", group.gr_name)) as daemon:
            daemon.wait_until_it_says("hypervisor_ready")
            # Everybody may enter: now the sockets' modes decide.
            run.chmod(0o755)
            with running("autoballoon", "--socket", str(run)) as autoballoon:
                autoballoon.wait_until_it_says("autoballoon_ready")
                assert is_shared_with(run / "autoballoon.sock", group.gr_gid)
                command = ["--socket", str(run), "reserve", "64m", "true"]
                member, stranger = as_stranger([command], [group])[0], as_stranger([command])[0]
    assert (member.code, member.said) == (0, "64 MiB is free, and held\n")
    assert (stranger.code, "belongs to group" in stranger.said) == (1, True)


async def test_the_autoballoon_daemon_s_socket_follows_the_hypervisor_s() -> None:
    """A group that the host file says later may reserve at once, and no more when it is gone; the daemon stays."""
    group = some_group()
    with public_directory() as directory:
        run, host = directory / "run", directory / "host.toml"
        plain = '[host]\nmemory = "256m"\n'
        host.write_text(plain)
        with running("autoballoon", "--socket", str(directory)) as early:
            # There is no hypervisor yet.
            early.wait_until_it_says("autoballoon_ready")
            assert is_shared_with(directory / "autoballoon.sock", None)
        with running("hypervisor", "--config", str(host), "--runtime-dir", str(run)) as daemon:
            daemon.wait_until_it_says("hypervisor_ready")
            with running("autoballoon", "--socket", str(run)) as autoballoon:
                autoballoon.wait_until_it_says("hypervisor_found")
                await until(run / "autoballoon.sock", gid=None)
                host.write_text(f'{plain}group = "{group.gr_name}"\n')
                daemon.process.send_signal(signal.SIGHUP)
                await until(run / "autoballoon.sock", gid=group.gr_gid)
                assert as_stranger([["--socket", str(run), "reserve", "64m", "true"]], [group])[0].code == 0
                host.write_text(plain)
                daemon.process.send_signal(signal.SIGHUP)
                await until(run / "autoballoon.sock", gid=None)
                assert autoballoon.end(signal.SIGTERM) == 0


def test_an_autoballoon_daemon_whose_socket_may_not_be_used_is_not_said_to_be_missing() -> None:
    """The sentence says whose it is, not to start another one; where there is none, it says so."""
    group = some_group()
    with public_directory() as directory:
        run = directory / "run"
        command = ["--socket", str(run), "reserve", "64m", "true"]
        with running(*hypervisor(run, "--group", group.gr_name)) as daemon:
            daemon.wait_until_it_says("hypervisor_ready")
            missing = as_stranger([command], [group])[0]
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(run / "autoballoon.sock"))
                listener.listen()
                (run / "autoballoon.sock").chmod(0o600)
                forbidden = as_stranger([command], [group])[0]
    assert (missing.code, "start one with `xbd autoballoon`" in missing.said) == (1, True)
    assert (forbidden.code, "start one" in forbidden.said) == (1, False)
    assert f"{run / 'autoballoon.sock'} belongs to user root alone (mode 0600)" in forbidden.said


def test_directories_that_may_not_be_looked_into() -> None:
    """Named to the commands that begin, save or check a host, each is refused in a sentence: usage (2) or configuration (78)."""
    with public_directory() as directory:
        ours = directory / "ours"
        ours.mkdir(mode=0o700)
        (ours / "state").mkdir()
        dump, file = directory / "host.dump", directory / "host.toml"
        file.write_text('[host]\nmemory = "64m"\n')
        ours_file = ours / "host.toml"
        ours_file.write_text('[host]\nmemory = "64m"\n')
        commands = {
            ("dump", str(ours), str(dump)): 2,
            ("dump", str(ours / "state"), str(dump)): 78,
            ("restore", str(dump), str(ours)): 2,
            ("restore", str(dump), str(ours / "state")): 78,
            ("hypervisor", "--memory", "64m", "--runtime-dir", str(ours / "run")): 78,
            (
                "hypervisor",
                "--memory",
                "64m",
                "--runtime-dir",
                str(ours / "run"),
                "--state-dir",
                str(ours / "state"),
            ): 78,
            ("hypervisor", "--config", str(ours_file)): 78,
            ("up", str(ours_file)): 78,
            ("check", str(ours_file)): 78,
            ("autoballoon", "--config", str(ours_file), "--socket", str(directory)): 78,
            ("xenstored", "--socket", str(directory), "--state-dir", str(ours / "state")): 78,
            ("xenstored", "--socket", str(directory), "--xenstore-socket", str(ours / "socket")): 78,
        }
        ends = as_stranger(list(commands))
    for (command, code), end in zip(commands.items(), ends, strict=True):
        assert (end.code, "Traceback" in end.said) == (code, False), (command, end)
        assert re.search("ermission denied|is not readable", end.said.splitlines()[-1]), (command, end)


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    """Links in a circle and names that are too long are refused in a line, not with a traceback."""
    circle = tmp_path / "circle"
    circle.symlink_to(circle)
    long = tmp_path / ("x" * 300)
    file = tmp_path / "host.toml"
    file.write_text(f'[host]\nmemory = "64m"\nruntime_dir = "{circle}"\n')
    for command, code in (
        (["hypervisor", "--memory", "64m", "--runtime-dir", str(circle)], 78),
        (["hypervisor", "--memory", "64m", "--runtime-dir", str(tmp_path), "--state-dir", str(circle)], 78),
        (["hypervisor", "--config", str(file)], 78),
        (["--socket", str(circle), "list"], 1),
        (["--socket", str(long), "list"], 78),
    ):
        with running(*command) as xbd:
            assert xbd.process.wait() == code, command
            xbd.end()
        assert len(xbd.said) == 1, xbd.said


def test_a_reload_whose_socket_is_gone_does_not_end_the_daemon(tmp_path: Path) -> None:
    """Somebody removed hypervisor.sock, then the host file names another group, or none: it says so, and goes on."""
    run, host, group = tmp_path / "run", tmp_path / "host.toml", some_group().gr_name
    plain = '[host]\nmemory = "64m"\n'
    host.write_text(f'{plain}group = "{group}"\n')
    with running("hypervisor", "--config", str(host), "--runtime-dir", str(run)) as daemon:
        daemon.wait_until_it_says("hypervisor_ready")
        (run / "hypervisor.sock").unlink()
        host.write_text(plain)
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_until_it_says("cannot be given mode 0600: No such file or directory")
        assert daemon.end(signal.SIGTERM) == 0


def test_a_guest_s_agent_waits_for_its_hypervisor(tmp_path: Path) -> None:
    """`guest --wait` stays where there is none, and plays its guest when one has come; without, it fails in a sentence."""
    host = tmp_path / "host.toml"
    host.write_text('[host]\nmemory = "256m"\n[[guest]]\nname = "web"\nmaximum = "64m"\nautostart = false\n')
    with running("guest", "web", "--socket", str(tmp_path)) as agent:
        assert agent.process.wait() == 1
        agent.end()
    assert "no hypervisor at" in agent.said[0]
    with running("guest", "web", "--wait", "--socket", str(tmp_path)) as agent:
        agent.wait_until_it_says("hypervisor_awaited")
        with running("hypervisor", "--config", str(host), "--runtime-dir", str(tmp_path)) as daemon:
            daemon.wait_until_it_says("hypervisor_ready")
            with running("wait", "web", "--for", "running", "--socket", str(tmp_path)) as waiting:
                assert waiting.process.wait() == 0
            assert agent.end(signal.SIGTERM) == 0


def test_an_agent_whose_domain_s_socket_is_not_its_own_does_not_flood_the_log() -> None:
    """A member of the group may look, not play: `guests` says so once for a domain, names the directory, and stays."""
    group = some_group()
    with public_directory() as directory:
        run, host = directory / "run", directory / "host.toml"
        host.write_text('[host]\nmemory = "256m"\n[[guest]]\nname = "web"\nmaximum = "64m"\n')
        with running(
            "hypervisor", "--config", str(host), "--runtime-dir", str(run), "--group", group.gr_name
        ) as daemon:
            daemon.wait_until_it_says("hypervisor_ready")
            # Killed as one that hangs, which is what it is to do here.
            end = as_stranger([["--socket", str(run), "guests", "--processes", "1"]], [group], hangs_after_s=4)[0]
    assert end.code == -signal.SIGKILL
    refused = [line for line in end.said.splitlines() if "agent_ended" in line]
    assert 1 <= len(refused) <= 2, end.said
    assert f"{os.fspath(run / 'domains')} belongs to user root alone" in refused[0]
