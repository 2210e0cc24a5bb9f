"""The dashboard and the alerts that are shipped ask for what is served, by labels and values that there are."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Final

import pytest
import yaml  # type: ignore[import-untyped]  # it has no annotations

from tests.cli.views import told
from xbd.control.controller import Controller
from xbd.daemons.metric_families import families
from xbd.domain import STATES, read_domain
from xbd.machine import Machine
from xbd.machine.counts import OUTCOMES
from xbd.shipped import shipped

DASHBOARD: Final = shipped("configs") / "grafana" / "xbd.json"
RULES: Final = shipped("configs") / "prometheus" / "xbd.rules.yml"
_SELECTED: Final = re.compile(r"\b(xbd_\w+)(?:\{([^}]*)\})?")
_MATCHER: Final = re.compile(r'(\w+)(=~|=)"([^"]*)"')
_GROUPED: Final = re.compile(r"\b(?:by|on) \(([^)]*)\)")
# What Prometheus itself adds to each series.
_OF_PROMETHEUS: Final = frozenset({"instance", "job"})


def served() -> dict[str, set[str]]:
    """Name what a real host's page has, and the labels of each: with a domain that called everything."""
    host = Controller(Machine(8), clock=lambda: 0.0).call("host", {})
    domain = read_domain(told(hypercalls={"decrease:done": 3, "populate:ENOMEM": 1}, node_pages=[3]))
    labels: dict[str, set[str]] = defaultdict(set)
    for family in families(host, [domain]):
        for sample in family.samples:
            labels[sample.name] |= sample.labels.keys()
    return labels


def panels() -> list[dict[str, Any]]:
    """List the panels that draw something."""
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def rules() -> list[dict[str, Any]]:
    """List the alerts."""
    return [rule for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]


EXPRESSIONS: Final = [target["expr"] for panel in panels() for target in panel["targets"]] + [
    rule["expr"] for rule in rules()
]


def wrong_in(expression: str, labels: dict[str, set[str]]) -> Iterator[str]:
    """Say what an expression asks for that is not there."""
    names = [name for name, _ in _SELECTED.findall(expression)]
    yield from (f"{name} is not served" for name in names if name not in labels)
    known = {label for name in names for label in labels.get(name, ())} | _OF_PROMETHEUS
    for group in _GROUPED.findall(expression):
        yield from (f"no label {label}" for label in re.findall(r"\w+", group) if label not in known)
    for name, matchers in _SELECTED.findall(expression):
        for label, operator, value in _MATCHER.findall(matchers):
            if label not in labels.get(name, ()):
                yield f"{name} has no label {label}"
            there = {"state": STATES, "outcome": OUTCOMES}.get(label)
            if there is None:
                continue
            meant = value.split("|") if operator == "=~" else [re.escape(value)]
            yield from (f"no {label} is {one}" for one in meant if not any(re.fullmatch(one, has) for has in there))
    for opening, closing in ("()", "{}", "[]"):
        if expression.count(opening) != expression.count(closing):
            yield f"{opening} and {closing} do not match"


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expressions_ask_for_what_is_served(expression: str) -> None:
    """Metrics, labels, states and outcomes of every panel and every alert are there."""
    assert list(wrong_in(expression, served())) == []
    assert _SELECTED.search(expression)


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("xbd_upp", "xbd_upp is not served"),
        ('xbd_domain_state{state="asleep"}', "no state is asleep"),
        ('xbd_domain_hypercalls_total{outcome=~"F.+"}', "no outcome"),
        ('xbd_frames{name="x"}', "no label name"),
        ("sum by (nme) (xbd_domain_grants)", "no label nme"),
        ("sum(xbd_up", "do not match"),
    ],
)
def test_what_is_not_there_is_found(expression: str, words: str) -> None:
    """The check can fail."""
    assert words in "; ".join(wrong_in(expression, served()))


def test_the_dashboard_shows_every_metric() -> None:
    """No metric is served that the dashboard leaves out, but for parts of histograms."""
    names = {name for expression in EXPRESSIONS for name, _ in _SELECTED.findall(expression)}
    text = DASHBOARD.read_text(encoding="utf-8")
    parts = {"xbd_target_wait_seconds_sum", "xbd_target_wait_seconds_count"}

    assert set(served()) - parts == names | {name for name in served() if f"label_values({name}," in text}


def test_panels_lie_side_by_side_and_say_what_they_are() -> None:
    """Each has a title, a description and a unit; none covers another, and all fit the width."""
    places: set[tuple[int, int]] = set()
    for panel in panels():
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not places & cells, panel["title"]
        places |= cells


def test_alerts_say_what_to_do() -> None:
    """Each alert has a name of its own, a severity, a summary and a description."""
    names = [rule["alert"] for rule in rules()]

    assert len(set(names)) == len(names) > 5
    for rule in rules():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "description"}
