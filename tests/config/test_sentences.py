"""The sentence for each way to get a setting wrong, whatever file or call it is written in.

`sentences.jsonl` has a line for each: the kind of file, its text, and what is said of it. A sentence that changes is
looked at by a person before the line is changed.
"""

import json
import tomllib
from pathlib import Path

import pytest

from xbd.config.autoballoon import parse_autoballoon_config
from xbd.config.host import parse_host_config
from xbd.control.guest_settings import plan_guest
from xbd.errors import ConfigError, TraceError, XbdError
from xbd.guest.workload import Trace
from xbd.lab.experiments.plan import parse_grid

CASES = [json.loads(line) for line in (Path(__file__).with_name("sentences.jsonl")).read_text().splitlines()]


def read(kind: str, text: str) -> object:
    """Read a text as a file of that kind; `guest` is the map that `create` takes."""
    match kind:
        case "host":
            return parse_host_config(text, "f.toml")
        case "autoballoon":
            return parse_autoballoon_config(text, "f.toml")
        case "experiment":
            return parse_grid(text, Path("f.toml"), no_trace)
    return plan_guest(tomllib.loads(text))


def no_trace(path: Path) -> Trace:
    """Refuse every trace, as an empty file is."""
    raise TraceError(f"{path.name}: line 1: the file is empty")


@pytest.mark.parametrize(("kind", "text", "sentence"), CASES, ids=range(len(CASES)))
def test_a_mistake_is_named(kind: str, text: str, sentence: str) -> None:
    """File, key with its whole path, what was written, and what is expected; an unknown key first of all."""
    with pytest.raises(XbdError) as refused:
        read(kind, text)
    assert str(refused.value) == sentence
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    "text",
    ["a = " + "[" * 100_000 + "]" * 100_000, ".".join("a" * 100_000) + " = 1", "[" + ". ".join("a" * 50) + "]",
     "a = " + "{b = " * 40 + "1" + "}" * 40, 'x = """a"""" # [[\n' + "a = " + "[" * 33 + "]" * 33],
    ids=["lists", "keys", "section", "tables", "after text"],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["host", "autoballoon", "experiment"])
def test_a_file_that_is_too_deep_is_refused_at_once(kind: str, text: str) -> None:
    """Before anything takes time or depth by it: tomllib takes time with the square of a key's parts."""
    with pytest.raises(ConfigError, match="nested too deeply"):
        read(kind, text)


def test_brackets_in_texts_and_comments_are_no_levels() -> None:
    """What only looks deep is read."""
    deep = "[{" * 40 + "a." * 40
    assert (
        parse_host_config(f'[host] # {deep}\nmemory = "2m"\nname = "{deep}"\ngroup = \'{deep}\'\n', "f").group == deep
    )
