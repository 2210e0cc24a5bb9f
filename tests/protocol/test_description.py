"""The protocol's description: it is whole, JSON can hold it, and its schemas say what the checks check."""

import json
from collections.abc import Iterator

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from tests.garbage import VALUES
from tests.schema import DESCRIBED, wrong_in
from xbd.cli.main import main
from xbd.domain import DomainInfo, DomainSpec, read_domain
from xbd.errors import BadArgument, RemoteProtocolError
from xbd.protocol.autoballoon_methods import AUTOBALLOON_METHODS
from xbd.protocol.events import EVENT_PARTS, EVENTS
from xbd.protocol.guest_methods import DOMAIN_METHODS, DOMAIN_NOTIFICATIONS
from xbd.protocol.methods import (
    TOOLSTACK_METHODS,
)
from xbd.shapes import Part, integer, parts_of, record, text

TABLES = (TOOLSTACK_METHODS, DOMAIN_METHODS, AUTOBALLOON_METHODS, DOMAIN_NOTIFICATIONS, EVENTS)
DOMAIN = DomainInfo(1, "web", "pvh", "running", 512, 512, 512, 0, 512, 1, 1.0)


def checked_parts() -> Iterator[Part]:
    """List the parts of all tables whose schemas say all that is checked: of a bin JSON has no words for the content."""
    for table in TABLES:
        for method in table.values():
            yield from (part for part in method.params.values() if part.shape.schema.get("format") != "bin")
    yield from EVENT_PARTS.values()


def is_taken(part: Part, value: object) -> bool:
    """Tell whether a part's check takes a value."""
    try:
        part.check("it", value)
    except BadArgument:
        return False
    return True


@given(VALUES | st.integers(-2, 513) | st.sampled_from(["pvh", "restart", "created", "web", "normal"]))
def test_schemas_and_checks_say_the_same(value: object) -> None:
    """What a check takes its schema takes, for every part of every table; and what the schema refuses is refused."""
    for part in checked_parts():
        if is_taken(part, value):
            assert list(wrong_in(dict(part.shape.schema), value)) == [], (part.doc, value)


@pytest.mark.parametrize("value", [0, -1, 1 << 60, "", "x" * 65, "a\x1b", None, True, 1.5, [], ["x"], {"a": 1}, b"x"])
def test_what_is_out_of_bounds_is_so_by_schema_and_check(value: object) -> None:
    """For numbers, texts, choices and flags both say the same of values that are just wrong, and of others."""
    for part in checked_parts():
        if part.shape.schema.get("type") not in ("object", "number"):
            assert is_taken(part, value) == (not list(wrong_in(dict(part.shape.schema), value))), (part.doc, value)


def test_the_command_prints_what_json_can_hold() -> None:
    """`xbd protocol --json` is the description, with every method, event and notification."""
    told = json.loads(CliRunner().invoke(main, ["protocol", "--json"]).output)

    assert told == json.loads(json.dumps(DESCRIBED))
    assert set(told["sockets"]["hypervisor.sock"]["methods"]) == set(TOOLSTACK_METHODS)
    assert set(told["sockets"]["domains/N.sock"]["methods"]) == set(DOMAIN_METHODS)
    assert [one["properties"]["event"]["const"] for one in told["$defs"]["event"]["anyOf"]] == list(EVENTS)
    assert CliRunner().invoke(main, ["protocol"]).output.startswith("# Methods\n")


def test_a_spec_is_what_create_takes() -> None:
    """The parameters that a spec writes are those of the table; read again they are the same spec."""
    spec = DomainSpec("web", 1024, 512, guest={"seed": 7}, autostart=False, vcpus=2, nodes=[1, 0], affinity="hard")
    written = spec.as_params()

    assert written.keys() == TOOLSTACK_METHODS["create"].params.keys()
    assert not list(wrong_in(dict(TOOLSTACK_METHODS["create"].carried), written))
    assert (
        DomainSpec(
            **{name: TOOLSTACK_METHODS["create"].params[name].check(name, part) for name, part in written.items()}
        )
        == spec
    )


def test_what_is_told_of_a_domain_is_read_again_the_same() -> None:
    """Also by a client that is older than its daemon: what it does not know it keeps."""
    newer = {**DOMAIN.as_map(), "colour": "blue"}

    assert read_domain(DOMAIN.as_map()) == DOMAIN
    assert read_domain(newer).more == {"colour": "blue"}
    assert read_domain(newer).as_map() == newer


def test_what_is_told_of_a_domain_must_be_there() -> None:
    """A client of a daemon that lacks what is new takes the default; without a name, or with a wrong one, it refuses."""
    told = DOMAIN.as_map()

    assert read_domain({name: part for name, part in told.items() if name != "claimed_pages"}) == DOMAIN
    for wrong in ({**told, "tot_pages": "many"}, {name: told[name] for name in told if name != "name"}, None):
        with pytest.raises(RemoteProtocolError):
            read_domain(wrong)


def test_a_part_that_is_wrong_is_found() -> None:
    """The judge of these tests can say no."""
    schema = dict(record({"pages": Part(integer(1, 9), "some"), "name": Part(text(3), "one", default="x")}))

    assert list(wrong_in(schema, {"pages": 9, "name": "web"})) == []
    wrongs: tuple[object, ...] = (
        {},
        {"pages": 10},
        {"pages": True},
        {"pages": 1, "name": "long"},
        {"pages": 1, "other": 1},
        [],
    )
    for wrong in wrongs:
        assert list(wrong_in(schema, wrong)), wrong
    assert list(parts_of(DomainSpec)) == list(TOOLSTACK_METHODS["create"].params)
