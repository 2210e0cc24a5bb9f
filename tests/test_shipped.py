"""What comes with xbd beside its code: found in a checkout as in an installed package."""

from pathlib import Path

import pytest

from xbd import shipped


def test_a_checkout_has_them_beside_the_package() -> None:
    """The example host file and the hypervisor's unit lie where they are said to lie."""
    assert (shipped.shipped("configs") / "small.toml").is_file()
    assert (shipped.shipped("systemd") / "xbd-hypervisor.service").is_file()


def test_an_installed_package_has_them_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those inside are preferred; `.ci/package` sees that a wheel has them there."""
    (tmp_path / "xbd" / "configs").mkdir(parents=True)
    monkeypatch.setattr(shipped, "_PACKAGE", tmp_path / "xbd")
    assert shipped.shipped("configs") == tmp_path / "xbd" / "configs"
    assert shipped.shipped("systemd") == tmp_path / "systemd"
