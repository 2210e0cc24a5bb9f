"""The machine at hand, measured: what it tells becomes prices, what it refuses is said."""

import json
import mmap
from pathlib import Path

import pytest
from click.testing import CliRunner

from xbd.cli.main import main
from xbd.errors import BadArgument
from xbd.lab.costs.calibration import MEASURED, Measurements, Timing, calibrated, timing_of
from xbd.lab.costs.prices import PRIMITIVES
from xbd.lab.costs.shell import machine
from xbd.lab.costs.shell.files import read_prices

_BASE = read_prices("kvm-xeon6252")


def _timing(value: float) -> Timing:
    return Timing(value, 0.9 * value, 1.2 * value)


def test_this_machine_is_measured_and_its_prices_are_read(tmp_path: Path) -> None:
    """Each figure is measured, above 0, or it is said why not; the file is one that `--prices` takes."""
    path = tmp_path / "here.toml"
    outcome = CliRunner().invoke(main, ["calibrate", str(path), "--memory", "8m", "--json"])
    told = json.loads(outcome.stdout)

    assert outcome.exit_code == 0
    assert told["measured"].keys() | told["refused"].keys() == set(MEASURED)
    assert not told["measured"].keys() & told["refused"].keys()
    assert all(timing["least_us"] <= timing["us"] <= timing["most_us"] for timing in told["measured"].values())
    assert told["measured"]["zero_2m"]["us"] > told["measured"]["zero_4k"]["us"] > 0
    assert told["measured"]["fault_4k"]["us"] > 0
    prices = read_prices(str(path))
    assert prices.of("unmap").value == pytest.approx(told["measured"]["drop_4k_untouched"]["us"], rel=1e-4)
    assert prices.of("extent").source.startswith("not measured here, taken over from kvm-xeon6252")


def test_prices_follow_from_what_was_measured() -> None:
    """Each timing where it belongs, differences where two are needed, ranges from the repeats."""
    timings = {name: _timing(10.0) for name in MEASURED} | {
        "zero_4k": _timing(1.0), "fault_4k": _timing(4.0), "drop_4k_untouched": _timing(0.5),
        "drop_4k_touched": _timing(2.0), "drop_2m_touched": _timing(53.1), "move_4k": _timing(3.5),
        "access_4k": _timing(1.0), "access_2m": _timing(0.6),
    }  # fmt: skip
    prices = calibrated(Measurements("a machine", timings), _BASE)
    expected = {"zero_page": 1.0, "fault": 3.0, "unmap": 0.5, "zap": 1.5, "struct_page": 0.1, "move_page": 3.5}
    assert {name: prices.of(name).value for name in expected} == pytest.approx(expected)
    assert (prices.of("fault").least, prices.of("fault").most) == pytest.approx((2.4, 3.9))
    assert prices.of("broken_slowdown").value == _BASE.of("broken_slowdown").value
    assert prices.of("broken_slowdown").most == pytest.approx(0.4)
    assert timing_of([3.0, -1.0, 2.0]) == Timing(2.0, 0.0, 3.0)


def test_what_is_refused_is_said_and_not_guessed() -> None:
    """Without measurements all prices are the base's, and say so; the reasons are in the file."""
    prices = calibrated(
        Measurements("a machine", refused={"move_4k": "no second node", "fault_2m": "no huge pages"}), _BASE
    )
    assert [prices.of(name).value for name in PRIMITIVES] == [_BASE.of(name).value for name in PRIMITIVES]
    assert all(prices.of(name).source.startswith("not measured here") for name in PRIMITIVES)
    assert "no second node" in prices.about
    assert "no huge pages" in prices.about


def test_a_machine_that_refuses_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel without huge pages, or without a second node, ends nothing: the rest is measured."""
    monkeypatch.setattr(machine, "_NODES", Path("/nonexistent"))
    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", 9999)
    found = machine.measure(8 << 20)
    assert {"move_4k", "fault_2m", "drop_2m_touched", "access_2m"} == found.refused.keys()
    assert "no second node" in found.refused["move_4k"]
    assert found.refused["fault_2m"].startswith("no transparent huge pages")


@pytest.mark.parametrize(("options", "said"), [(["--memory", "4m"], "at least 8 MiB"), (["--base", "xenn"], "'xen'")])
def test_what_cannot_be_is_refused(options: list[str], said: str, tmp_path: Path) -> None:
    """Too little memory, another base than there is, a file that cannot be written: before anything is measured."""
    outcome = CliRunner().invoke(main, ["calibrate", str(tmp_path / "here.toml"), *options])
    assert (outcome.exit_code, said in outcome.stderr) == (1, True)
    outcome = CliRunner().invoke(main, ["calibrate", str(tmp_path / "no" / "here.toml")])
    assert (outcome.exit_code, "name another file" in outcome.stderr) == (1, True)
    with pytest.raises(BadArgument):
        read_prices(str(tmp_path / "nothing.toml"))
