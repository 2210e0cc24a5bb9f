"""Policies of strangers: what they may answer, what becomes of one that does not keep to it, and how they are found."""

import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.policy.simulated import Guest, Host
from xbd.config.policies import BUILT_IN, GROUP, is_policy_name, known_policies, make_policy
from xbd.errors import BadArgument, BadSetting
from xbd.policy import SetMax, SetTarget, Settings, Snapshot, State, step
from xbd.policy.builtin.fair import Fair, Static
from xbd.policy.builtin.mom import Mom
from xbd.units import SUPER_PAGES as S


class Stranger:
    """A policy that does whatever it was made for."""

    def __init__(self, does: Callable[[Snapshot], Any]) -> None:
        self._does = does

    def step(self, state: object, snapshot: Snapshot, now: float) -> tuple[object, Sequence[SetTarget]]:
        """Do it."""
        del state, now
        return None, self._does(snapshot)


def two() -> Host:
    """Make a host with two guests between 10 and 100 superpages that hold 40, and 30 free."""
    settings = Settings(headroom_pages=10 * S, threshold_pages=0, min_interval_s=0.0)
    return Host([Guest(domid, 10 * S, 100 * S, 40 * S) for domid in (1, 2)], 30 * S, State(settings))


def _raise(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("does", "says"),
    [
        (lambda _: _raise(ValueError("one\x1bline")), "it raised ValueError: one?line (test_plugin.py, line "),
        (lambda _: _raise(SystemExit(3)), "it raised SystemExit: 3"),
        (lambda _: 7, "it raised TypeError"),
        (lambda _: [7], "it raised AttributeError"),
        (lambda _: [SetTarget(9, S)], "it set a target of domain 9, which it was not shown"),
        (lambda _: [SetTarget(1, S), SetTarget(1, S)], "it set a target of domain 1, which it was not shown"),
        (lambda _: [SetTarget(1, -1)], "it set the target of d1 to -1, not 0 to"),
        (lambda _: [SetTarget(1, 1 << 60)], "it set the target of d1 to 1152921504606846976, not 0 to"),
        (lambda _: [SetTarget(1, float("nan"))], "it set the target of d1 to nan, not 0 to"),  # type: ignore[arg-type]
        (lambda _: [SetTarget(bool(S), S)], "it set a target of domain True"),
        (lambda _: [SetTarget(1, S)] * 3, "not a list of at most 2 targets"),
    ],
)
def test_trouble_is_told_and_static_goes_on(does: Callable[[Snapshot], Any], says: str) -> None:
    """Nobody is moved by it then, now or later, and the policy is not asked again; what it said is in the state."""
    host = two()
    asked = []

    def note(snapshot: Snapshot) -> Any:  # noqa: ANN401 - what a stranger answers
        asked.append(snapshot)
        return does(snapshot)

    host.policy = Stranger(note)
    host.run(5)

    assert (host.wrong, host.moves, len(asked)) == ([], {}, 1)
    assert host.state.trouble.startswith(says) or says in host.state.trouble


def test_a_strange_policy_is_kept_within_bounds() -> None:
    """One that wants all for everybody, or nothing, gets what bounds and headroom allow; what it said is the reason."""
    greedy, stingy = two(), two()
    greedy.policy = Stranger(lambda snapshot: [SetTarget(each.domid, 1 << 40, "all") for each in snapshot.domains])
    stingy.policy = Stranger(lambda snapshot: [SetTarget(each.domid, 0, "none") for each in snapshot.domains])
    for host in (greedy, stingy):
        host.run(20)

    assert greedy.wrong == stingy.wrong == []
    assert ([guest.tot for guest in greedy.guests], greedy.free) == ([50 * S, 50 * S], 10 * S)
    assert ([guest.tot for guest in stingy.guests], stingy.free) == ([10 * S, 10 * S], 90 * S)
    assert greedy.state.decisions[1].reason == "all; all want more than there is"
    assert stingy.state.decisions[1].reason == "none"


def test_bare_sends_what_the_policy_wants() -> None:
    """Without the safety layer a target goes out as it is, beyond any bound, its limit with it."""
    host = two()
    state = replace(host.state, settings=Settings(bare=True))
    policy = Stranger(lambda _: [SetTarget(1, 200 * S + 1), SetTarget(2, 3)])
    _, actions = step(state, host.snapshot(), 0.0, policy)

    assert actions == [SetMax(1, 201 * S), SetTarget(1, 200 * S + 1), SetTarget(2, 3), SetMax(2, S)]


def test_static_lets_reservations_have_what_they_need() -> None:
    """It moves nobody; what headroom needs is still taken, evenly."""
    host = two()
    host.policy, host.claimed = Static(), 25 * S
    host.run(20)

    assert host.free - host.claimed >= host.state.settings.headroom_pages
    assert {guest.tot for guest in host.guests} == {37 * S}


# -- names


def test_the_table_is_what_the_package_declares() -> None:
    """Xbd's own policies are entry points as a stranger's would be, and known without an installation."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    declared = {name: f"{kind.__module__}:{kind.__qualname__}" for name, kind in BUILT_IN.items()}

    assert project["entry-points"][GROUP] == declared
    assert known_policies()[: len(BUILT_IN)] == tuple(BUILT_IN)


def test_a_policy_is_made_by_name_or_by_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Xbd's own with settings that are checked; a class, a function or a policy itself of a module on the path."""
    (tmp_path / "strangers.py").write_text(
        "class Mine:\n    def __init__(self, part=1): self.part = part\n    def step(self, *a): return None, []\n"
        "mine = Mine(3)\nnumber = 4\ndef nothing(): return 5\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    assert make_policy("mom", {"every_s": 1}) == Mom(every_s=1.0)
    assert make_policy("strangers:Mine", {"part": 2}).part == 2  # type: ignore[attr-defined]
    assert make_policy("strangers:mine", {}).part == 3  # type: ignore[attr-defined]
    for name, settings, says in (
        ("strangers:Mine", {"whole": 2}, "cannot be made of its settings: TypeError"),
        ("strangers:mine", {"part": 2}, "takes no settings"),
        ("strangers:number", {}, "is a int, and no policy"),
        ("strangers:nothing", {}, "makes a int, which has no `step`"),
        ("strangers:none", {}, "cannot be imported: AttributeError"),
        ("nowhere_at_all:x", {}, "cannot be imported: ModuleNotFoundError"),
        ("fair", {"part": 1}, "cannot be made of its settings: TypeError"),
        ("mom", {"evry_s": 1}, "did you mean 'every_s'"),
    ):
        with pytest.raises(BadSetting, match=says):
            make_policy(name, settings)
    with pytest.raises(BadArgument, match="did you mean 'fair'"):
        make_policy("fare", {})
    del sys.modules["strangers"]


@pytest.mark.parametrize(
    ("name", "fits"), [("fair", True), ("a.b:C", True), ("fare", False), ("a:", False), ("a b:c", False)]
)
def test_what_can_be_a_name(name: str, *, fits: bool) -> None:
    """An installed policy's, or module:object; the module is not imported to see."""
    assert is_policy_name(name) is fits


def test_fair_is_the_default() -> None:
    """A step without a policy is one with `fair`."""
    host = two()
    assert step(host.state, host.snapshot(), 0.0)[1] == step(host.state, host.snapshot(), 0.0, Fair())[1] != []
