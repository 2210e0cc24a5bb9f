"""Who may use a directory: one daemon at a time, and none whose directory others could change; of every daemon that has one."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from xbd.daemons.autoballoon import lock as lock_autoballoon
from xbd.daemons.runtime.lock import FileLock
from xbd.daemons.runtime.outside import replaced
from xbd.daemons.runtime.sockets import lock_runtime_dir
from xbd.daemons.runtime.state_dir import StateDir
from xbd.daemons.xenstore_file import StoreFile
from xbd.errors import ConfigError

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
STRANGER: int = 12345

# What uses a directory: (who, how it is used, how it is let go of).
Use = Callable[[Path], Callable[[], object]]


def runtime_dir(path: Path) -> Callable[[], object]:
    """Use it as a hypervisor's run-time directory."""
    return lock_runtime_dir(path, None).release


def state_dir(path: Path) -> Callable[[], object]:
    """Use it as a hypervisor's state directory."""
    state = StateDir(path)
    return lambda: state.close(in_order=False)


def store_dir(path: Path) -> Callable[[], object]:
    """Use it as a XenStore's state directory."""
    return StoreFile(path).close


def beside_the_hypervisor(path: Path) -> Callable[[], object]:
    """Use it as the autoballoon daemon does the hypervisor's run-time directory."""
    return lock_autoballoon(path / "autoballoon.sock").release


def binding(path: Path) -> Callable[[], object]:
    """Use it as whoever binds a socket in it does meanwhile."""
    return FileLock(path / ".socket.binding").release


OWNERS: list[Use] = [runtime_dir, state_dir, store_dir]


@pytest.mark.parametrize("use", [*OWNERS, beside_the_hypervisor])
def test_one_at_a_time(tmp_path: Path, use: Use) -> None:
    """A second one is refused while the first is there, and let in after it."""
    let_go = use(tmp_path)
    with pytest.raises(ConfigError, match=r"another `xbd|in use by another"):
        use(tmp_path)
    let_go()
    use(tmp_path)()


@pytest.mark.parametrize("use", [*OWNERS, beside_the_hypervisor, binding])
def test_one_at_a_time_though_its_lock_s_file_was_deleted(tmp_path: Path, use: Use) -> None:
    """A second one is refused, and so is the third, which finds the file of the second; afterwards the next is let in."""
    let_go = use(tmp_path)
    (lock,) = (path for path in tmp_path.iterdir() if path.suffix in (".lock", ".binding") or path.name == "lock")
    lock.unlink()
    for _ in range(2):
        with pytest.raises((ConfigError, BlockingIOError), match=r"another `xbd|in use by another|unavailable"):
            use(tmp_path)
    let_go()
    use(tmp_path)()


def test_locks_of_other_names_in_a_directory_do_not_matter(tmp_path: Path) -> None:
    """A hypervisor, its autoballoon daemon, a host's state and a store may share a directory."""
    held = [use(tmp_path) for use in (state_dir, runtime_dir, beside_the_hypervisor, store_dir)]
    for let_go in held:
        let_go()


@pytest.mark.parametrize("use", OWNERS)
@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o702])
def test_a_directory_that_others_can_write_is_refused(tmp_path: Path, use: Use, mode: int) -> None:
    """In a sentence with what to do; nothing is put into it, and its mode stays."""
    directory = tmp_path / "shared"
    directory.mkdir()
    directory.chmod(mode)
    with pytest.raises(ConfigError, match=rf"can be written by everybody \(mode {mode:04o}\).*chmod it to 0750"):
        use(directory)
    assert list(directory.iterdir()) == []
    assert stat.S_IMODE(directory.stat().st_mode) == mode


@as_root
@pytest.mark.parametrize("use", OWNERS)
def test_a_directory_of_another_s_is_refused(tmp_path: Path, use: Use) -> None:
    """And one that another group can write, or that is reached by a link of another's; nothing is put into it."""
    directory, link = tmp_path / "theirs", tmp_path / "link"
    directory.mkdir(mode=0o750)
    os.chown(directory, STRANGER, -1)
    with pytest.raises(ConfigError, match=f"belongs to user {STRANGER}"):
        use(directory)
    os.chown(directory, os.geteuid(), STRANGER)
    directory.chmod(0o770)
    with pytest.raises(ConfigError, match=f"can be written by group {STRANGER}"):
        use(directory)
    directory.chmod(0o750)
    link.symlink_to(directory)
    os.chown(link, STRANGER, -1, follow_symlinks=False)
    with pytest.raises(ConfigError, match=f"belongs to user {STRANGER}"):
        use(link)
    assert list(directory.iterdir()) == []
    use(directory)()


def test_a_link_in_the_place_of_a_lock_is_not_followed(tmp_path: Path) -> None:
    """What it points to is neither made nor opened."""
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        FileLock(tmp_path / "lock")
    assert not (tmp_path / "elsewhere").exists()


def test_a_new_lock_s_file_goes_when_all_is_left_as_found(tmp_path: Path) -> None:
    """One that was there stays."""
    path = tmp_path / "lock"
    FileLock(path).release(as_found=True)
    assert not path.exists()
    FileLock(path).release()
    FileLock(path).release(as_found=True)
    assert path.exists()


def test_a_lock_whose_file_cannot_be_removed_is_let_go_of_all_the_same(tmp_path: Path) -> None:
    """The next one gets it, and no descriptor stays open."""

    def unlink(*_: object) -> None:
        raise PermissionError

    def opened() -> int:
        """Count the descriptors of what lies there: others may be closed meanwhile, by the collector."""
        return sum(at.is_relative_to(tmp_path) for at in (own.resolve() for own in Path("/proc/self/fd").iterdir()))

    lock = FileLock(tmp_path / "lock")
    assert opened() == 2
    with replaced(unlink=unlink):
        lock.release(as_found=True)
    assert opened() == 0
    FileLock(tmp_path / "lock").release()
