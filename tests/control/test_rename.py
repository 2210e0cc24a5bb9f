"""Guests that are called otherwise: number, UUID and memory stay, and nobody takes one for another."""

import pytest

from tests.daemons.test_recovery import restarted, saved_host
from tests.peer import create, do, listed, small_host
from xbd.control.targets import BadRequest, choose
from xbd.domain import DomainInfo, is_about, number_of
from xbd.errors import AlreadyExists, BadArgument, NoSuchDomain, NotPermitted


def test_a_renamed_guest_is_found_by_its_new_name_alone() -> None:
    """Also after a restart; its old name is free, whichever is the longer one."""
    store, host = saved_host()
    domid, before = create(host, "a-rather-long-name"), host.domain_info(1)
    do(host, "rename", domid="a-rather-long-name", name="b")
    host = restarted(store)
    seen = host.domain_info(domid)
    assert (seen.name, seen.uuid) == ("b", before.uuid)
    with pytest.raises(NoSuchDomain):
        do(host, "info", domain="a-rather-long-name")
    assert create(host, "a-rather-long-name") == 2
    assert host.call("info", {"domain": "b"})["domid"] == 1
    assert host.audit() == []


def test_who_remembers_a_domain_knows_it_under_its_new_name() -> None:
    """An event says what it was called, and is about the domain that its UUID says."""
    host = small_host()
    domid, other = create(host), create(host, "db")
    before = host.domain_info(domid)
    do(host, "rename", domid=domid, name="www")
    event = host.events.since(0)[-1]
    assert (event["event"], event["name"], event["before"]) == ("renamed", "www", "web")
    assert is_about(event, before)
    assert not is_about(event, host.domain_info(other))
    number = host.events.next_number
    do(host, "rename", domid=domid, name="www")
    assert host.events.next_number == number


def test_a_name_that_cannot_be_changes_nothing() -> None:
    """One that is taken, or is none, and dom0's."""
    host = small_host()
    with host.step():
        host.create_dom0({"name": "dom0", "max_pages": 2048, "target_pages": 2048})
    create(host), create(host, "db")
    for name, error in (("db", AlreadyExists), ("7", BadArgument), ("a*", BadArgument)):
        with pytest.raises(error):
            do(host, "rename", domid="web", name=name)
    with pytest.raises(NotPermitted, match="keeps its name"):
        do(host, "rename", domid="Domain-0", name="zero")
    assert [host.domain_info(domid).name for domid in range(3)] == ["dom0", "web", "db"]


@pytest.mark.parametrize(
    ("written", "number"),
    [("7", 7), ("d7", 7), ("0", 0), ("d0", 0), ("Domain-0", 0), ("d12", 12)]
    + [
        (word, None) for word in ("", "d", "dd7", "D7", "d-7", "-7", "d07", "d7 ", "\u0663", "Domain-1", "d" + "9" * 40)
    ],
)
def test_a_number_is_written_with_a_d_or_without(written: str, number: int | None) -> None:
    """As commands and logs write it; other words are none."""
    assert number_of(written) == number


def test_a_domain_that_is_called_like_a_number_is_meant_first() -> None:
    """By the daemon and by commands alike; where none is called so, the number counts."""
    host = small_host()
    create(host, "d2"), create(host, "web"), create(host, "db")
    domains = [DomainInfo(**one) for one in listed(host)]
    for written, name in (("d2", "d2"), ("2", "web"), ("d3", "db"), ("d1", "d2")):
        assert [one.name for one in choose(domains, [written])] == [name]
        assert host.call("info", {"domain": written})["name"] == name
    with pytest.raises(BadRequest):
        choose(domains, ["d4"])
