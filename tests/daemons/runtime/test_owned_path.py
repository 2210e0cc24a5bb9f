"""Whose each component of a socket's path is: who could replace one could lead clients to a socket of theirs."""

import os
from pathlib import Path

import pytest

from xbd.daemons.runtime.owned_path import refuse_shared_path
from xbd.errors import ConfigError

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
STRANGER = 12345


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Make a directory below another one, both this user's alone."""
    run = tmp_path / "above" / "run"
    run.mkdir(parents=True)
    return run


def test_a_private_path_is_all_right(run: Path) -> None:
    """Below /tmp, too, whose sticky bit keeps others from what is not theirs; and where it is not there yet."""
    refuse_shared_path(run)
    refuse_shared_path(run / "not" / "yet")


@pytest.mark.parametrize("mode", [0o777, 0o702])
def test_a_directory_above_that_everybody_can_write_is_refused(run: Path, mode: int) -> None:
    """Everybody could put another directory in the place of the one below; with the sticky bit they cannot."""
    run.parent.chmod(mode)
    with pytest.raises(ConfigError, match=r"is above .* can be written by everybody .*chmod go-w") as told:
        refuse_shared_path(run)
    assert told.value.path == run.parent
    run.parent.chmod(mode | 0o1000)
    refuse_shared_path(run)


def test_the_last_directory_may_not_even_be_sticky(run: Path) -> None:
    """There others could put a socket before ours is there."""
    run.chmod(0o1777)
    with pytest.raises(ConfigError, match="chmod it to 0750"):
        refuse_shared_path(run)


@as_root
@pytest.mark.parametrize("which", ["last", "above"])
def test_a_stranger_s_directory_is_refused(run: Path, which: str) -> None:
    """Whoever owns one can rename what is in it; a group that can write can do so, too."""
    theirs = run if which == "last" else run.parent
    os.chown(theirs, STRANGER, -1)
    with pytest.raises(ConfigError, match=f"belongs to user {STRANGER}") as told:
        refuse_shared_path(run)
    assert told.value.path == theirs
    os.chown(theirs, os.geteuid(), STRANGER)
    theirs.chmod(0o770)
    with pytest.raises(ConfigError, match=f"can be written by group {STRANGER}"):
        refuse_shared_path(run)


@as_root
def test_a_stranger_s_link_is_refused(run: Path) -> None:
    """They could let it point elsewhere; one's own link is followed, and what it leads through is looked at."""
    link = run.parent / "link"
    link.symlink_to(run)
    refuse_shared_path(link)
    refuse_shared_path(link / ".." / "run")
    os.chown(link, STRANGER, -1, follow_symlinks=False)
    with pytest.raises(ConfigError, match=f"belongs to user {STRANGER}") as told:
        refuse_shared_path(link / "below")
    assert told.value.path == link


def test_what_a_link_leads_through_is_looked_at(run: Path, tmp_path: Path) -> None:
    """A link of one's own does not make a directory of everybody's a private one; relative or absolute."""
    shared = tmp_path / "shared"
    (shared / "inside").mkdir(parents=True)
    shared.chmod(0o777)
    for name, target in (("absolute", shared / "inside"), ("relative", Path("../../shared/inside"))):
        (run / name).symlink_to(target)
        with pytest.raises(ConfigError, match="can be written by everybody") as told:
            refuse_shared_path(run / name)
        assert told.value.path == shared


def test_links_in_a_circle_are_an_error(run: Path) -> None:
    """As they are for the system."""
    (run / "a").symlink_to("b")
    (run / "b").symlink_to("a")
    with pytest.raises(OSError, match="Too many levels"):
        refuse_shared_path(run / "a")
