"""What becomes of a host whose state directory is moved away, or has no room for the last file: it lives, and ends in order."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.blackbox.host import SMALL, files_in, hypervisor
from tests.blackbox.host_directory import run_xbd
from tests.blackbox.rpc import Caller, Refused
from tests.blackbox.test_resources_run_out import fill, small_disk

pytestmark = pytest.mark.slow


def test_a_host_outlives_that_its_state_is_moved_away(tmp_path: Path) -> None:
    """What needs a file is refused, the rest is answered; when the directory is back, all goes on."""
    state = tmp_path / "state"
    with ExitStack() as held:
        xbd = held.enter_context(hypervisor(tmp_path / "run", "--state-dir", str(state)))
        caller = held.enter_context(Caller(tmp_path / "run" / "hypervisor.sock"))
        caller.call("create", name="web-0", **SMALL)
        state.rename(tmp_path / "away")
        xbd.wait_until_it_says("state_dir_unreachable")
        with pytest.raises(Refused):
            caller.call("create", name="web-1", **SMALL)
        assert [domain["name"] for domain in caller.call("list")["domains"]] == ["web-0"]
        (tmp_path / "away").rename(state)
        xbd.wait_until_it_says("state_dir_has_room")
        caller.call("create", name="web-1", **SMALL)
        assert caller.call("audit") == {"violations": []}
    assert (state / "checksums.json").exists()


def test_a_host_ends_in_order_whose_state_stays_away(tmp_path: Path) -> None:
    """There are no checksums then, and the log says so; put back, the directory holds the host."""
    state = tmp_path / "state"
    with hypervisor(tmp_path / "run", "--state-dir", str(state)) as xbd:
        with Caller(tmp_path / "run" / "hypervisor.sock") as caller:
            caller.call("create", name="web-0", **SMALL)
        state.rename(tmp_path / "away")
    assert "checksums_not_written" in "".join(xbd.said)
    (tmp_path / "away").rename(state)
    with (
        hypervisor(tmp_path / "run", "--state-dir", str(state)),
        Caller(tmp_path / "run" / "hypervisor.sock") as caller,
    ):
        assert [domain["name"] for domain in caller.call("list")["domains"]] == ["web-0"]


def test_a_host_ends_in_order_on_a_full_disk(tmp_path: Path) -> None:
    """The checksums find no room: nothing of them is left, and the next daemon goes on as after a kill."""
    with small_disk(tmp_path / "disk"):
        state = tmp_path / "disk" / "state"
        with hypervisor(tmp_path / "run", "--state-dir", str(state)) as xbd:
            with Caller(tmp_path / "run" / "hypervisor.sock") as caller:
                caller.call("create", name="web-0", **SMALL)
            fill(tmp_path / "disk" / "ballast")
        assert "checksums_not_written" in "".join(xbd.said)
        assert not {"checksums.json", "checksums.new"} & files_in(state)
        (tmp_path / "disk" / "ballast").unlink()
        with (
            hypervisor(tmp_path / "run", "--state-dir", str(state)),
            Caller(tmp_path / "run" / "hypervisor.sock") as caller,
        ):
            assert len(caller.call("list")["domains"]) == 1


def test_a_directory_that_cannot_be_made_is_not_in_use() -> None:
    """The sentence says what is wrong: nobody uses a directory that cannot be there."""
    done = run_xbd("hypervisor", "--memory", "32m", "--state-dir", "/proc/none/state")
    assert (done.returncode, done.stdout) == (78, "")
    assert "/proc/none/state: cannot be the state directory: No such file or directory" in done.stderr
