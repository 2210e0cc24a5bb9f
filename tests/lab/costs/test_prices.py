"""Price files: the presets that come with xbd, and what is wrong with others'."""

from pathlib import Path

import pytest

from xbd.errors import BadArgument, ConfigError
from xbd.lab.costs.prices import PRIMITIVES, Price, parse_prices
from xbd.lab.costs.shell.files import presets, read_prices


def test_presets_say_where_each_price_is_from() -> None:
    """Both are there; each price has a source, and an assumed one lies in its range."""
    assert presets() == ["kvm-xeon6252", "xen"]
    for name in presets():
        prices = read_prices(name)
        assert prices.name == name
        assert all(prices.of(one).source for one in PRIMITIVES)
        assert {"move_page", "broken_slowdown"} <= set(prices.uncertain())


def test_fewer_prices_were_fitted_than_there_are_figures() -> None:
    """Each fitted price has one figure, known as it is; the rest of the figures are predictions."""
    prices = read_prices("kvm-xeon6252")
    fitted = [figure.fitted for figure in prices.published if figure.fitted]
    assert sorted(fitted) == sorted(set(fitted))
    assert len(fitted) < len(prices.published) == 8
    assert not set(fitted) & set(prices.uncertain())


def test_a_file_of_prices_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    """With a price replaced, under another name; quotes and lines in sources survive."""
    cheaper = Price(value=0.5, low=0.25, high=1.0, source='"measured"\nhere, with a \\')
    changed = read_prices("xen").changed({"move_page": cheaper}, name="mine", about="a test")
    path = tmp_path / "mine.toml"
    path.write_text(changed.as_toml(), encoding="utf-8")
    assert read_prices(str(path)) == changed


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("value = 3.0", "value = 9.0", "price.move_page.value: 9 is not between low and high, 1.5 and 5"),
        ("value = 3.0", "value = -1", "price.move_page.value: -1 is not a number from 0 to 1000000"),
        ("[price.zap]", "[price.zapp]", "price.zapp: is not a key of this section; did you mean 'zap'?"),
        ("[price.zap]\nvalue = 0.0\nsource", "[price.fault.x]\nsource", "price.fault"),
        ('name = "xen"', "", "name: is missing"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(old: str, new: str, sentence: str) -> None:
    """The key with its path, and what was expected."""
    written = (
        read_prices("xen").as_toml().replace("value = 3\n", "value = 3.0\n").replace("value = 0\n", "value = 0.0\n")
    )
    assert old in written
    with pytest.raises(ConfigError) as refused:
        parse_prices(written.replace(old, new), "f.toml")
    assert f"f.toml: {sentence}" in str(refused.value)


def test_an_unknown_preset_is_named_with_those_that_there_are() -> None:
    """Neither a preset nor a file."""
    with pytest.raises(BadArgument, match=r"no preset or file of prices 'xeon'.*kvm-xeon6252, xen"):
        read_prices("xeon")
